"""Checkpoints of encoders that were trained elsewhere: files, of which no code is ever run, and timm's own sources."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import hashlib
import logging
import os
import pathlib
import pickle
import re
import types
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.serialization import safe_globals

from ..util.errors import InvalidValue, RossbenchError, one_line
from ..util.values import read as read_value
from ..util.values import value
from . import dialects, encoders
from .dialects import EXPORTED
from .pretrained import NONE, RGB, Normalization, PretrainedEncoder, given

SOURCES = ("hf-hub:", "local-dir:")
"""What timm calls models that bring their architecture, mean and std with them."""
_UNREACHABLE = re.compile(r"offline|connect|timed? ?out|resolve|network|LocalEntryNotFound|MaxRetry", re.IGNORECASE)


def read(
    source: str,
    name: str,
    size: int,
    normalization: Normalization | None = None,
    *,
    bn: str | None = None,
    prefix: str | None = None,
    sha256: str = "",
) -> PretrainedEncoder:
    """The encoder of a file, or of timm's ``hf-hub:...`` or ``local-dir:...``, for images of ``size`` pixels square.

    ``name``: the architecture, see encoders.build. ``normalization``: None for the file's own, or none. ``bn``: clean
    or adversarial, of an encoder with several BatchNorms; adversarial if it is None, and then the clean ones are kept
    beside them (encoders.DualBatchNorm2d). ``prefix``: of the encoder's names, where the file has several encoders.
    ``sha256``: of the file, 64 hex digits; empty where it is not known. All five are for files alone.

    Raises InvalidValue when the source cannot be read, holds NaN, is not the whole of that encoder, has another hash,
    or leaves open what is meant.
    """
    if source.startswith(SOURCES):
        return _from_timm(source, size)
    path = Path(source)
    with _about(path.name):
        content = _content(path)
        found = hashlib.sha256(path.read_bytes()).hexdigest() if sha256 else ""
        if found != sha256:
            got = f"{found}: another file; without --zoo it is read as it is"
            raise InvalidValue(f"expected a file of SHA-256 {sha256}, got {got}")
    encoder = encoders.build(name, size, seed=0)
    with _about(path.name):
        fit = dialects.fit(name, encoder.backbone, content, normalization, bn, prefix)
    encoders.add_clean_branches(encoder.backbone, fit.tensors)
    encoder.backbone.load_state_dict(fit.tensors, strict=False)  # all but counters, as fit has seen to
    return given(name, encoder, fit.normalization or NONE, {"from": path.name, **fit.account})


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """What is refused within is said of a file or a folder."""
    try:
        yield
    except RossbenchError as error:
        raise InvalidValue(f"{name}: {error}") from error


def _from_timm(source: str, size: int) -> PretrainedEncoder:
    """Built and loaded by timm with its classifier, which makes timm check every name, and then without it."""
    base = Path(source).name
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells every try
    try:
        config = timm.create_model(source, pretrained=False).pretrained_cfg
        resized = {"img_size": size} if config.get("fixed_input_size") else {}
        model = timm.create_model(source, pretrained=True, **resized)
        model.reset_classifier(0)
    except Exception as error:  # timm, the hub and the network have many words for what is not there
        if source.startswith("hf-hub:") and _UNREACHABLE.search(f"{type(error).__name__} {error}"):
            raise InvalidValue(
                f"{source}: expected to reach the Hugging Face hub, got no connection; where there is one, save the "
                "model with timm.models.save_for_hf and give local-dir:FOLDER here"
            ) from error
        raise InvalidValue(f"{base}: expected a model that timm can load, got {one_line(str(error))[:200]}") from error
    name = str(config["architecture"])
    encoder = encoders.build(name, size, seed=0)
    with _about(base):
        fit = dialects.fit(name, encoder.backbone, model.state_dict())
    encoder.backbone.load_state_dict(fit.tensors, strict=False)
    probe = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.allclose(encoder.backbone.eval()(probe), model.eval()(probe), rtol=1e-3, atol=1e-4)
    if not same:  # arguments in its configuration that change no shape, such as another activation
        raise InvalidValue(f"{base}: expected timm's {name} as it is, got one that its configuration changes")
    normalization = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
    return given(name, encoder, normalization, {"from": base, **fit.account})  # type: ignore[arg-type]


# --- files -------------------------------------------------------------------------------------------------


_NUMPY = (np._core.multiarray._reconstruct, np._core.multiarray.scalar)  # type: ignore[attr-defined]
_PATHS = (pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
_HARMLESS: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace, frozenset, range, slice, decimal.Decimal, uuid.UUID),
    *(int, float, str, bool, list, dict, set, tuple),  # what a defaultdict would make
    # A plain dictionary, as torch fills no defaultdict, and a plain list.
    *((lambda *_: {}, "collections.defaultdict"), (lambda items=(), *_: list(items), "collections.deque")),
    *(datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone),
    *(np.ndarray, np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)),
    *((one, f"numpy.{core}.multiarray.{one.__name__}") for one in _NUMPY for core in ("core", "_core")),
    # Paths of another system, which cannot be made here, are pure ones.
    *((one, f"{module}.{name}") for one in _PATHS for module in ("pathlib", "pathlib._local")
      for name in (one.__name__, one.__name__.removeprefix("Pure"))),
]  # fmt: skip
"""What may stand beside weights, as it runs nothing, besides what torch allows."""


def _content(path: Path) -> Any:
    """What was saved in a file, of tensors and harmless values; InvalidValue says what else a file is."""
    if os.path.isdir(path):  # which no name is too long for
        raise InvalidValue(f"expected a file of weights, got {_folder(path)}")
    expected, head = "weights, written by torch.save or as .safetensors", b""
    cause: Exception | None = None
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 10**8:
            return load_file(path) | _exported(path)
        kind = _kind(path, head)
        if not kind:
            with warnings.catch_warnings(action="ignore"), safe_globals(_HARMLESS), path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except RossbenchError:
        raise
    except SafetensorError as error:
        expected, kind, cause = "safetensors", f"a damaged file of {path.stat().st_size} bytes: {error}", error
    except OSError as error:
        expected, kind, cause = "a file that can be read", error.strerror or str(error), error
    except Exception as error:  # torch has many words for what is no checkpoint
        kind, cause = _refused(str(error), isinstance(error, pickle.UnpicklingError), head), error
    raise InvalidValue(f"expected {expected}, got {kind}") from cause


@value
class _Normalization:
    mean: Annotated[RGB, Field(strict=False)]
    std: Annotated[RGB, Field(strict=False)]


@value
class _Exported:
    """What ``rossbench export`` says of an encoder in the metadata of its file, as far as it is read here."""

    encoder: str
    normalization: _Normalization


def _exported(path: Path) -> dict[str, Any]:
    """That, as a part of the file's content; nothing for a file of another origin."""
    with safe_open(path, "pt") as file:
        said = file.metadata() or {}
    if EXPORTED not in said:
        return {}
    facts = ", ".join(f'"{field.name}": {said.get(field.name, "null")}' for field in fields(_Exported))
    return {EXPORTED: asdict(read_value(_Exported, f"{{{facts}}}"))}


