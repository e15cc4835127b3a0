"""Folders of images as torchvision's ImageFolder reads them: what is in them, found without torch; and their pixels."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..util.errors import DataError, InvalidValue, expect, one_line
from . import decoded, pixels

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images, in either case: torchvision's."""
SPLITS = {"train": ("train",), "test": ("test", "val")}
"""Names of each split's folder, the first that is there."""
_VERSION = "2"
"""Of how images are decoded; another one makes what was decoded before be decoded again."""


_JOINERS = "[\u200c\u200d\u00a0\u3000]"
"""In names of Persian, Hindi or emoji; and spaces that are no blank. The figures leave them out or name them."""


class Found(NamedTuple):
    """A split of a folder."""

    folder: Path
    names: tuple[str, ...]
    """Of the classes."""
    files: list[str]
    """Relative to ``folder``, with slashes."""
    labels: list[int]
    """Of each file."""

    def part(self, chosen: np.ndarray) -> Found:
        """These files alone, by their places."""
        files, labels = ([items[k] for k in chosen] for items in (self.files, self.labels))
        return self._replace(files=files, labels=labels)


def find(root: Path, split: str, like: tuple[str, ...] = ()) -> Found:
    """Lists the images of a split, "train" or "test", and opens none. InvalidValue if it is not there or not one.

    ``like``: the other split's classes, whose order and spelling is kept where the names differ as Unicode's composed
    and decomposed forms do alone: macOS and archives change one into the other.
    """
    places = [root / name for name in SPLITS[split]]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise InvalidValue(f"expected a folder {' or '.join(map(str, places))}, got none")
    return listed(folder, like)


def listed(folder: Path, like: tuple[str, ...] = ()) -> Found:
    """The images in a folder of a folder for each class, in ImageFolder's order; without what is hidden. See find."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))
        alike = sorted(map(_composed, names)) == sorted(map(_composed, like))
        if alike:
            places = {_composed(name): place for place, name in enumerate(like)}
            names.sort(key=lambda name: places[_composed(name)])
        by_class = [_images(folder, name) for name in names]
    except OSError as error:
        raise InvalidValue(one_line(f"expected a folder that can be read, got {error}")) from error
    expect(len(names) >= 2, "", f"a folder for each of at least 2 classes in {folder}", names)
    for name, files in zip(names, by_class, strict=True):
        expect(files, "", f"images ({', '.join(ENDINGS)}) of every class in {folder}", f"none of {name!r}")
        is_printable = re.sub(_JOINERS, "", name).isprintable()
        expect(is_printable, "", f"printable names of classes in {folder}", f"{name!r}")
    twice = [name for name, count in Counter(map(_composed, names)).items() if count > 1]
    if twice:
        spelled = " and ".join(ascii(name) for name in names if _composed(name) == twice[0])
        raise InvalidValue(f"expected classes that can be told apart in {folder}, got {twice[0]} spelled {spelled}")
    labels = [label for label, files in enumerate(by_class) for _ in files]
    return Found(folder, like if alike else tuple(names), [file for files in by_class for file in files], labels)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _hidden(name: str) -> bool:
    """Files and folders that tools leave beside the images."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")


def _images(folder: Path, name: str) -> list[str]:
    """Of one class, also in folders within its folder."""

    def refuse(error: OSError) -> None:
        raise error

    return [
        f"{inside}/{file}"
        for place, _, files in sorted(os.walk(folder / name, onerror=refuse, followlinks=True))
        for inside in [os.path.relpath(place, folder).replace(os.sep, "/")]
        if not any(map(_hidden, inside.split("/")))
        for file in sorted(files)
        if file.lower().endswith(ENDINGS) and not _hidden(file)
    ]


def balanced(labels: np.ndarray, limit: int) -> np.ndarray:
    """Indices of ``limit`` samples, ascending, drawn one a class in turn from a seeded shuffle: int64 [limit]."""
    import numpy as np

    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:limit]])


def identify(found: Found, size: int) -> tuple[str, str]:
    """Two names of the images, 16 hex digits each: of the data for records, and of their decoded form.

    The first is a SHA-256 of the size in pixels and of every file's relative path, bytes and label, so it holds
    wherever the folder is. The second is also of the folder's path and the times when files were changed: an image that
    was replaced by another of as many bytes is decoded again. No file is opened. DataError if one is not there.
    """
    data = hashlib.sha256(f"{size} pixels\n".encode())
    made, folder = data.copy(), str(found.folder)
    made.update(os.fsencode(folder) + _VERSION.encode())
    for file, label in zip(found.files, found.labels, strict=True):
        try:
            stat = os.stat(f"{folder}/{file}")
        except OSError as error:
            raise DataError(one_line(f"{folder}/{file}: expected a file that can be read, got {error}")) from error
        line = f"{file}\0{stat.st_size}\0{label}\n".encode("utf-8", "surrogateescape")
        data.update(line)
        made.update(line + str(stat.st_mtime_ns).encode())
    return data.hexdigest()[:16], made.hexdigest()[:16]


def read(found: Found, size: int, path: Path) -> Tensor:
    """The images, uint8 [n, 3, size, size], mapped from ``path``; see decoded.read. DataError, also for a bad image."""
    shape = (len(found.files), 3, size, size)
    return decoded.read(path, shape, f"decoded images of {found.folder}", partial(_pixels, found, size))


def _pixels(found: Found, size: int) -> Iterator[bytes]:
    at_once = max(1, decoded.CHUNK // (3 * size * size))
    with ThreadPoolExecutor(workers(), "rossbench-decode") as pool:
        for start in range(0, len(found.files), at_once):
            files = [found.folder / name for name in found.files[start : start + at_once]]
            yield from pool.map(partial(pixels.decode, size=size), files)


def workers() -> int:
    """Threads that decode: ``ROSSBENCH_WORKERS``, or one for each core that is this process's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("ROSSBENCH_WORKERS") or str(cores)
    is_number = wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= 1024
    expect(is_number, "ROSSBENCH_WORKERS", "a whole number in [1, 1024]", f"{wanted!r}")
    return int(wanted)
