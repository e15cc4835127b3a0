"""Scenarios and suites by name: the built-in ones, those of plug-ins, and those of a user's file.

::

    from rossbench.registry import Scenario, register

    register(Scenario("svhn-to-cifar10", source="svhn", target="cifar10"))

Data sets of a user's own, folders of images, and attacks are made known here too.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import re
import runpy
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from .attacks.table import ATTACKS, AttackFunction, AttackKind, kind, user_kind
from .config.builtin import BUILTIN
from .config.kinds import ATTACK, KINDS, KindFunction, KindRow, kind_of, user_row
from .config.known_encoders import KNOWN_ENCODERS
from .config.scenarios import NAME, NAMED, Scenario, Suite
from .config.zoo import KnownEncoder, PublishedNumbers
from .data import datasets
from .util.errors import InvalidValue, RossbenchError, UnknownName, check_known, expect, one_line
from .util.signals import Interrupted

__all__ = [
    "KnownEncoder",
    "PublishedNumbers",
    "Scenario",
    "Suite",
    "encoder",
    "encoders",
    "get",
    "load_file",
    "members",
    "names",
    "register",
    "register_attack",
    "register_encoder",
    "register_folder",
    "register_kind",
    "suites",
]

log = logging.getLogger(__name__)
_scenarios: dict[str, Scenario] = {}
_suites: dict[str, Suite] = {}
_encoders = {one.name: one for one in KNOWN_ENCODERS}
Entry = TypeVar("Entry", bound=Scenario | Suite)


def register(entry: Entry) -> Entry:
    """Make a scenario or a suite known by its name and return it.

    InvalidValue if the name is taken, UnknownName if a suite names what is not registered.
    """
    if not isinstance(entry, (Scenario, Suite)):
        raise InvalidValue(f"register: expected a Scenario or a Suite, got {entry!r}")
    _check_free("", entry.name, {**_scenarios, **_suites})
    if isinstance(entry, Suite):
        for name in entry.members:
            if name not in {**_scenarios, **_suites}:  # then plug-ins may know it
                check_known(f"member of suite {entry.name!r}", name, _all())
        _suites[entry.name] = entry
    else:
        _scenarios[entry.name] = entry
    return entry


def register_attack(name: str, function: AttackFunction) -> AttackFunction:
    """Make an attack of your own known: scenarios may name it, ``--attack`` too. InvalidValue if the name is taken.

    ``function(model, images, labels, epsilon, attack)`` is given a classifier of images in [0, 1] that returns logits,
    images float [n, 3, size, size], labels int64 [n], a radius above 0 and the ``rossbench.Attack`` with its norm and
    settings; it returns images within the radius, in [0, 1], which is checked. Python's, NumPy's and
    torch's global generators are seeded for it. Results are stored under the name alone: a function that has changed
    needs another.
    """
    _check_new("attack", name, ATTACKS)
    expect(callable(function), f"attack {name!r}", "a function", f"{function!r}")
    ATTACKS[name] = user_kind(name, function)
    return function


def register_kind(
    name: str,
    function: KindFunction,
    *,
    columns: Iterable[float] | None = None,
    over: str = "column",
    needs_head: bool = True,
) -> KindFunction:
    """Make an evaluation kind of your own known, to ``run --kind``. InvalidValue if the name is taken.

    ``function(subject)`` is given a ``rossbench.stages.kinds.subject.Subject``: frozen models of images in [0, 1], test
    images and labels, and the columns; it returns a dictionary, title of a row -> a number for each column, or a
    ``Found`` with more. Titles that end in "(%)" are of percentages. ``columns``: ascending numbers, and ``over`` what
    they are; None: the scenario's evaluation epsilons. ``needs_head``: whether it looks at a finetuned classifier;
    else nothing is finetuned for it. torch's global generators are seeded for it. Results are stored under name and
    columns alone: a function that has changed needs another name.
    """
    _check_new("evaluation kind", name, [ATTACK, *KINDS])
    expect(callable(function), f"kind {name!r}", "a function", f"{function!r}")
    own = {} if columns is None else {"columns": tuple(map(float, columns)), "over": over}
    KINDS[name] = user_row(name, function, needs_head=needs_head, **own)
    return function


def register_folder(name: str, path: Path | str, *, size: int) -> datasets.DatasetInfo:
    """Make a folder of images known as a data set, by its name; InvalidValue if it is none or the name is taken.

    ``path`` holds ``train/CLASS/...`` and ``test/CLASS/...`` (or ``val/CLASS/...``), as torchvision's ImageFolder reads
    them. Images are resized so that the shorter side has ``size`` pixels, and the centre is cropped. The folder is
    listed now, and read when it is needed. Results are stored under the name alone: other images, or another size, need
    another name. Returns what is known of it: classes and counts.
    """
    _check_new("data set", name, datasets.DATASETS)
    try:
        datasets.DATASETS[name] = datasets.folder_info(Path(path).expanduser().absolute(), size)
    except (TypeError, ValueError, RuntimeError) as error:  # no path, or a home that is not known
        raise InvalidValue(one_line(f"data set {name!r}: {error}")) from error
    return datasets.DATASETS[name]


def register_encoder(entry: KnownEncoder) -> KnownEncoder:
    """Make a published encoder known, to ``rossbench zoo`` and ``run --zoo``. InvalidValue if the name is taken.

    Its files stay where they are: ``--encoder-weights`` says where.
    """
    expect(isinstance(entry, KnownEncoder), "register_encoder", "a KnownEncoder", f"{entry!r:.200}")
    _check_free("encoder ", entry.name, _encoders)
    _encoders[entry.name] = entry
    return entry


def encoders() -> list[KnownEncoder]:
    """All known encoders, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(_encoders.values())