_ZIP = b"PK\x03\x04"
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's own number at the start of its files before version 1.6


def _refused(said: str, by_pickle: bool, head: bytes) -> str:
    """Why torch has not read what looks like its file."""
    code = re.search(r"GLOBAL ([\w.]+\w)\b", said) or re.search(r"(?:call|class|object) ([\w.]+\.\w+)", said)
    of_torch = head.startswith(_ZIP) or _LEGACY in head
    if code or (by_pickle if of_torch else head[:1] == b"\x80"):
        what = f"code, {code[1]}" if code else "other things"
        return f"a pickle of {what}, which is not run; save model.state_dict() alone"
    return "a damaged file, or one that was cut; its download may not have ended" if of_torch else "another file"


_KINDS = {
    rb"\Z": "an empty file",
    rb"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch that with git lfs pull",
    rb"\x89HDF\r\n": "HDF5, as Keras writes it",
    rb"\x93NUMPY": "an array of NumPy (.npy)",
    rb"GGUF": "GGUF",
    rb"\x1f\x8b": "a gzip archive; unpack it first",
    rb"BZh": "a bzip2 archive; unpack it first",
    rb"\xfd7zXZ\0": "an xz archive; unpack it first",
    rb"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it first",
    rb"7z\xbc\xaf": "a 7z archive; unpack it first",
    rb"Rar!": "a RAR archive; unpack it first",
    rb".{257}ustar": "a tar archive; unpack it first",
    rb"\x89PNG|\xff\xd8\xff": "an image",
    rb"%PDF": "a PDF document",
    rb".{4}TFL3": "a model of TensorFlow Lite",
    rb"\x08\x01\x12": "a SavedModel of TensorFlow",
    rb"\x08.[\x12\x1a:]": "an ONNX model",
    rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]": "msgpack, as Flax (JAX) writes it",
    rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|script|body|!--)": (
        "an HTML page, as a download that needs a login or a confirmation gives"
    ),
    rb"(\xef\xbb\xbf)?\s*<": "an XML document",
}
"""What torch.load would not read, by how it begins."""
_ARCHIVES = {
    r"/constants\.pkl$|/code/": (
        "TorchScript, which holds code that is not run; save the module's state_dict() with torch.save"
    ),
    r"archive_format$": "a program of torch.export; save model.state_dict() with torch.save",
    r"data\.pkl$": "",
    r"\A(.+\.npy(\n|\Z))+\Z": "arrays of NumPy (.npz)",
    r"^model\.weights\.h5$": "a model of Keras (.keras)",
}
"""The same of zip archives, by the names in them; torch's own are ""."""
_FOLDERS = {
    "config.json": "a folder of a model; give local-dir:{}",
    "saved_model.pb": "a SavedModel of TensorFlow",
    **dict.fromkeys(("_METADATA", "manifest.ocdbt", "_CHECKPOINT_METADATA"), "a checkpoint of Orbax (JAX)"),
    ".metadata": "a distributed checkpoint; torch.distributed.checkpoint.format_utils makes one file of it",
}


