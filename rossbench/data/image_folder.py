"""Folders of images as torchvision's ImageFolder reads them: what is in them, found without torch; and their pixels.

The pixels are decoded once, into a file that is then mapped into memory, so they may be more than memory holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..util.errors import DataError, InvalidValue, StoreError, one_line
from ..util.locks import Locks

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images, in either case: torchvision's."""
SPLITS = {"train": ("train",), "test": ("test", "val")}
"""Names of each split's folder, the first that is there."""
_CHUNK = 2**27
"""Bytes of decoded images that may wait to be written."""
_TELL_EVERY = 60.0
"""Seconds between two lines that say how many images are decoded."""
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A split of a folder."""

    folder: Path
    names: tuple[str, ...]
    """Of the classes: its folders, sorted."""
    files: list[str]
    """Relative to ``folder``, with slashes, in ImageFolder's order: class by class."""
    labels: list[int]
    """Of each file."""


def find(root: Path, split: str) -> Found:
    """Lists the images of a split, "train" or "test", and opens none. InvalidValue if it is not there or not one."""
    places = [root / name for name in SPLITS[split]]
    try:
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise InvalidValue(f"expected a folder {' or '.join(map(str, places))}, got none")
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        by_class = [_images(folder, name) for name in names]
    except OSError as error:
        raise InvalidValue(f"expected a folder that can be read, got {error}") from error
    if len(names) < 2:
        raise InvalidValue(f"expected a folder for each of at least 2 classes in {folder}, got {names}")
    for name, files in zip(names, by_class, strict=True):
        if not (files and name.isprintable()):
            expected = f"a printable name and images ({', '.join(ENDINGS)}) of every class in {folder}"
            raise InvalidValue(f"expected {expected}, got {len(files)} of {name!r}")
    labels = [label for label, files in enumerate(by_class) for _ in files]
    return Found(folder, tuple(names), [file for files in by_class for file in files], labels)


def _images(folder: Path, name: str) -> list[str]:
    """Of one class, also in folders within its folder."""

    def refuse(error: OSError) -> None:
        raise error

    return [
        f"{inside}/{file}"
        for place, _, files in sorted(os.walk(folder / name, onerror=refuse, followlinks=True))
        for inside in [os.path.relpath(place, folder).replace(os.sep, "/")]
        for file in sorted(files)
        if file.lower().endswith(ENDINGS)
    ]


def identify(found: Found, size: int) -> tuple[str, str]:
    """Two names of the images, 16 hex digits each: of the data for records, and of their decoded form.

    The first is a SHA-256 of the size in pixels and of every file's relative path, bytes and label, so it holds wherever
    the folder is. The second is also of the folder's path and the times when files were changed: an image that was
    replaced by another of as many bytes is decoded again. No file is opened. DataError if one is not there.
    """
    data = hashlib.sha256(f"{size} pixels\n".encode())
    decoded, folder = data.copy(), str(found.folder)
    decoded.update(os.fsencode(folder))
    for file, label in zip(found.files, found.labels, strict=True):
        try:
            stat = os.stat(f"{folder}/{file}")
        except OSError as error:
            raise DataError(one_line(f"{folder}/{file}: expected a file that can be read, got {error}")) from error
        line = f"{file}\0{stat.st_size}\0{label}\n".encode("utf-8", "surrogateescape")
        data.update(line)
        decoded.update(line + str(stat.st_mtime_ns).encode())
    return data.hexdigest()[:16], decoded.hexdigest()[:16]


def read(found: Found, size: int, path: Path) -> Tensor:
    """The images, uint8 [n, 3, size, size], not to be written to: mapped from ``path``, a file in NumPy's .npy format.

    Where it is not there, or not whole, they are decoded into it first, by one process at a time; it appears whole, by
    a rename. DataError if an image cannot be decoded, or if the file does not fit the disk or cannot be written.
    """
    import torch

    shape = (len(found.files), 3, size, size)
    try:
        images = _mapped(path, shape)
        if images is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                images = _mapped(path, shape)
                if images is None:
                    images = _decode_all(found, shape, path)
    except (OSError, StoreError) as error:
        text = f"{path}: expected to write decoded images there, got {error}; --data-dir names another folder"
        raise DataError(one_line(text)) from error
    # Not copy-on-write (mode "c"), of which Linux refuses more than there is memory; so torch warns of what nobody does.
    with warnings.catch_warnings(action="ignore"):
        return torch.from_numpy(images)


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The images in a file; None if it is not there or holds anything else, less or more."""
    import numpy as np

    try:
        images = np.lib.format.open_memmap(path, mode="r")
    except (FileNotFoundError, ValueError):
        return None
    whole = images.dtype == np.uint8 and images.shape == shape and images.flags.c_contiguous
    return images if whole and path.stat().st_size == images.offset + images.nbytes else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    locks = Locks(path.parent)
    if not locks.take(path.name):
        log.warning("%s: waiting for %s, which decodes these images", path, locks.holder(path.name))
        while not locks.take(path.name):
            time.sleep(0.5)
    try:
        yield
    finally:
        locks.give(path.name)


def _decode_all(found: Found, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """The images, written to the file; nothing is left of it if that fails. What a killed process left is removed."""
    import numpy as np

    scratch = f"{path.stem}.part-"
    for left in path.parent.glob(f"{scratch}*"):
        shutil.rmtree(left, ignore_errors=True)
    needed, free, count = prod(shape), shutil.disk_usage(path.parent).free, len(found.files)
    what = f"{needed / 1e9:.3g} GB for {count} decoded images of {found.folder}"
    if needed > free:
        raise DataError(f"{path.parent}: expected {what}, got {free / 1e9:.3g} GB free; --data-dir names another folder")
    log.warning("%s: %s; images are decoded once", path, what)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=scratch) as folder,
        ThreadPoolExecutor(workers(), "rossbench-decode") as pool,
    ):
        part, told = Path(folder) / path.name, time.monotonic()
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            at_once = max(1, _CHUNK // prod(shape[1:]))
            for start in range(0, count, at_once):
                files = [found.folder / name for name in found.files[start : start + at_once]]
                for image in pool.map(partial(_decoded, size=shape[-1]), files):
                    file.write(image)
                if time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    log.warning("%s: %d of %d images decoded", path, start + len(files), count)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return np.lib.format.open_memmap(path, mode="r")


def _decoded(path: Path, size: int) -> bytes:
    """An image as bytes of uint8 [3, size, size]: in RGB, its shorter side resized to size, its centre cropped."""
    import numpy as np
    from PIL import Image
    from torchvision.transforms import functional

    try:
        with Image.open(path) as image:
            # A transparent palette goes by way of RGBA to the same colours, without a warning.
            rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
        square = functional.center_crop(functional.resize(rgb, size), size)
        return np.asarray(square).transpose(2, 0, 1).tobytes()  # numpy's copy: one of torch's would start threads here
    except Exception as error:  # Pillow has many words for damage
        raise DataError(one_line(f"{path}: expected an image that can be decoded, got {error!r:.200}")) from error


def workers() -> int:
    """Threads that decode: ``ROSSBENCH_WORKERS``, or one for each core that is this process's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("ROSSBENCH_WORKERS") or str(cores)
    if not (wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= 1024):
        raise InvalidValue(f"ROSSBENCH_WORKERS: expected a whole number in [1, 1024], got {wanted!r}")
    return int(wanted)
