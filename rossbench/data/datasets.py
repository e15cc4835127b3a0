"""Image data sets by name, as tensors. The table of facts needs no torch; loading does.

All images are square and RGB; gray ones have their value in each channel, so that every encoder fits every
set. An L2 epsilon on them is in RGB space too: moving one gray level counts sqrt(3) times.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import image_folder
from ..util.errors import DataError, InvalidValue, unknown

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded."""

    names: tuple[str, ...]
    """Of the classes, in the order of their labels."""
    size: int
    """Height and width in pixels."""
    train: int
    """Images in the split."""
    test: int
    folder: Path | None = None
    """Where the images of a user's set are."""

    @property
    def classes(self) -> int:
        return len(self.names)


_DIGITS = tuple("0123456789")
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
    trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
_STL10 = tuple("airplane bird car cat deer dog horse monkey ship truck".split())
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

# Which third of the digits is the test split is ours (see _digits); the other splits are official.
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
}


def facts(name: str) -> DatasetInfo:
    """The facts of a data set; UnknownName with the nearest names if there is none."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS, "one of a scenario file needs --scenario-file")
    return DATASETS[name]


def count(name: str, split: str, limit: int | None) -> int:
    """Images in a split under a limit. InvalidValue if the limit leaves a class without an image or is too large."""
    known = facts(name)
    total: int = getattr(known, split)
    if limit is None:
        return total
    if not known.classes <= limit <= total:
        raise InvalidValue(
            f"{split} limit for {name}: expected {known.classes} (one image a class) to {total}, got {limit}"
        )
    return limit


def folder_info(root: Path, size: int) -> DatasetInfo:
    """What is known of a folder of images, found by listing it; InvalidValue if it is not one."""
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 4096:
        raise InvalidValue(f"expected a whole number of pixels in [1, 4096] as size, got {size!r}")
    train, test = (image_folder.find(root, split) for split in ("train", "test"))
    if train.names != test.names:
        only = sorted({*train.names} ^ {*test.names})
        more = f", ... ({len(only)} in all)" if len(only) > 5 else ""
        raise InvalidValue(f"expected one set of classes, got {', '.join(only[:5])}{more} in one split alone of {root}")
    return DatasetInfo(train.names, size, len(train.files), len(test.files), root)


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
    """The first 16 hex digits of the SHA-256 of the images' bytes followed by the labels'; of a folder's, of names and
    sizes, see image_folder.identify."""

    def to(self, device: torch.device) -> Data:
        """On a device; but images that would take more than a quarter of a GPU's memory stay on the CPU."""
        import torch

        fit = device.type != "cuda" or 4 * self.images.nbytes <= torch.cuda.get_device_properties(device).total_memory
        return Data(self.images.to(device) if fit else self.images, self.labels.to(device), self.fingerprint)


def load(name: str, split: str, limit: int | None = None, data_dir: Path | None = None) -> Data:
    """A split ("train" or "test") of a data set, or a class-balanced part of it.

    A limited part depends on name, split and limit alone, and a smaller one is contained in a larger one:
    runs that share a limit share their images. Raises DataError when the files are neither in ``data_dir``
    nor to be downloaded, or when images of a folder cannot be decoded into ``data_dir``.
    """
    import numpy as np
    import torch

    known = facts(name)
    wanted = count(name, split, limit)
    if known.folder is not None:
        return _folder(name, split, None if limit is None else wanted, data_dir or default_data_dir())
    if name.startswith("digits"):
        images, labels = _digits(name, split)
    else:
        images, labels = _torchvision(name, split, data_dir or default_data_dir())
    shape = (getattr(known, split), 3, known.size, known.size)
    if images.shape != shape or labels.shape != shape[:1] or labels.min() != 0 or labels.max() != known.classes - 1:
        raise DataError(f"{name} {split}: expected images {shape} of {known.classes} classes, got {images.shape}")
    if limit is not None:
        chosen = balanced(labels, wanted)
        images, labels = images[chosen], labels[chosen]
    images, labels = np.ascontiguousarray(images, np.uint8), np.ascontiguousarray(labels, np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    return Data(torch.from_numpy(images), torch.from_numpy(labels), digest)


def balanced(labels: np.ndarray, limit: int) -> np.ndarray:
    """Indices of ``limit`` samples, ascending, drawn one a class in turn from a seeded shuffle: int64 [limit]."""
    import numpy as np

    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:limit]])


def _folder(name: str, split: str, limit: int | None, data_dir: Path) -> Data:
    """Of a limited part the other files are not opened."""
    import numpy as np
    import torch

    known = facts(name)
    assert known.folder is not None
    try:
        found = image_folder.find(known.folder, split)
    except InvalidValue as error:
        raise DataError(f"{name}: {error}") from error
    if (found.names, len(found.files)) != (known.names, getattr(known, split)):
        expected = f"the {getattr(known, split)} images of {known.classes} classes that were there"
        raise DataError(f"{name} {split}: expected {expected}, got {len(found.files)} of {len(found.names)}")
    labels = np.asarray(found.labels, np.int64)
    if limit is not None:
        chosen = balanced(labels, limit)
        labels, files = labels[chosen], [found.files[k] for k in chosen]
        found = found._replace(files=files, labels=labels.tolist())
    fingerprint, decoded = image_folder.identify(found, known.size)
    path = data_dir / "decoded" / f"{name}-{split}-{known.size}px-{decoded}.npy"
    return Data(image_folder.read(found, known.size, path), torch.from_numpy(labels), fingerprint)


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


def _torchvision(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images as [n, 3, height, width] and labels; from ``root``, else downloaded into it."""
    import numpy as np
    from torchvision import datasets as tv

    maker = {
        "cifar10": tv.CIFAR10,
        "cifar100": tv.CIFAR100,
        "stl10": tv.STL10,
        "svhn": tv.SVHN,
        "mnist": tv.MNIST,
        "fashion-mnist": tv.FashionMNIST,
    }[name]
    arguments: dict[str, Any] = {"split": split} if name in ("stl10", "svhn") else {"train": split == "train"}
    place = f"{name}: expected its files in {root} (--data-dir or ROSSBENCH_DATA)"
    try:
        try:
            data = maker(str(root), download=False, **arguments)
        except RuntimeError:  # torchvision's word for "not there, or its checksum is wrong"
            data = maker(str(root), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{place}, and a download failed: {error}") from error
    except Exception as error:  # of files that it has no checksum of, mnist's, it has many words for damage
        raise DataError(f"{place}, got damaged ones, to be removed: {error!r:.200}") from error
    images, labels = np.asarray(data.data), np.asarray(getattr(data, "targets", getattr(data, "labels", None)))
    if images.ndim == 3:
        images = np.repeat(images[:, None], 3, axis=1)
    return images.transpose(0, 3, 1, 2) if images.shape[-1] == 3 else images, labels
