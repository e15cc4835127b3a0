"""Artifacts on disk, each a folder named by its spec's key, whole or not there. No torch: bytes in, bytes out.

::

    <root>/FORMAT            the number of the format, 5
    <root>/pretrain/<key>/   spec.json  stage.json  history.jsonl  weights.safetensors  SHA256SUMS
    <root>/finetune/<key>/   the same
    <root>/evaluate/<key>/   spec.json  record.json  predictions.safetensors  SHA256SUMS
    <root>/audit/<key>/      spec.json  audit.json  SHA256SUMS
    <root>/measure/<key>/    spec.json  measurement.json  images.safetensors  SHA256SUMS
    <root>/resume/<key>.pt   what an unfinished stage needs to go on
    <root>/matrices/<name>-<protocol>-<run>.json   which cells a run was about
    <root>/locks/<key>.lock  who builds it
    <root>/damaged/          what was found not to be as it was written
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..config.specs import AnySpec, AuditSpec, FinetuneSpec
from ..util.errors import Damaged, InvalidValue, StoreError
from ..util.locks import Locks
from ..util.signals import defer_signals
from ..util.values import encode

log = logging.getLogger(__name__)
Read = TypeVar("Read")
SUMS = "SHA256SUMS"
"""As sha256sum writes and checks it."""
FORMAT = "5"
"""Of all that is in a store; no other is read."""


class Store:
    """A folder of artifacts. Nothing is created before the first write."""

    def __init__(self, root: Path | str) -> None:
        """Raises StoreError for a store that another version of rossbench has written in another format."""
        if not isinstance(root, (str, Path)):
            raise InvalidValue(f"store: expected the path of a folder, got {root!r:.200}")
        self.root = Path(os.path.expanduser(root))
        self.locks, self._format = Locks(self.root / "locks"), self.root / "FORMAT"
        with _one_line_errors(self.root):
            if self._format.exists():
                found = self._format.read_text(errors="replace").strip()
            else:  # before there were formats
                found = "1 to 4" if any((self.root / name).is_dir() for name in ("matrices", "pretrain")) else FORMAT
        if found != FORMAT:
            raise StoreError(
                f"store {self.root}: expected format {FORMAT}, got {found:.20}, which another version of rossbench "
                "wrote; give another folder as --store, or use that version"
            )

    @property
    def exists(self) -> bool:
        """Whether anything was ever written to it."""
        return self._format.exists()

    def _claim(self) -> None:
        """Say which format the store has, before anything is written into it."""
        if not self._format.exists():
            write_atomically(self._format, f"{FORMAT}\n".encode())

    def path(self, spec: AnySpec) -> Path:
        return self.root / spec.stage / spec.key

    def __contains__(self, spec: AnySpec) -> bool:
        with _one_line_errors(self.path(spec)):
            return self.path(spec).is_dir()

    def missing(self, wanted: Sequence[AnySpec]) -> list[AnySpec]:
        """What has to be built, parents first: what is not there, what that is made from, and heads of encoders that
        are not there, since the next encoder may not be the one they fit."""
        lacking = [spec for spec in wanted if spec not in self]
        lineage = dict.fromkeys(made for spec in lacking for made in (*spec.parents, spec))
        return [made for made in lineage if made not in self or self.is_stale(made)]

    def is_stale(self, spec: AnySpec) -> bool:
        """Whether what it was made from is gone, so that it has to be made again."""
        return isinstance(spec, FinetuneSpec) and spec.pretrain not in self

    def write(self, spec: AnySpec, files: Mapping[str, bytes]) -> None:
        """Add an artifact: all its files appear at once. One that is there already is left as it is."""
        final = self.path(spec)
        self._claim()
        files = {"spec.json": encode(spec), **files}
        sums = "".join(f"{_digest(content)}  {name}\n" for name, content in files.items())
        with defer_signals(), _one_line_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=final.parent))
            try:
                for name, content in {**files, SUMS: sums.encode()}.items():
                    _write_synced(staging / name, content)
                staging.chmod(0o755)  # mkdtemp's folders are their owner's alone
                try:
                    os.rename(staging, final)
                except OSError:
                    if not final.is_dir():  # else another process was first
                        raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            _sync_folder(final.parent)
            self.resume_path(spec).unlink(missing_ok=True)

    def read(self, spec: AnySpec, name: str) -> bytes:
        """A file of an artifact; see read_file."""
        return read_file(self.path(spec) / name)

    def resume_path(self, spec: AnySpec) -> Path:
        return self.root / "resume" / f"{spec.key}.pt"

    def discard(self, spec: AnySpec) -> None:
        """Take an artifact away, if it is there."""
        path = self.path(spec)
        if path.exists():
            with defer_signals(), _one_line_errors(path):
                doomed = Path(tempfile.mkdtemp(prefix=".discarded-", dir=path.parent))
                os.rename(path, doomed / path.name)  # at once: deleting takes time
                shutil.rmtree(doomed)

    def set_aside(self, damage: Damaged) -> bool:
        """Say what is damaged and move it out of the way, so that it is built again; False if it cannot be moved."""
        folder, place = self.root / "damaged", damage.place
        try:
            with defer_signals():
                folder.mkdir(exist_ok=True)
                target = Path(tempfile.mkdtemp(prefix=f"{place.parent.name}-", dir=folder)) / place.name
                with contextlib.suppress(FileNotFoundError):  # another process has done it
                    os.rename(place, target)
        except OSError as error:
            log.warning("%s; left where it is, and out of what is shown: %s", damage, error.strerror)
            return False
        log.warning("%s; set aside in %s, to be built again when it is needed", damage, target.parent)
        return True

    def write_note(self, name: str, protocol: str, body: bytes) -> None:
        """Note which cells a run is about. Runs do not share files, so two at once do not lose each other's."""
        path = self.root / "matrices" / f"{name}-{protocol}-{_run_of(body)}.json"
        if not path.exists():  # so a finished scenario can be had from a store that cannot be written to
            self._claim()
            write_atomically(path, body)

    def notes(self) -> Iterator[tuple[Path, bytes]]:
        """The notes of all runs into this store, ordered by file name, so by scenario and protocol.

        One that is not what was written, which its name is a hash of, is set aside.
        """
        for path in sorted((self.root / "matrices").glob("*.json")):
            note = self.intact(read_note, path)
            if note is not None:
                yield path, note

    def intact(self, read: Callable[[Path], Read], path: Path) -> Read | None:
        """What is read from a file; None if it is damaged, which is then set aside."""
        try:
            return read(path)
        except Damaged as damage:
            self.set_aside(damage)
            return None

    def audit_path(self, spec: AuditSpec) -> Path:
        return self.path(spec) / "audit.json"

    def measurement_path(self, key: str) -> Path:
        return self.root / "measure" / key / "measurement.json"

    def record_path(self, key: str) -> Path:
        return self.root / "evaluate" / key / "record.json"


