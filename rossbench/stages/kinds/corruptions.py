"""Accuracy under common corruptions (Hendrycks & Dietterich, 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ...data.image_folder import balanced
from ...util.errors import DataError
from ...util.seeds import derive
from .builtin_corruptions import CORRUPTIONS, corrupt
from .subject import Found, Subject

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""Of the corrupted test images of a data set, as their authors store them."""
_STORED = [
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
]
"""The benchmark's fifteen; the authors' four more are for tuning."""
_IMAGES = 10_000
"""Of each severity."""
Made = Callable[[str, int, Tensor], Tensor]
"""function(corruption, severity, places of test images int64 [m]) -> uint8 [m, 3, size, size], on the CPU."""


def corruptions(subject: Subject) -> Found:
    """Top-1 accuracy of the head under each corruption, by severity, and their mean; right: under all of them.

    CIFAR's are those of the authors' files where their folder is in the data folder; others are made by
    ``builtin_corruptions``. The summary says which, and how many. mCE, in percent, is the mean error over corruptions
    and severities 1 to 5, not divided by that of AlexNet as for ImageNet-C. DataError if the files are not what they
    should be.
    """
    folder = subject.data_dir / FOLDERS.get(subject.target, "")
    is_stored = subject.target in FOLDERS and folder.is_dir()
    names: Sequence[str] = _STORED if is_stored else list(CORRUPTIONS)
    made = _stored(subject, folder) if is_stored else _builtin(subject)
    natural = subject.outputs(subject.head, subject.images).argmax(1) == subject.labels
    right = natural.repeat(len(names), len(subject.columns), 1)
    for k, name in enumerate(names):
        for column, severity in enumerate(subject.columns):
            for places in subject.batches() if severity else ():
                images = made(name, int(severity), places.cpu()).to(subject.labels.device)
                right[k, column, places] = subject.outputs(subject.head, images).argmax(1) == subject.labels[places]
        subject.progress((k + 1) / len(names))
    accuracy = 100 * right.double().mean(2)
    titled = zip([name.replace("_", " ") for name in names], accuracy.tolist(), strict=True)
    error = 100 - accuracy[:, [bool(severity) for severity in subject.columns]].mean()
    return Found(
        {**{f"{name} (%)": row for name, row in titled}, "mean (%)": accuracy.mean(0).tolist()},
        {"mCE (%)": float(error), f"corruptions of {folder.name}" if is_stored else "built-in corruptions": len(names)},
        right.all(0),
    )


def _builtin(subject: Subject) -> Made:
    def made(name: str, severity: int, places: Tensor) -> Tensor:
        seeds = [derive(subject.seed, name, severity, place) for place in places.tolist()]
        return corrupt(subject.images.cpu()[places], name, severity, seeds)

    return made


def _stored(subject: Subject, folder: Path) -> Made:
    labels, size = _array(folder / "labels.npy", (5 * _IMAGES,))[:_IMAGES].astype(np.int64), subject.images.shape[-1]
    chosen = np.arange(_IMAGES) if subject.limit is None else balanced(labels, subject.limit)
    if not np.array_equal(labels[chosen], subject.labels.cpu().numpy()):
        raise DataError(f"{folder / 'labels.npy'}: expected the labels of {subject.target}'s test images, got others")

    def made(name: str, severity: int, places: Tensor) -> Tensor:
        stored = _array(folder / f"{name}.npy", (5 * _IMAGES, 32, 32, 3))
        some = stored[(severity - 1) * _IMAGES + chosen[places.numpy()]].transpose(0, 3, 1, 2)
        images: Tensor = resize(torch.from_numpy(np.ascontiguousarray(some)), [size, size], antialias=True)
        return images

    return made


def _array(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a file, mapped; DataError if they are not bytes of that shape, or not there."""
    try:
        found: np.ndarray = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected an array of the authors' archive, got {error}") from error
    if found.shape != shape or found.dtype != np.uint8:
        raise DataError(f"{file}: expected uint8 {shape}, got {found.dtype} {found.shape}")
    return found
