"""Images that may be more than memory holds: written once into a file, which is then mapped."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..util.errors import DataError, StoreError, expect, one_line
from ..util.locks import Locks

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CHUNK = 2**27
"""Bytes of images that may wait to be written."""
_TELL_EVERY = 60.0
"""Seconds between two lines that say how many images are written."""
log = logging.getLogger(__name__)
Make = Callable[[], Iterable[bytes]]
"""Gives the bytes of the images, uint8, in their order: in each part those of a whole number of images."""


def read(path: Path, shape: tuple[int, ...], what: str, make: Make) -> Tensor:
    """The images, uint8, of this shape, not to be written to: mapped from ``path``, a file in NumPy's .npy format.

    Where it is not there, or not whole, they are made and written first, by one process at a time; it appears whole,
    by a rename. ``what``: says what they are. DataError if the file does not fit the disk or cannot be written.
    """
    import torch

    try:
        images = _mapped(path, shape)
        if images is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                images = _mapped(path, shape)
                if images is None:
                    images = _write(path, shape, what, make)
    except (OSError, StoreError) as error:
        text = f"{path}: expected to write decoded images there, got {error}; --data-dir names another folder"
        raise DataError(one_line(text)) from error
    # Not copy-on-write (mode "c"), of which Linux refuses more than there is memory; torch warns of what nobody does.
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


def _write(path: Path, shape: tuple[int, ...], what: str, make: Make) -> np.ndarray:
    """The images, written to the file; nothing is left of it if that fails. What a killed process left is removed."""
    import numpy as np

    scratch = f"{path.stem}.part-"
    for left in path.parent.glob(f"{scratch}*"):
        shutil.rmtree(left, ignore_errors=True)
    needed, free = prod(shape), shutil.disk_usage(path.parent).free
    said = f"{needed / 1e9:.3g} GB for {shape[0]} {what}"
    got = f"{free / 1e9:.3g} GB free; --data-dir names another folder"
    expect(needed <= free, str(path.parent), said, got, DataError)
    log.warning("%s: %s; images are decoded once", path, said)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=scratch) as folder:
        part, told = Path(folder) / path.name, time.monotonic()
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            begin = file.tell()
            for images in make():
                file.write(images)
                if time.monotonic() - told > _TELL_EVERY:
                    told = time.monotonic()
                    log.warning("%s: %d of %d images", path, (file.tell() - begin) // prod(shape[1:]), shape[0])
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    return np.lib.format.open_memmap(path, mode="r")
