"""The result record of one cell, and where its number comes from. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from ..config.specs import AuditSpec, EvaluateSpec
from ..util.errors import InvalidValue, StoreError, of_file
from ..util.statistics import wilson
from ..util.values import build, expect
from .store import read_json

SCHEMA = 4
AUDIT_SCHEMA = 1
NOTE_SCHEMA = 3
"""Of the notes of runs; see report.tables."""
_ADDED = {2: ("precision", "recall", "f1", "right_by_class"), 3: ("robust_right",), 4: ("wilson95",)}
"""Fields by the schema that brought them; None in what is read from a record of an earlier one."""
VERDICTS = ("pass", "warn", "fail")
_LIBRARIES = ("rossbench", "torch", "torchvision", "lightly", "torchattacks", "timm", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Record:
    """One classifier under one attack. ``docs/records.md`` describes every field."""

    key: str
    spec: dict[str, Any]
    """The EvaluateSpec in full, with its FinetuneSpec and PretrainSpec nested inside."""
    scenario: str
    """For which this cell was computed first."""
    deviations: dict[str, Any]
    """Fields that differ from that registered scenario: name -> [here, registered]."""
    seed: int
    n: int
    classes: int
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
    right_by_class: list[int] | None
    wilson95: dict[str, list[float]] | None
    """95 % score intervals, [low, high] in [0, 1], of top1, top5 and robust, those that are known."""
    seconds: dict[str, float]
    """Wall time of each stage."""
    created: str
    """When, as ISO 8601 in UTC."""
    provenance: dict[str, dict[str, Any]]
    """Of each stage: versions, git commit, device, data."""
    schema: int = SCHEMA

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % Wilson interval of ``top1``, ``top5`` or ``robust``, in [0, 1]; None where the rate is not known."""
        if self.wilson95 is not None:
            low_high = self.wilson95.get(name)
            return (low_high[0], low_high[1]) if low_high else None
        right: int | None = getattr(self, f"{name}_right")
        return None if right is None else wilson(right, self.n)

    def metric(self, name: str) -> float | None:
        """``top1``, ``top5``, ``robust``, ``precision``, ``recall`` or ``f1`` in [0, 1], or ``mcc`` in [-1, 1]."""
        if name in ("top1", "top5", "robust"):
            right: int | None = getattr(self, f"{name}_right")
            return None if right is None else right / self.n
        value: float | None = getattr(self, name)
        return value


@dataclass(frozen=True)
class Verdict:
    """What one check of an audit found; see docs/trust.md."""

    check: str
    verdict: str
    """pass, warn or fail."""
    figure: str
    """What was measured."""
    meaning: str
    """What that means, and what to do."""


@dataclass(frozen=True)
class Audit:
    """All verdicts on one classifier's evaluations under one attack."""

    spec: dict[str, Any]
    """The AuditSpec in full."""
    verdicts: tuple[Verdict, ...]
    images: int
    """In the audited part of the test images."""
    seconds: float
    created: str
    provenance: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The worst of all."""
        found = {one.verdict for one in self.verdicts}
        return next(verdict for verdict in ("fail", "warn", "pass") if verdict in found)

    @property
    def summary(self) -> str:
        """``pass``, or the worst verdict and how many there are of it."""
        count = sum(one.verdict == self.verdict for one in self.verdicts)
        return self.verdict if self.verdict == "pass" else f"{self.verdict} {count}"


_RECORD = get_type_hints(Record) | {"wilson95": dict[str, tuple[float, float]] | None}
_AUDIT = get_type_hints(Audit) | {"verdicts": list[dict[str, str]]}


def read_audit(path: Path) -> Audit:
    """StoreError if the file is no audit, or one of a schema version that is not known."""
    content = read_json(path)
    expected = {field.name for field in fields(Audit)} | {"schema"}
    if not isinstance(content, dict) or content.get("schema") != AUDIT_SCHEMA or set(content) != expected:
        raise StoreError(f"{path}: expected an audit of schema {AUDIT_SCHEMA}")
    with of_file(path):
        expect(content, _AUDIT)
        build(AuditSpec, content["spec"])
        content["verdicts"] = tuple(build(Verdict, one) for one in content["verdicts"])
        found = [one.verdict for one in content["verdicts"]]
        if not found or not set(found) <= set(VERDICTS):
            raise InvalidValue(f"verdicts: expected at least one, each {', '.join(VERDICTS)}, got {found!r:.200}")
    return Audit(**{name: value for name, value in content.items() if name != "schema"})


def read_record(path: Path) -> Record:
    """StoreError if the file is no record, or one of a schema version that is not known."""
    content = read_json(path)
    version = content.get("schema") if isinstance(content, dict) else None
    names = {field.name for field in fields(Record)}
    absent = {name for since in _ADDED if isinstance(version, int) and since > version for name in _ADDED[since]}
    if version not in range(1, SCHEMA + 1) or set(content) != names - absent:
        raise StoreError(f"{path}: expected a record of schema {SCHEMA}, got one of schema {version!r:.50}")
    record = Record(**content | dict.fromkeys(absent))
    with of_file(path):
        expect(vars(record), _RECORD, n=(1, 2**53))
        build(EvaluateSpec, record.spec)
        rights = (record.robust_right, record.top1_right, record.top5_right)
        if any(right is not None and not 0 <= right <= record.n for right in rights):
            raise InvalidValue(f"expected counts of 0 to n, got {rights} of {record.n}")
    return record


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
