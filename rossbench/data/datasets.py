"""Image data sets by name, as tensors. The table of facts needs no torch; loading does.

All images are square and RGB; gray ones have their value in each channel, so that every encoder fits every
set. An L2 epsilon on them is in RGB space too: moving one gray level counts sqrt(3) times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..util.errors import DataError, InvalidValue, check_known, expect
from . import decoded, image_folder, torchvision_sets
from .image_folder import balanced

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded."""

    names: tuple[str, ...]
    """Of the classes, in the order of their labels; numbers where only the files have names; none without labels."""
    size: int
    """Height and width in pixels; what images that are larger are made to have, see image_folder."""
    train: int
    """Images in the split."""
    test: int
    folder: Path | None = None
    """Where the images of a user's set are."""

    @property
    def classes(self) -> int:
        return len(self.names)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_DIGITS = tuple("0123456789")
_CIFAR10 = _words("airplane automobile bird cat deer dog frog horse ship truck")
_CIFAR100 = _words(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
    trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
)
_STL10 = _words("airplane bird car cat deer dog horse monkey ship truck")
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(1, classes + 1)))


# Which third of the digits is the test split is ours (see _digits), and which part of caltech101 (torchvision_sets).
DATASETS = {
    "cifar10": DatasetInfo(_CIFAR10, 32, 50_000, 10_000),
    "cifar100": DatasetInfo(_CIFAR100, 32, 50_000, 10_000),
    "stl10": DatasetInfo(_STL10, 96, 5_000, 8_000),
    "svhn": DatasetInfo(_DIGITS, 32, 73_257, 26_032),
    "mnist": DatasetInfo(_DIGITS, 28, 60_000, 10_000),
    "fashion-mnist": DatasetInfo(_FASHION, 28, 60_000, 10_000),
    "digits": DatasetInfo(_DIGITS, 16, 1_201, 596),
    "digits-low": DatasetInfo(_DIGITS[:5], 16, 602, 299),
    "digits-high": DatasetInfo(_DIGITS[5:], 16, 599, 297),
    "stl10-unlabeled": DatasetInfo((), 96, 100_000, 0),
    "flowers102": DatasetInfo(_numbers(102), 224, 2_040, 6_149),
    "oxford-iiit-pet": DatasetInfo(_numbers(37), 224, 3_680, 3_669),
    "dtd": DatasetInfo(_numbers(47), 224, 3_760, 1_880),
    "fgvc-aircraft": DatasetInfo(_numbers(100), 224, 6_667, 3_333),
    "food101": DatasetInfo(_numbers(101), 224, 75_750, 25_250),
    "cars": DatasetInfo(_numbers(196), 224, 8_144, 8_041),
    "caltech101": DatasetInfo(_numbers(101), 224, 3_030, 5_647),
}


def facts(name: str) -> DatasetInfo:
    """The facts of a data set; UnknownName with the nearest names if there is none."""
    check_known("data set", name, DATASETS, "one of a scenario file needs --scenario-file")
    return DATASETS[name]


def count(name: str, split: str, limit: int | None) -> int:
    """Images in a split under a limit. InvalidValue if the limit leaves a class without an image or is too large."""
    known = facts(name)
    total: int = getattr(known, split)
    if limit is None:
        return total
    least = max(1, known.classes)
    within = f"{least} (one image a class) to {total}"
    expect(least <= limit <= total, f"{split} limit for {name}", within, limit)
    return limit


def folder_info(root: Path, size: int) -> DatasetInfo:
    """What is known of a folder of images, found by listing it; InvalidValue if it is not one."""
    is_size = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 4096
    expect(is_size, "", "a whole number of pixels in [1, 4096] as size", f"{size!r}")
    train = image_folder.find(root, "train")
    test = image_folder.find(root, "test", train.names)
    if train.names != test.names:
        alone = {"train": {*train.names} - {*test.names}, "test": {*test.names} - {*train.names}}
        show = ascii if all(alone.values()) else repr  # so that names which look alike can be told apart
        found = " and ".join(f"{_some(names, show)} in {split} alone" for split, names in alone.items() if names)
        raise InvalidValue(f"expected one set of classes in both splits of {root}, got {found}")
    return DatasetInfo(train.names, size, len(train.files), len(test.files), root)


def _some(names: set[str], show: Callable[[str], str]) -> str:
    return ", ".join(map(show, sorted(names)[:5])) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")


def default_data_dir() -> Path:
    """``ROSSBENCH_DATA``, or ``~/.cache/rossbench/data``."""
    return Path(os.environ.get("ROSSBENCH_DATA") or "~/.cache/rossbench/data").expanduser()


@dataclass(frozen=True)
class Data:
    """One split."""

    images: Tensor
    """uint8, [n, 3, size, size], 0 to 255. A folder's are mapped from a file, and are not to be written to."""
    labels: Tensor
    """int64, [n], 0 to classes - 1."""
    fingerprint: str
    """The first 16 hex digits of the SHA-256 of the images' bytes followed by the labels'; where images are files, of
    names and sizes, see image_folder.identify; of resized ones, of the fingerprint before and the new size."""
    file: Path | None = None
    """What the images are mapped from."""

    def to(self, device: torch.device) -> Data:
        """On a device; but images that would take more than a quarter of a GPU's memory stay on the CPU."""
        import torch

        fit = device.type != "cuda" or 4 * self.images.nbytes <= torch.cuda.get_device_properties(device).total_memory
        return Data(self.images.to(device) if fit else self.images, self.labels.to(device), self.fingerprint)


