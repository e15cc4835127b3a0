"""Accuracy under common corruptions (Hendrycks & Dietterich, 2019): their files, or eleven of them for any data set.

The latter after the authors' make_cifar_c.py, with its parameters, on batches. Lengths in pixels, chosen for 32 pixels
a side, grow with larger images. What is drawn for an image hangs on its seed alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur, resize

from ...data.image_folder import balanced
from ...util.errors import DataError
from ...util.seeds import derive
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

    CIFAR's are those of the authors' files where their folder is in the data folder; others are made by ``corrupt``.
    The summary says which, and how many. mCE, in percent, is the mean error over corruptions and severities 1 to 5, not
    divided by that of AlexNet as for ImageNet-C. DataError if the files are not what they should be.
    """
    folder = subject.data_dir / FOLDERS.get(subject.target, "")
    is_stored = subject.target in FOLDERS and folder.is_dir()
    names: Sequence[str] = _STORED if is_stored else list(CORRUPTIONS)
    made: Made = _stored(subject, folder) if is_stored else partial(_builtin, subject)
    right = subject.right(subject.images).repeat(len(names), len(subject.columns), 1)
    for k, name in enumerate(names):
        for column, severity in enumerate(subject.columns):
            for places in subject.batches() if severity else ():
                images = made(name, int(severity), places.cpu()).to(subject.labels.device)
                right[k, column, places] = subject.right(images, places)
        subject.progress((k + 1) / len(names))
    accuracy = 100 * right.double().mean(2)
    titled = zip([name.replace("_", " ") for name in names], accuracy.tolist(), strict=True)
    error = 100 - accuracy[:, [bool(severity) for severity in subject.columns]].mean()
    return Found(
        {**{f"{name} (%)": row for name, row in titled}, "mean (%)": accuracy.mean(0).tolist()},
        {"mCE (%)": float(error), f"corruptions of {folder.name}" if is_stored else "built-in corruptions": len(names)},
        right.all(0),
    )


def _builtin(subject: Subject, name: str, severity: int, places: Tensor) -> Tensor:
    seeds = [derive(subject.seed, name, severity, place) for place in places.tolist()]
    return corrupt(subject.images.cpu()[places], name, severity, seeds)


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


# --- the built-in set ----------------------------------------------------------------------------------------


def corrupt(images: Tensor, name: str, severity: int, seeds: Sequence[int]) -> Tensor:
    """Images under a corruption, a key of CORRUPTIONS, of severity 1 to 5; uint8 [n, 3, size, size], on the CPU.

    seeds: one an image, of what is drawn for it.
    """
    function, parameters = CORRUPTIONS[name]
    generators = [Generator().manual_seed(seed) for seed in seeds]
    made: Tensor = function(images.float() / 255, parameters[severity - 1], generators)
    return (made.clamp(0, 1) * 255).round().byte()


def _draw(law: Callable[..., Tensor], generators: Sequence[Generator], *shape: int) -> Tensor:
    """For each image numbers of its own: [n, *shape]; law: torch.rand, torch.randn."""
    return torch.stack([law(shape, generator=generator) for generator in generators])


def _gaussian_noise(images: Tensor, deviation: float, generators: Sequence[Generator]) -> Tensor:
    return images + deviation * _draw(torch.randn, generators, *images.shape[1:])


def _shot_noise(images: Tensor, photons: float, generators: Sequence[Generator]) -> Tensor:
    pairs = zip(images, generators, strict=True)
    return torch.stack([torch.poisson(image * photons, generator) for image, generator in pairs]) / photons


def _impulse_noise(images: Tensor, share: float, generators: Sequence[Generator]) -> Tensor:
    drawn = _draw(torch.rand, generators, *images.shape[1:])
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill(drawn > 1 - share / 2, 1.0)


def _defocus_blur(images: Tensor, disk: tuple[float, float], generators: Sequence[Generator]) -> Tensor:
    """By a disk of a radius, smoothed by a Gaussian of a deviation, both in pixels."""
    radius, deviation = disk[0] * _scale(images), disk[1]
    reach = math.ceil(radius) + 1
    squares = torch.arange(-reach, reach + 1).square()
    kernel = (squares[:, None] + squares <= radius**2).float()
    kernel = gaussian_blur((kernel / kernel.sum())[None], [3, 3], [deviation, deviation])
    padded = functional.pad(images, [reach] * 4, mode="reflect")
    return functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def _motion_blur(images: Tensor, line: tuple[float, float], generators: Sequence[Generator]) -> Tensor:
    """By half a Gaussian of a deviation along a line of a length, both in pixels, up to 45 degrees from the horizon."""
    length, deviation = (part * _scale(images) for part in line)
    angle = (_draw(torch.rand, generators, 1, 1) - 0.5) * math.pi / 2
    places = torch.arange(math.floor(min(2 * length, 4 * deviation)) + 1)
    weights = torch.exp(-0.5 * (places / deviation).square())
    x, y = _pixels(images)
    blurred = torch.zeros_like(images)
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        blurred += weight * _sampled(images, x + place * angle.cos(), y + place * angle.sin())
    return blurred