def encoder(name: str) -> KnownEncoder:
    """The known encoder of that name, plug-ins included; UnknownName with the nearest names if there is none."""
    check_known("encoder of the zoo", name, [one.name for one in encoders()])
    return _encoders[name]


def _check_new(what: str, name: str, known: Collection[str]) -> None:
    expect(isinstance(name, str) and re.fullmatch(NAME, name), f"{what} name", NAMED, f"{name!r}")
    _check_free(f"{what} ", name, known)


def _check_free(what: str, name: str, known: Collection[str]) -> None:
    if name in known:
        raise InvalidValue(f"{what}{name!r} is registered already; choose another name")


def attack(name: str) -> AttackKind:
    """The attack of that name, plug-ins included; UnknownName with the nearest names if there is none."""
    _load_plugins()
    return kind(name)


def kinds() -> list[KindRow]:
    """All evaluation kinds but the attack, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(KINDS.values())


def check_kind(text: str) -> None:
    """UnknownName or InvalidValue for what is no evaluation kind with settings, such as ``knn,neighbours=20``."""
    if text != ATTACK:
        _load_plugins()
        kind_of(text, "L2")


def get(name: str) -> Scenario:
    """The scenario of that name; UnknownName with the nearest names if there is none."""
    known = names()
    if name in [*_suites]:
        raise UnknownName(f"{name!r} is a suite, not a scenario; run_suite runs it, members gives its scenarios")
    check_known("scenario", name, known)
    return _scenarios[name]


def names() -> list[str]:
    """The names of all scenarios, in the order of registration, plug-ins included."""
    _load_plugins()
    return list(_scenarios)


def _all() -> list[str]:
    """Of suites too."""
    return [*names(), *_suites]


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
    check_known("scenario or suite", name, _all())
    return (_scenarios[name],) if name in _scenarios else members(_suites[name])


def load_file(path: Path) -> None:
    """Run a Python file that registers scenarios or suites.

    InvalidValue if it cannot be read, raises, or leaves settings of torch changed, such as gradients off. The working
    folder is afterwards as before.
    """
    try:
        with contextlib.chdir("."):  # the store, and what else is given, is found from where the command was started
            runpy.run_path(str(path), run_name="rossbench_scenario_file")
        _check_torch()
    except RossbenchError as error:
        raise InvalidValue(f"{path}: {error}") from error
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # the user's own code may raise anything
        with contextlib.suppress(InvalidValue):
            _check_torch()
        raise InvalidValue(f"{path}: expected Python that registers scenarios, got {error!r}") from error


def _check_torch() -> None:
    """Put back torch's settings without which no run is right, and raise InvalidValue if one was changed."""
    if sys.modules.get("torch") is not None:  # it is not loaded for this
        from .util.torch_settings import check_settings

        check_settings(put_back=True)


def own() -> list[dict[str, Any]]:
    """What was registered beside the built-in, folders of images too: for other processes; see adopt."""
    tables = zip(_tables(), _BUILTIN, strict=True)
    return [{name: row for name, row in table.items() if name not in known} for table, known in tables]


def adopt(registered: list[dict[str, Any]]) -> None:
    """Register what another process had registered, where it is not known yet."""
    _load_plugins()
    for table, rows in zip(_tables(), registered, strict=True):
        for name, row in rows.items():
            table.setdefault(name, row)


def _tables() -> tuple[dict[str, Any], ...]:
    """Of what a stage may need to be known."""
    return KINDS, datasets.DATASETS, _scenarios, ATTACKS


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
_BUILTIN = [{*table} for table in _tables()]