def load(
    name: str, split: str, limit: int | None = None, size: int | None = None, data_dir: Path | None = None
) -> Data:
    """A split ("train" or "test") of a data set, or a class-balanced part of it; resized to ``size`` pixels.

    A limited part depends on name, split and limit alone, and a smaller one is contained in a larger one:
    runs that share a limit share their images. Raises DataError when the files are neither in ``data_dir``
    nor to be downloaded, or when images cannot be decoded into ``data_dir``.
    """
    known, root = facts(name), data_dir or default_data_dir()
    expect(count(name, split, limit), name, "a split with images, train", split, DataError)
    if known.folder is not None or name in torchvision_sets.FILES:
        data = _files(name, split, limit, root)
    elif name == "stl10-unlabeled":
        data = _unlabeled(limit, root)
    else:
        data = _arrays(name, split, limit, root)
    return data if size in (None, known.size) else _resized(data, size)


def _arrays(name: str, split: str, limit: int | None, root: Path) -> Data:
    import numpy as np
    import torch

    known = facts(name)
    images, labels = _digits(name, split) if name.startswith("digits") else torchvision_sets.arrays(name, split, root)
    shape = (getattr(known, split), 3, known.size, known.size)
    if images.shape != shape or labels.shape != shape[:1] or labels.min() != 0 or labels.max() != known.classes - 1:
        raise DataError(f"{name} {split}: expected images {shape} of {known.classes} classes, got {images.shape}")
    if limit is not None:
        chosen = balanced(labels, limit)
        images, labels = images[chosen], labels[chosen]
    images, labels = np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(labels, np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    return Data(torch.from_numpy(images), torch.from_numpy(labels), digest)


def _files(name: str, split: str, limit: int | None, root: Path) -> Data:
    """Of a limited part the other files are not opened."""
    import numpy as np
    import torch

    known = facts(name)
    if known.folder is None:
        found = torchvision_sets.files(name, split, root)._replace(names=known.names)
    else:
        try:
            found = image_folder.find(known.folder, split, known.names)
        except InvalidValue as error:
            raise DataError(f"{name}: {error}") from error
    labels, total = np.asarray(found.labels, np.int64), getattr(known, split)
    if (found.names, len(labels)) != (known.names, total) or {*found.labels} != {*range(known.classes)}:
        expected = f"the {total} images of {known.classes} classes that were there"
        raise DataError(f"{name} {split}: expected {expected}, got {len(labels)} of {len({*found.labels})}")
    if limit is not None:
        chosen = balanced(labels, limit)
        labels, found = labels[chosen], found.part(chosen)
    fingerprint, made = image_folder.identify(found, known.size)
    file = root / "decoded" / f"{name}-{split}-{known.size}px-{made}.npy"
    return Data(image_folder.read(found, known.size, file), torch.from_numpy(labels), fingerprint, file)


def _unlabeled(limit: int | None, root: Path) -> Data:
    """STL-10's unlabeled images, of one class as it were; their file's digest is checked when they are decoded."""
    import numpy as np
    import torch

    total, place = facts("stl10-unlabeled").train, torchvision_sets.unlabeled(root)
    expected, got = total * 3 * 96 * 96, place.stat().st_size
    expect(got == expected, str(place), f"{expected:,} bytes", f"{got:,}", DataError)
    chosen = np.arange(total) if limit is None else balanced(np.zeros(total, np.int64), limit)
    fingerprint, made = (
        hashlib.sha256(f"{part} {len(chosen)}".encode()).hexdigest()[:16]
        for part in image_folder.identify(image_folder.Found(place.parent, (), [place.name], [0]), 96)
    )
    file = root / "decoded" / f"stl10-unlabeled-train-96px-{made}.npy"
    make = partial(torchvision_sets.unlabeled_pixels, root, chosen)
    images = decoded.read(file, (len(chosen), 3, 96, 96), f"images of {place}", make)
    return Data(images, torch.zeros(len(chosen), dtype=torch.int64), fingerprint, file)


def _resized(data: Data, size: int) -> Data:
    """Bilinear, antialiased, rounded to 8 bits, as torchvision's Resize of uint8 tensors; where the images were mapped
    from a file, into a file beside it."""
    import numpy as np
    import torch
    from torchvision.transforms import functional

    count, *image = data.images.shape
    fingerprint = hashlib.sha256(f"{data.fingerprint} to {size} pixels".encode()).hexdigest()[:16]

    def parts() -> Iterator[np.ndarray]:
        for some in data.images.split(max(1, decoded.CHUNK // 8 // prod(image))):  # a float takes four bytes
            yield functional.resize(some, [size, size], antialias=True).numpy()

    if data.file is None:
        return Data(torch.from_numpy(np.concatenate(list(parts()))), data.labels, fingerprint)
    file = data.file.with_stem(f"{data.file.stem}-to-{size}px")
    what = f"images of {data.file.name}, resized"
    images = decoded.read(file, (count, 3, size, size), what, lambda: (some.tobytes() for some in parts()))
    return Data(images, data.labels, fingerprint, file)


def _digits(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 8 x 8 handwritten digits, enlarged to 16 x 16; of each class every third image is a test image."""
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    raw = load_digits()
    images, labels = raw.images.astype(np.float32) / 16, raw.target
    kept = {"digits": range(10), "digits-low": range(5), "digits-high": range(5, 10)}[name]
    rows = [np.flatnonzero(labels == digit) for digit in kept]
    parts = [r[2::3] if split == "test" else np.delete(r, np.s_[2::3]) for r in rows]
    chosen = np.sort(np.concatenate(parts))
    small = torch.from_numpy(images[chosen, None])
    large = torch.nn.functional.interpolate(small, size=16, mode="bilinear", align_corners=False)
    return (large * 255).round().repeat(1, 3, 1, 1).numpy(), labels[chosen] - kept.start
