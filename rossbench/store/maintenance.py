"""What a store holds and for whom, whether that is as it was written, and what nobody needs. No torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..config.specs import AnySpec, AuditSpec, EvaluateSpec, FinetuneSpec, MeasureSpec, PretrainSpec
from ..util.errors import Damaged, RossbenchError, check_known
from ..util.values import read
from .records import RunNote, read_notes
from .store import SUMS, Store, damaged, read_file, read_note, read_state

STAGES: dict[str, type[AnySpec]] = {
    cls.stage: cls for cls in (PretrainSpec, FinetuneSpec, EvaluateSpec, AuditSpec, MeasureSpec)
}
LEFT_OVER = 3600.0
"""Seconds after which a folder that is half written or half deleted is nobody's."""


@dataclass(frozen=True)
class Artifact:
    """One that a store holds."""

    path: Path
    spec: AnySpec
    size: int
    """Bytes of its files."""
    age: float
    """Seconds since it was written."""
    used_by: tuple[str, ...]
    """Scenarios that were run: those whose cells it is, or is a part of."""


@dataclass(frozen=True)
class Holdings:
    """All of a store, as it is when first asked."""

    store: Store
    notes: dict[Path, RunNote]
    """Of the runs that count."""

    @classmethod
    def of(cls, store: Store) -> Holdings:
        """With the notes of all runs. Raises StoreError."""
        return cls(store, dict(read_notes(store)))

    @cached_property
    def specs(self) -> dict[Path, AnySpec]:
        """Of every artifact, by folder, in the order of stages; damaged ones, which are said, left out."""
        found = {path: self.store.intact(read_spec, path) for path in folders(self.store)}
        return {path: spec for path, spec in found.items() if spec is not None}

    @cached_property
    def users(self) -> dict[str, set[str]]:
        """By the key of an artifact, the scenarios that it was made for."""
        users: dict[str, set[str]] = {}
        cells = {spec.key: spec for spec in self.specs.values() if isinstance(spec, (EvaluateSpec, MeasureSpec))}
        for name, key in self._noted:
            for used in cells[key].chain if key in cells else ():
                users.setdefault(used.key, set()).add(name)
        for spec in self.specs.values():
            if isinstance(spec, AuditSpec) and all(cell.key in users for cell in spec.cells):
                users[spec.key] = users[spec.finetune.key]
        return users

    @cached_property
    def unfinished(self) -> bool:
        """Whether a run was to make cells that are not there; what it has made so far is then not to be told."""
        there = {spec.key for spec in self.specs.values()}
        return any(key not in there for _, key in self._noted)

    @cached_property
    def _noted(self) -> list[tuple[str, str]]:
        """(scenario, key) of every cell and measurement that a run was about."""
        noted = [(note.name, cell[-1]) for note in self.notes.values() for cell in note.cells]
        return noted + [(note.name, one[-1]) for note in self.notes.values() for one in note.measures]

    def artifacts(self) -> list[Artifact]:
        now, found = time.time(), []
        for path, spec in self.specs.items():
            stats = [file.stat() for file in path.iterdir()]
            size, written = sum(one.st_size for one in stats), max(one.st_mtime for one in stats)
            users = tuple(sorted(self.users.get(spec.key, ())))
            found.append(Artifact(path, spec, size, now - written, users))
        return sorted(found, key=lambda one: (list(STAGES).index(one.spec.stage), str(one.spec)))

    def of_runs(self, name: str, protocol: str | None = None) -> dict[Path, str]:
        """The notes of a scenario's runs, of one protocol or all, and what is garbage without them: path -> why.

        Raises UnknownName for a name or protocol of which there is none.
        """
        check_known(f"scenario in {self.store.root}", name, {note.name for note in self.notes.values()})
        notes = {path: note for path, note in self.notes.items() if note.name == name}
        if protocol is not None:
            check_known(f"protocol of {name}", protocol, {note.protocol for note in notes.values()})
        chosen = {path: note for path, note in notes.items() if protocol in (None, note.protocol)}
        others = {path: note for path, note in self.notes.items() if path not in chosen}
        rest, known = Holdings(self.store, others), self.garbage()
        found = {path: f"{note.name}, protocol {note.protocol}" for path, note in chosen.items()}
        found |= {path: why for path, why in rest.garbage().items() if path not in known}
        states = [] if rest.unfinished else (self.store.root / "resume").glob("*.pt")
        return found | {path: "of an unfinished stage" for path in states if path not in known}

    def garbage(self) -> dict[Path, str]:
        """What nobody needs: path -> why."""
        root, now = self.store.root, time.time()
        found = dict.fromkeys((root / "damaged").glob("*"), "damaged")
        for path in root.glob("*/.*-*"):
            if now - path.stat().st_mtime > LEFT_OVER:
                found[path] = "left behind by a process that was killed"
        made = {spec.key for spec in self.specs.values()}
        for path in (*(root / "resume").glob("*.pt"), *(root / "locks").glob("*.lock")):
            if path.stem in made:
                found[path] = "of a stage that is done"
        for path, spec in self.specs.items():
            if spec.key not in self.users and not (self.unfinished and isinstance(spec, (PretrainSpec, FinetuneSpec))):
                found[path] = "of no run"
        return found


def folders(store: Store) -> Iterator[Path]:
    """Of all artifacts, in the order of stages."""
    for stage in STAGES:
        yield from sorted(p for p in (store.root / stage).glob("*") if p.is_dir() and p.name[0] != ".")


def read_spec(folder: Path) -> AnySpec:
    """What an artifact says that it is. Damaged if that is not what its folder's name says."""
    try:
        spec: AnySpec = read(STAGES[folder.parent.name], read_file(folder / "spec.json"))
    except Damaged:
        raise
    except RossbenchError as error:  # StoreError where the file is missing
        raise Damaged(f"{folder}: expected the spec of an artifact, got {error}", folder) from error
    if spec.key != folder.name:
        raise Damaged(f"{folder}: expected the artifact of that key, got that of {spec.key}", folder)
    return spec


def verify(store: Store) -> tuple[int, int, list[Damaged]]:
    """Read all of a store: how many artifacts there are, how many of them have no checksums, and what is damaged."""
    artifacts, found = list(folders(store)), []
    checks: list[tuple[Callable[[Path], object], Iterable[Path]]] = [
        (_check_artifact, artifacts),
        (read_note, sorted(store.root.glob("matrices/*.json"))),
        (read_state, sorted(store.root.glob("resume/*.pt"))),
    ]
    for check, paths in checks:
        for path in paths:
            try:
                check(path)
            except Damaged as damage:
                found.append(damage)
    return len(artifacts), sum(not (folder / SUMS).exists() for folder in artifacts), found


def _check_artifact(folder: Path) -> None:
    """That it is what its name says, its files are as they were written, and none is missing."""
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            read_file(path)
    read_spec(folder)
    trained = ("stage.json", "history.jsonl", "weights.safetensors")
    names = {
        "evaluate": ("record.json", "predictions.safetensors"),
        "audit": ("audit.json",),
        "measure": ("measurement.json", "images.safetensors"),
    }
    for name in names.get(folder.parent.name, trained):
        if not (folder / name).exists():
            raise damaged(folder / name, "expected a file, got none")


def remove(path: Path) -> None:
    """Delete a file or a folder of a store."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
