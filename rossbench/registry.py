"""Scenarios and suites by name: the built-in ones, those of plug-ins, and those of a user's file.

::

    from rossbench.registry import Scenario, register

    register(Scenario("svhn-to-cifar10", source="svhn", target="cifar10"))
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import runpy
from pathlib import Path
from typing import TypeVar

from .errors import InvalidValue, RossbenchError, UnknownName, unknown
from .scenario import Scenario, Suite
from .scenarios import BUILTIN

__all__ = ["Scenario", "Suite", "get", "load_file", "members", "names", "register", "suites"]

log = logging.getLogger(__name__)
_scenarios: dict[str, Scenario] = {}
_suites: dict[str, Suite] = {}
Entry = TypeVar("Entry", bound=Scenario | Suite)


def register(entry: Entry) -> Entry:
    """Make a scenario or a suite known by its name and return it.

    InvalidValue if the name is taken, UnknownName if a suite names what is not registered.
    """
    if not isinstance(entry, (Scenario, Suite)):
        raise InvalidValue(f"register: expected a Scenario or a Suite, got {entry!r}")
    if entry.name in _scenarios or entry.name in _suites:
        raise InvalidValue(f"{entry.name!r} is registered already; choose another name")
    if isinstance(entry, Suite):
        for name in entry.members:
            if name not in {**_scenarios, **_suites} and name not in [*names(), *_suites]:  # then plug-ins may know it
                raise unknown(f"member of suite {entry.name!r}", name, [*names(), *_suites])
        _suites[entry.name] = entry
    else:
        _scenarios[entry.name] = entry
    return entry


def get(name: str) -> Scenario:
    """The scenario of that name; UnknownName with the nearest names if there is none."""
    if name not in names():
        if name in _suites:
            raise UnknownName(f"{name!r} is a suite, not a scenario; run_suite runs it, members gives its scenarios")
        raise unknown("scenario", name, names())
    return _scenarios[name]


def names() -> list[str]:
    """The names of all scenarios, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(_scenarios)


def suites() -> list[Suite]:
    """All suites, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(_suites.values())


def members(name: str | Suite) -> tuple[Scenario, ...]:
    """The scenarios of a suite, each once, those of suites in it included; or the one scenario of that name.

    UnknownName with the nearest names if there is neither.
    """
    if isinstance(name, Suite):
        return tuple(dict.fromkeys(scenario for member in name.members for scenario in members(member)))
    known = [*names(), *_suites]
    if name not in known:
        raise unknown("scenario or suite", name, known)
    if name in _scenarios:
        return (_scenarios[name],)
    return members(_suites[name])


def load_file(path: Path) -> None:
    """Run a Python file that registers scenarios or suites. InvalidValue if it cannot be read or raises."""
    try:
        runpy.run_path(str(path), run_name="rossbench_scenario_file")
    except RossbenchError as error:
        raise InvalidValue(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise InvalidValue(f"{path}: expected Python that registers scenarios, got {error!r}") from error


@functools.cache
def _load_plugins() -> None:
    """Import what the entry points ``rossbench.scenarios`` name; a broken one warns and stops nothing."""
    for entry in importlib.metadata.entry_points(group="rossbench.scenarios"):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            log.warning("plug-in %s (%s) is left out: %r", entry.name, entry.value, error)


for _entry in BUILTIN:
    register(_entry)