def _fog(images: Tensor, fog: tuple[float, float], generators: Sequence[Generator]) -> Tensor:
    """Of a strength, and a decay from coarse to fine."""
    (strength, decay), size = fog, images.shape[-1]
    height = _plasma(2 ** math.ceil(math.log2(size)), decay, generators)
    height = height - height.amin((1, 2), keepdim=True)
    cloud = (height / height.amax((1, 2), keepdim=True))[:, None, :size, :size]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * cloud) * brightest / (brightest + strength)


def _plasma(side: int, decay: float, generators: Sequence[Generator]) -> Tensor:
    """Heights by the diamond-square algorithm on a torus, whose side is a power of two: [n, side, side]."""
    height, amplitude, step = torch.zeros(len(generators), side, side), 1.0, side
    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]

        def noise(corners: Tensor = corners, amplitude: float = amplitude) -> Tensor:
            return amplitude * (2 * _draw(torch.rand, generators, *corners.shape[1:]) - 1)

        centres = (corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))) / 4 + noise()
        height[:, half::step, half::step] = centres
        beside, below = corners + corners.roll(-1, 2), corners + corners.roll(-1, 1)
        height[:, ::step, half::step] = (centres + centres.roll(1, 1) + beside) / 4 + noise()
        height[:, half::step, ::step] = (centres + centres.roll(1, 2) + below) / 4 + noise()
        step, amplitude = half, amplitude / decay**2
    return height


def _brightness(images: Tensor, more: float, generators: Sequence[Generator]) -> Tensor:
    """Added to the value of HSV, whose hue and saturation stay; torchvision's adjust_brightness is a factor."""
    value = images.amax(1, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1 / 255), raised)


def _contrast(images: Tensor, factor: float, generators: Sequence[Generator]) -> Tensor:
    """About the mean of each channel; torchvision's adjust_contrast is about that of the grey image."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _pixelate(images: Tensor, share: float, generators: Sequence[Generator]) -> Tensor:
    size = images.shape[-1]
    return functional.interpolate(functional.interpolate(images, size=max(1, int(size * share)), mode="area"), size)


def _jpeg_compression(images: Tensor, quality: int, generators: Sequence[Generator]) -> Tensor:
    """By Pillow; torchvision is about to drop its own."""

    def stored(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack(list(map(stored, pixels)))).permute(0, 3, 1, 2).float() / 255


def _elastic_transform(images: Tensor, shares: tuple[float, float, float], generators: Sequence[Generator]) -> Tensor:
    """A random affine map, then a smooth random displacement, in one sampling; shares of the image's side: the
    displacement's length, its smoothness, and how far three points of the map move. torchvision's elastic has one
    displacement for all images."""
    size = images.shape[-1]
    length, smoothness, moved = (share * size for share in shares)
    middle, third = size // 2, size // 3
    points = torch.tensor([[third, third], [third, -third], [-third, -third]]).float() + middle
    to = points + moved * (2 * _draw(torch.rand, generators, 3, 2) - 1)
    back = torch.linalg.solve(functional.pad(to, (0, 1), value=1.0), points.expand_as(to))
    x, y = _pixels(images)
    if length:
        reach = 2 * math.ceil(3 * smoothness) + 1
        smooth = gaussian_blur(2 * _draw(torch.rand, generators, 2, size, size) - 1, [reach] * 2, [smoothness] * 2)
        x, y = x + length * smooth[:, 0], y + length * smooth[:, 1]
    source = torch.stack([x.expand(len(images), size, size), y.expand(len(images), size, size)], -1)
    source = (functional.pad(source, (0, 1), value=1.0).flatten(1, 2) @ back).view_as(source)
    return _sampled(images, source[..., 0], source[..., 1])


def _scale(images: Tensor) -> float:
    return max(1.0, images.shape[-1] / 32)


def _pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of each pixel: float [1, size] and [size, 1]."""
    places = torch.arange(images.shape[-1]).float()
    return places[None], places[:, None]


def _sampled(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Images [n, 3, size, size] at other places, in pixels, [n, size, size] each; beyond the border reflected."""
    grid = torch.stack(torch.broadcast_tensors(x, y), -1) * (2 / (images.shape[-1] - 1)) - 1
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


CORRUPTIONS: dict[str, tuple[Callable[..., Tensor], Sequence[Any]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}
"""By the names of the authors' files: a function, and its parameter at each severity."""
