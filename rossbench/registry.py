"""Scenarios by name: the built-in ones, those of plug-ins, and those of a user's file.

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

from .errors import InvalidValue, RossbenchError, unknown
from .scenario import Scenario
from .scenarios import BUILTIN

__all__ = ["Scenario", "get", "load_file", "names", "register"]

log = logging.getLogger(__name__)
_scenarios: dict[str, Scenario] = {}


def register(scenario: Scenario) -> Scenario:
    """Make a scenario known by its name and return it. InvalidValue if the name is taken."""
    if not isinstance(scenario, Scenario):
        raise InvalidValue(f"register: expected a Scenario, got {scenario!r}")
    if scenario.name in _scenarios:
        raise InvalidValue(f"scenario {scenario.name!r} is registered already; choose another name")
    _scenarios[scenario.name] = scenario
    return scenario


def get(name: str) -> Scenario:
    """The scenario of that name; UnknownName with the nearest names if there is none."""
    if name not in names():
        raise unknown("scenario", name, names())
    return _scenarios[name]


def names() -> list[str]:
    """All names, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(_scenarios)


def load_file(path: Path) -> None:
    """Run a Python file that registers scenarios. InvalidValue if it cannot be read or raises."""
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


for _scenario in BUILTIN:
    register(_scenario)
