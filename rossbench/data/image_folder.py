"""Folders of images as torchvision's ImageFolder reads them: what is in them, found without torch; and their pixels.

Worker threads decode: Pillow lets others run while it does, and threads share memory with who waits for the images.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..util.errors import DataError, InvalidValue, one_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images, in either case: torchvision's."""
SPLITS = {"train": ("train",), "test": ("test", "val")}
"""Names of each split's folder, the first that is there."""
IN_MEMORY = 4 * 2**30
"""Bytes of decoded images: a split, or the limited part of it that is used, of up to so many is decoded once."""
AHEAD = 2
"""Batches that are decoded while one is worked on."""
_CHUNK = 1024
Images: TypeAlias = "Tensor | ImageFiles"
"""uint8, [n, 3, size, size], 0 to 255: in memory, or in files."""


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
    try:
        if not root.is_dir():
            raise InvalidValue(f"expected a folder, got {root}, which is {'a file' if root.exists() else 'not there'}")
        there = [root / name for name in SPLITS[split] if (root / name).is_dir()]
        if not there:
            raise InvalidValue(f"expected {' or '.join(f'{name}/' for name in SPLITS[split])} in {root}, got none")
        with os.scandir(there[0]) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        by_class = [_images(there[0], name) for name in names]
    except OSError as error:
        raise InvalidValue(f"expected a folder that can be read, got {error}") from error
    if len(names) < 2:
        raise InvalidValue(f"expected a folder for each of at least 2 classes in {there[0]}, got {names}")
    for name, files in zip(names, by_class, strict=True):
        if not name.isprintable():
            raise InvalidValue(f"expected printable names of classes in {there[0]}, got {name!r}")
        if not files:
            raise InvalidValue(
                f"expected images ({', '.join(ENDINGS)}) of every class in {there[0]}, got none of {name}"
            )
    labels = [label for label, files in enumerate(by_class) for _ in files]
    return Found(there[0], tuple(names), [file for files in by_class for file in files], labels)


def _images(folder: Path, name: str) -> list[str]:
    """Of one class, also in folders within its folder."""

    def refuse(error: OSError) -> None:
        raise error

    top = str(folder / name)
    return [
        os.path.relpath(place, folder).replace(os.sep, "/") + f"/{file}" if place != top else f"{name}/{file}"
        for place, _, files in sorted(os.walk(top, onerror=refuse, followlinks=True))
        for file in sorted(files)
        if file.lower().endswith(ENDINGS)
    ]


