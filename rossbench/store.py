"""Artifacts on disk, each a folder named by its spec's key, whole or not there. No torch: bytes in, bytes out.

::

    <root>/pretrain/<key>/   spec.json  stage.json  history.jsonl  weights.safetensors
    <root>/finetune/<key>/   the same
    <root>/evaluate/<key>/   spec.json  record.json  predictions.safetensors
    <root>/audit/<key>/      spec.json  audit.json
    <root>/resume/<key>.pt   what an unfinished stage needs to go on
    <root>/matrices/<name>-<protocol>-<run>.json   which cells a run was about
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import StoreError
from .specs import AnySpec, AuditSpec


class Store:
    """A folder of artifacts. Nothing is created before the first write."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, spec: AnySpec) -> Path:
        return self.root / spec.stage / spec.key

    def __contains__(self, spec: AnySpec) -> bool:
        return self.path(spec).is_dir()

    def write(self, spec: AnySpec, files: Mapping[str, bytes]) -> None:
        """Add an artifact: all its files appear at once. One that is there already is left as it is."""
        final = self.path(spec)
        with _one_line_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=final.parent))
            try:
                for name, content in {"spec.json": encode(asdict(spec)), **files}.items():
                    _write_synced(staging / name, content)
                staging.chmod(0o755)  # mkdtemp's folders are their owner's alone
                with contextlib.suppress(FileExistsError):  # another process was first
                    _rename_folder(staging, final)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            self.resume_path(spec).unlink(missing_ok=True)

    def read(self, spec: AnySpec, name: str) -> bytes:
        path = self.path(spec) / name
        with _one_line_errors(path):
            return path.read_bytes()

    def resume_path(self, spec: AnySpec) -> Path:
        return self.root / "resume" / f"{spec.key}.pt"

    def discard(self, spec: AnySpec) -> None:
        """Take an artifact away, if it is there."""
        path = self.path(spec)
        if path.exists():
            with _one_line_errors(path):
                doomed = Path(tempfile.mkdtemp(prefix=".discarded-", dir=path.parent))
                os.rename(path, doomed / path.name)  # at once: deleting takes time
                shutil.rmtree(doomed)

    def write_matrix(self, name: str, protocol: str, content: dict[str, Any]) -> None:
        """Note which cells a run is about. Runs do not share files, so two at once do not lose each other's."""
        body = encode(content)
        run = hashlib.sha256(body).hexdigest()[:8]
        write_atomically(self.root / "matrices" / f"{name}-{protocol}-{run}.json", body)

    def matrices(self) -> Iterator[tuple[Path, Any]]:
        """The notes of all runs into this store, ordered by file name, so by scenario and protocol."""
        for path in sorted((self.root / "matrices").glob("*.json")):
            yield path, read_json(path)

    def audit_path(self, spec: AuditSpec) -> Path:
        return self.path(spec) / "audit.json"

    def record_path(self, key: str) -> Path:
        return self.root / "evaluate" / key / "record.json"


def encode(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """A JSON file's content; StoreError if it cannot be read or is not JSON."""
    with _one_line_errors(path):
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise StoreError(f"{path}: expected JSON, got {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """The file has either its old content or all of the new one, whenever the machine stops."""
    with _one_line_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        os.close(handle)
        try:
            _write_synced(Path(name), content)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _rename_folder(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError:
        if target.is_dir():
            raise FileExistsError(target) from None
        raise


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"store: {error.strerror or error} ({error.filename or path})") from error