def read_file(path: Path) -> bytes:
    """A file's bytes. Damaged if they are not those of the checksums beside it; StoreError if it cannot be read."""
    with _one_line_errors(path):
        sums = path.parent / SUMS
        said = sums.read_bytes().decode(errors="replace").split("\n") if sums.exists() else None
        if said is not None and not path.exists():
            raise Damaged(f"{path}: expected a file, got none", path.parent)
        content = path.read_bytes()
        if said is not None and f"{_digest(content)}  {path.name}" not in said:
            raise Damaged(f"{path}: expected the SHA-256 that {SUMS} says, got another", path.parent)
        return content


def read_json(path: Path) -> Any:
    """A JSON file's content; Damaged if it is not JSON, and see read_file."""
    try:
        return json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"expected JSON, got {error}") from error


def read_note(path: Path) -> bytes:
    """The content of a run's note; Damaged if it is not what its name ends in a hash of."""
    content = read_file(path)
    if not path.stem.endswith(_run_of(content)):
        raise Damaged(f"{path}: expected what its name ends in a hash of, got something else", path)
    return content


def read_state(path: Path) -> bytes:
    """A resume state's bytes, a zip archive; Damaged if one of its checksums, which torch ignores, is not right."""
    content = read_file(path)
    try:
        broken = zipfile.ZipFile(io.BytesIO(content)).testzip()
    except Exception as error:  # zipfile has many words for a damaged file
        raise Damaged(f"{path}: expected an archive, got {error!r}", path) from error
    if broken is not None:
        raise Damaged(f"{path}: expected the checksum of {broken}, got another", path)
    return content


def damaged(path: Path, what: str) -> Damaged:
    """That a file is not what was written; what is lost with it is its artifact, if it is in one."""
    return Damaged(f"{path}: {what}", path.parent if (path.parent / "spec.json").exists() else path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run_of(note: bytes) -> str:
    return _digest(note)[:8]


def write_atomically(path: Path, content: bytes) -> None:
    """The file has either its old content or all of the new one, whenever the machine stops."""
    with defer_signals(), _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        os.close(handle)
        try:
            _write_synced(Path(name), content)
            os.chmod(name, 0o644)  # mkstemp's files are their owner's alone, and stores are shared
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """So that a rename in it outlives a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"store: {error.strerror or error} ({error.filename or path})") from error
