"""The result record of one cell, and where its number comes from. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from ..config.scenarios import NAME
from ..config.specs import AuditSpec, EvaluateSpec, MeasureSpec
from ..util.errors import check_known, error_context, expect
from ..util.values import Count, Epsilons, Many, NotNegative, Pair, Seed, Share, encode, read, value
from .store import SUMS, Store, read_file

Verdicts = Literal["pass", "warn", "fail"]
"""From the best to the worst."""
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
_Key = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]  # which is a folder's name
_Name = Annotated[str, Field(pattern=f"^{NAME}$")]
_Cell = Annotated[tuple[NotNegative, NotNegative, NotNegative, _Key], Field(strict=False)]
_Measure = Annotated[tuple[NotNegative, NotNegative, _Key], Field(strict=False)]
_Deviation = Pair[Any]
"""A field's value here, and in the registered scenario."""
_COUNTED = ("top1", "top5", "robust")
_METRICS = (*_COUNTED, "mcc", "precision", "recall", "f1")
_Read = TypeVar("_Read")
_LIBRARIES = ("rossbench", "torch", "torchvision", "lightly", "torchattacks", "timm", "torchmetrics", "numpy")


@value
class Record:
    """One classifier under one attack. ``docs/records.md`` describes every field."""

    key: str
    spec: EvaluateSpec
    """With its FinetuneSpec and PretrainSpec nested inside."""
    scenario: str
    """For which this cell was computed first."""
    deviations: dict[str, _Deviation]
    """Fields that differ from that registered scenario: name -> [here, registered]."""
    seed: Seed
    n: Count
    classes: Count
    robust_right: int | None
    """Right without an attack and under it: robust accuracy as leaderboards count it."""
    top1_right: int | None
    """Right under the attack, as the study counts. None, as all below, if not all images were attacked."""
    top5_right: int | None
    mcc: float | None
    precision: float | None
    """Macro, as recall and f1."""
    recall: float | None
    f1: float | None
    right_by_class: Many[int] | None
    wilson95: dict[str, Pair[Share]]
    """95 % score intervals, [low, high] in [0, 1], of top1, top5 and robust, those that are known."""
    seconds: dict[str, float]
    """Wall time of each stage."""
    created: str
    """When, as ISO 8601 in UTC."""
    provenance: dict[str, dict[str, Any]]
    """Of each stage: versions, git commit, device, data."""
    schema: Literal[5] = 5

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {text}" for name, text in self._numbers()[:1])
        return f"<Record {self.spec}, {self.n} images: {told}>"

    def _repr_html_(self) -> str:
        """For a notebook."""
        rows = [("model", str(self.spec)), ("attack", str(self.spec.recipe.attack) if self.spec.epsilon else "none")]
        rows += [("test images", str(self.n)), ("scenario", self.scenario), *self._numbers(), ("key", self.key)]
        cells = (f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
        return f"<table>{''.join(cells)}</table>"

    def _numbers(self) -> list[tuple[str, str]]:
        """Those that are known, in percent with their 95 % intervals, but for MCC."""
        found = []
        for name in _METRICS:
            number, bounds = self.metric(name), self.interval(name)
            if number is not None:
                within = f" % [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else " %"
                found.append((name, f"{number:.3f}" if name == "mcc" else f"{100 * number:.2f}{within}"))
        return found

    @property
    def collapsed(self) -> bool:
        """Whether the pretraining ended at the loss of constant features; see PretrainSpec.is_collapsed."""
        return bool(self.provenance.get("pretrain", {}).get("collapsed"))

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % Wilson interval of ``top1``, ``top5`` or ``robust``, in [0, 1]; None where the rate is not known."""
        return self.wilson95.get(name)

    def __post_init__(self) -> None:
        own = self.spec.key
        expect(self.key == own, "Record.key", f"that of its spec, {own}", f"{self.key!r:.50}")
        rights = (self.robust_right, self.top1_right, self.top5_right)
        are_counts = all(right is None or 0 <= right <= self.n for right in rights)
        expect(are_counts, "Record", "counts of 0 to n", f"{rights} of {self.n}")

    def metric(self, name: str) -> float | None:
        """``top1``, ``top5``, ``robust``, ``precision``, ``recall`` or ``f1`` in [0, 1], or ``mcc`` in [-1, 1].

        None where it is not known, as all but ``robust`` are where not all images were attacked. Raises UnknownName.
        """
        check_known("metric", name, _METRICS)
        number: float | None = getattr(self, f"{name}_right" if name in _COUNTED else name)
        return number / self.n if number is not None and name in _COUNTED else number


@value
class Verdict:
    """What one check of an audit found; see docs/trust.md."""

    check: str
    verdict: Verdicts
    figure: str
    """What was measured."""
    meaning: str
    """What that means, and what to do."""


@value
class Audit:
    """All verdicts on one classifier's evaluations under one attack."""

    spec: AuditSpec
    verdicts: Annotated[tuple[Verdict, ...], Field(strict=False, min_length=1)]
    images: int
    """In the audited part of the test images."""
    seconds: float
    created: str
    provenance: dict[str, Any]
    schema: Literal[5] = 5

    @property
    def verdict(self) -> str:
        """The worst of all."""
        return max((one.verdict for one in self.verdicts), key=get_args(Verdicts).index)

    @property
    def summary(self) -> str:
        """``pass``, or the worst verdict and how many there are of it."""
        count = sum(one.verdict == self.verdict for one in self.verdicts)
        return self.verdict if self.verdict == "pass" else f"{self.verdict} {count}"


@value
class Measurement:
    """One model by one evaluation kind."""

    spec: MeasureSpec
    """With its kind, its columns and the specs of the model nested inside."""
    n: Count
    """Test images."""
    rows: dict[str, Many[float | None]]
    """By title, a number for each column; None where it is not defined."""
    summary: dict[str, float | None]
    """By title, a number for all columns together."""
    seconds: float
    created: str
    provenance: dict[str, Any]
    schema: Literal[5] = 5

    def __post_init__(self) -> None:
        count = len(self.spec.columns)
        for title, row in self.rows.items():
            expect(len(row) == count, f"Measurement: {title}", f"{count} numbers, one a column", len(row))


@value
class RunNote:
    """Which cells a run was about, and how it differs from the registered scenario; see results.load."""

    name: _Name
    source: _Name
    target: _Name
    protocol: _Hash
    family: _Hash
    """What runs of other seeds under the same protocol have too."""
    seed: Seed
    deviations: dict[str, _Deviation]
    registered_seed: Seed
    registered_rows: Many[Pair[float]]
    registered_columns: Epsilons
    cells: Many[_Cell] = ()
    """Epsilons of pretraining, finetuning and evaluation, and the key of the evaluation."""
    measures: Many[_Measure] = ()
    """Epsilons of pretraining and finetuning, and the key of a measurement."""
    zoo: str = ""
    """The known encoder that the weights were said to be; see registry.encoder."""
    encoder_name: str = ""
    """Empty where none was given; weights and named are then empty too."""
    weights: str = ""
    """Of a named encoder that was given, as Scenario.weights."""
    named: str = ""
    """When it was, as ISO 8601 in UTC: the newest name counts."""
    schema: Literal[5] = 5

    def encoded(self) -> bytes:
        """For the store. What is empty is left out, so a field that is added later changes no earlier note's file."""
        return encode({name: item for name, item in asdict(self).items() if item not in ("", ())})


def names_of_encoders(notes: Iterable[RunNote]) -> dict[str, RunNote]:
    """The note with the newest name of each encoder: by the hash of given weights, or by scenario and family."""
    named = sorted((note for note in notes if note.encoder_name), key=lambda note: note.named)
    return {place_of_name(note): note for note in named}


def place_of_name(note: RunNote) -> str:
    return note.weights or f"{note.name}-{note.family}"


def _read(cls: type[_Read], path: Path) -> _Read:
    """Raises StoreError if the file is none, Damaged if it is not as it was written."""
    found: _Read = _read_once(cls, path, _state(path))  # type: ignore[arg-type]  # mypy takes a class's hash for its own
    return found


read_audit = functools.partial(_read, Audit)
read_measurement = functools.partial(_read, Measurement)
read_record = functools.partial(_read, Record)


@functools.lru_cache(maxsize=10_000)
def _read_once(cls: type, path: Path, state: object) -> Any:
    """A run, its audit and its table ask for the same records: each is read again only when its files have changed."""
    with error_context(path):
        return read(cls, read_file(path))


def _state(path: Path) -> tuple[tuple[int, ...] | None, ...]:
    """What tells whether a file, or the checksums beside it, was written since it was looked at last."""
    found: list[tuple[int, ...] | None] = []
    for one in (path, path.parent / SUMS):
        try:
            known = one.stat()
            found.append((known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns))
        except OSError:  # which reading explains
            found.append(None)
    return tuple(found)


def read_notes(store: Store) -> Iterator[tuple[Path, RunNote]]:
    """The notes of all runs into a store and their files, ordered by scenario and protocol. Raises StoreError."""
    for path, content in store.notes():
        with error_context(path):
            yield path, read(RunNote, content)


def provenance(device: str, dtype: str, threads: int, deterministic: bool) -> dict[str, Any]:
    """What can change a result and is in no spec, as it is now: ask before the work, not after it."""
    commit, dirty = _git()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "deterministic": deterministic,
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


@functools.cache
def _git() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout that holds this very file; None, None for an installed copy."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else the checkout around a virtual environment would answer
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