def _kind(path: Path, head: bytes) -> str:
    """What a file is that torch.load would not read; "" where it may."""
    if head.startswith(_ZIP):
        return _archive(path)
    for beginning, kind in _KINDS.items():
        if re.match(beginning, head, re.DOTALL):
            return kind
    try:
        text = head.decode("utf-8-sig", "ignore" if len(head) == 512 else "strict").lstrip()
    except UnicodeDecodeError:
        return ""
    if text.startswith("{"):
        shards = set(re.findall(rb':\s*"([^"]+\.(?:bin|safetensors))"', path.read_bytes()))
        return f"the index of a checkpoint in {len(shards)} files; save its state_dict as one" if shards else "JSON"
    printable = all(letter.isprintable() or letter.isspace() for letter in text)
    return f"a text file, {one_line(text)[:40]!r}" if printable and text else ""


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "an archive that was cut or damaged; its download may not have ended"
    for pattern, kind in _ARCHIVES.items():
        if re.search(pattern, "\n".join(names), re.MULTILINE):
            return kind
    return f"a zip archive of {', '.join(names[:3]) or 'nothing'}{', ...' * (len(names) > 3)}; unpack it first"


def _folder(path: Path) -> str:
    for name, kind in _FOLDERS.items():
        if (path / name).exists():
            return kind.format(path.name)
    weights = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
    files = sorted(one.name for one in path.iterdir() if one.suffix in weights)
    return f"a folder{' of ' + ', '.join(files[:3]) if files else ''}; give the file"