def fingerprint(found: Found, size: int) -> str:
    """16 hex digits of the SHA-256 of the size in pixels and of every file's relative path, bytes and label.

    No file is opened. A file that was replaced by another of as many bytes is not noticed.
    """
    digest, folder = hashlib.sha256(f"{size} pixels\n".encode()), str(found.folder)
    for file, label in zip(found.files, found.labels, strict=True):
        try:
            count = os.stat(f"{folder}/{file}").st_size
        except OSError as error:
            raise DataError(one_line(f"{folder}/{file}: expected a file that can be read, got {error}")) from error
        digest.update(f"{file}\0{count}\0{label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def read(found: Found, size: int) -> Images:
    """The images, size x size: decoded now where that is little enough, else when they are asked for."""
    images = ImageFiles(found.folder, found.files, size)
    return images.decoded() if 3 * size**2 * len(images) <= IN_MEMORY else images


def ahead(images: Images | None, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """Batches of indices, int64 [m], each once its images can be had at once; see ImageFiles.ahead."""
    return images.ahead(batches) if isinstance(images, ImageFiles) else iter(batches)


def workers() -> int:
    """Threads that decode: ``ROSSBENCH_WORKERS``, or one for each core that is this process's."""
    wanted = os.environ.get("ROSSBENCH_WORKERS")
    if wanted:
        if not (wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= 1024):
            raise InvalidValue(f"ROSSBENCH_WORKERS: expected a whole number in [1, 1024], got {wanted!r}")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ImageFiles:
    """Stands for a tensor of images, uint8 [n, 3, size, size] on a device, and decodes what is asked of it.

    Images that are asked for in their order are decoded ahead; so are those of batches that ``ahead`` is told. Raises
    DataError, which names the file, for one that cannot be decoded.
    """

    def __init__(self, folder: Path, files: Sequence[str], size: int, device: torch.device | None = None) -> None:
        import torch

        self.folder, self.files, self.size = folder, files, size
        self.device = device or torch.device("cpu")
        self.pool = ThreadPoolExecutor(workers(), "rossbench-decode")
        self._next: _Reading | None = None
        """Of the images after those that were last asked for."""
        self._room: _Batch | None = None
        self._batch: _Batch | None = None
        """The room while batches are read ahead."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.size, self.size

    def to(self, device: torch.device) -> ImageFiles:
        return ImageFiles(self.folder, self.files, self.size, device)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """The image, or images, of an index, a slice, or a tensor of indices or truth values [m].

        While batches are read ahead, a tensor is to hold indices of the current one, in any order. Then all that is
        done is work on the device, which a CUDA graph can hold.
        """
        import torch

        if isinstance(index, int):
            return _Reading(self, [range(len(self))[index]]).wait()[0]
        if isinstance(index, slice):
            return self._in_order(list(range(len(self))[index]))
        if self._batch is not None:
            return self._batch.images(index)
        index = index.nonzero().flatten() if index.dtype == torch.bool else index
        return self._in_order(index.tolist())

    def _in_order(self, places: list[int]) -> Tensor:
        """The images of these places; as many after them are begun where these follow each other."""
        reading, self._next = self._next, None
        if reading is not None and reading.places != places:
            reading.cancel()
            reading = None
        reading = reading or _Reading(self, places)
        if places and places == list(range(places[0], places[0] + len(places))):
            following = list(range(len(self))[places[-1] + 1 : places[-1] + 1 + len(places)])
            self._next = _Reading(self, following) if following else None
        return reading.wait()

    def split(self, size: int) -> Iterator[Tensor]:
        """All, ``size`` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def decoded(self) -> Tensor:
        """All, in memory."""
        import torch

        images = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
        for start in range(0, len(self), _CHUNK):
            images[start : start + _CHUNK] = self[start : start + _CHUNK]
        return images

    def ahead(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """These batches of indices, int64 [m] on the device, each once its images are there, the next under way."""
        places = iter([batch.tolist() for batch in batches])  # now: later it would wait for the work of a step
        size = max(map(len, batches), default=0)
        if self._room is None or self._room.size < size:  # else it stays where it is, where a CUDA graph looks for it
            self._room = _Batch(self, size)
        under_way: deque[_Reading] = deque()
        try:
            self._batch = self._room
            for indices in batches:
                while len(under_way) <= AHEAD and (following := next(places, None)) is not None:
                    under_way.append(_Reading(self, following))
                self._batch.put(indices, under_way.popleft().wait())
                yield indices
        finally:
            self._batch = None
            for reading in under_way:
                reading.cancel()

    def decode(self, place: int, into: np.ndarray) -> None:
        """Writes an image to uint8 [3, size, size]: in RGB, its shorter side resized to size, its centre cropped."""
        import numpy as np
        from PIL import Image
        from torchvision.transforms import functional

        path = self.folder / self.files[place]
        try:
            with Image.open(path) as image:
                # A transparent palette goes by way of RGBA to the same colours, without a warning.
                rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
            square = functional.center_crop(functional.resize(rgb, self.size), self.size)
            into[:] = np.asarray(square).transpose(2, 0, 1)  # numpy's copy: one of torch's would start threads here
        except Exception as error:  # Pillow has many words for damage
            raise DataError(one_line(f"{path}: expected an image that can be decoded, got {error!r:.200}")) from error


class _Reading:
    """Images under way, each a task of the workers."""

    def __init__(self, source: ImageFiles, places: list[int]) -> None:
        import torch

        self.places, self.device = places, source.device
        pinned = source.device.type == "cuda"  # then the copy to the device is waited for by nobody
        self.images = torch.empty(len(places), *source.shape[1:], dtype=torch.uint8, pin_memory=pinned)
        rows = self.images.numpy()
        self.tasks: list[Future[None]] = [
            source.pool.submit(source.decode, place, row) for place, row in zip(places, rows, strict=True)
        ]

    def wait(self) -> Tensor:
        """uint8 [n, 3, size, size], on the device."""
        try:
            for task in self.tasks:
                task.result()
        except BaseException:
            self.cancel()
            raise
        return self.images.to(self.device, non_blocking=True)

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()


class _Batch:
    """Room on the device for a batch, where its images are found by their indices. It stays where it is."""

    def __init__(self, source: ImageFiles, size: int) -> None:
        import torch

        self.size = size
        self.pixels = torch.empty(size, *source.shape[1:], dtype=torch.uint8, device=source.device)
        self.row = torch.empty(len(source), dtype=torch.int64, device=source.device)
        """Of each image; of one that is not in the batch a row that is not there, so that to ask for it fails."""

    def put(self, indices: Tensor, images: Tensor) -> None:
        import torch

        self.pixels[: len(images)].copy_(images)
        self.row.fill_(self.size)
        self.row[indices] = torch.arange(len(images), device=indices.device)

    def images(self, indices: Tensor) -> Tensor:
        return self.pixels[self.row[indices]]
