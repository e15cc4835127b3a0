"""SimCLR's random views of a whole batch at once, each sample with parameters of its own, on the batch's device.

The operations, their order and their ranges are those of torchvision's RandomResizedCrop, RandomHorizontalFlip,
ColorJitter, RandomGrayscale and GaussianBlur, in floats throughout (PIL rounds to 8 bits after each).
Crop, flip and blur are linear along each axis, so each is one pair of small matrices per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .recipe import Augmentation

_GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights


def two_views(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Two random views of each image.

    images: uint8 [n, 3, size, size]. Returns float32 [2n, 3, size, size] in [0, 1]; sample i's
    views are rows i and n + i. ``generator`` lives on the images' device; the same state gives the same views.
    """
    doubled = (images.float() / 255).repeat(2, 1, 1, 1)
    return augment(doubled, augmentation, generator)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """One random view of each image: float32 [n, 3, size, size] in [0, 1], in and out."""
    count, _, size, _ = images.shape
    draw = _Draw(count, generator, images.device)
    rows, columns = _crop_and_flip(draw, size, augmentation)
    images = _separable(images, rows, columns)
    images = _jitter(images, draw, augmentation)
    grayed = draw.happens(augmentation.grayscale_probability)
    images = torch.where(grayed[:, None, None, None], grayscale(images), images)
    width = blur_width(augmentation.blur_kernel, size)
    if width > 1:
        sigma = draw.uniform(*augmentation.blur_sigma)
        blur = blur_matrix(sigma, width, size)
        kept = ~draw.happens(augmentation.blur_probability)
        blur = torch.where(kept[:, None, None], torch.eye(size, device=images.device), blur)
        images = _separable(images, blur, blur)
    return images.clamp_(0, 1)  # sums of weights are 1 only up to rounding


class _Draw:
    """Random parameters, one per sample."""

    def __init__(self, count: int, generator: torch.Generator, device: torch.device) -> None:
        self.count, self.generator, self.device = count, generator, device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(self.count, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * unit

    def happens(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability

    def below(self, bound: Tensor) -> Tensor:
        """A whole number in [0, bound)."""
        return (self.uniform(0, 1) * bound).floor().minimum(bound - 1)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for each sample's own [n, size, size] matrices; the same for all channels."""
    count, channels, size, _ = images.shape
    stretched = torch.bmm(images.reshape(count, channels * size, size), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], stretched.view(count, channels, size, size))


# --- crop and flip -----------------------------------------------------------------------------------------


def _crop_and_flip(draw: _Draw, size: int, augmentation: Augmentation) -> tuple[Tensor, Tensor]:
    top, left, height, width = _boxes(draw, size, augmentation)
    rows = resize_matrix(top, height, size)
    columns = resize_matrix(left, width, size)
    flipped = draw.happens(augmentation.flip_probability)
    return rows, torch.where(flipped[:, None, None], columns.flip(1), columns)


def _boxes(draw: _Draw, size: int, augmentation: Augmentation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes as RandomResizedCrop draws them: the first of ten tries that fits, else the whole image.

    (torchvision's last resort is the largest central box of an allowed ratio; for a square image that is the
    whole image unless the range of ratios leaves 1 out, and then the nearest ratio is taken here too.)
    """
    area = draw.uniform(*augmentation.crop_scale, 10) * size**2
    low, high = (torch.tensor(ratio).log().item() for ratio in augmentation.crop_ratio)
    ratio = draw.uniform(low, high, 10).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths >= 1) & (widths <= size) & (heights >= 1) & (heights <= size)
    first = fits.float().argmax(1, keepdim=True)  # argmax gives the first of equals
    any_fits = fits.any(1)
    fallback = min(max(1.0, augmentation.crop_ratio[0]), augmentation.crop_ratio[1])
    width = torch.where(any_fits, widths.gather(1, first)[:, 0], round(size * min(1.0, fallback)))
    height = torch.where(any_fits, heights.gather(1, first)[:, 0], round(size / max(1.0, fallback)))
    top, left = draw.below(size - height + 1), draw.below(size - width + 1)
    centre_top, centre_left = ((size - height) / 2).floor(), ((size - width) / 2).floor()
    return torch.where(any_fits, top, centre_top), torch.where(any_fits, left, centre_left), height, width


def resize_matrix(start: Tensor, length: Tensor, size: int) -> Tensor:
    """[n, size, size] matrices that stretch pixels [start, start + length) of an axis over all of it, bilinearly.

    Equal to torchvision's resize of the cropped axis, as a crop is never longer than the axis: no antialiasing.
    """
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    source = start[:, None] + (pixels + 0.5) * (length / size)[:, None] - 0.5
    source = source.clamp(min=start[:, None]).minimum((start + length - 1)[:, None])
    return (1 - (source[:, :, None] - pixels).abs()).clamp(min=0)


# --- colour ------------------------------------------------------------------------------------------------


def grayscale(images: Tensor) -> Tensor:
    """The luma of RGB images, [n, 1, size, size]."""
    red, green, blue = images.unbind(1)
    return (_GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue)[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor[:, None, None, None]).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, grayscale(images), factor)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by ``shift`` of a full turn, in [-0.5, 0.5]; value and saturation stay."""
    red, green, blue = images.unbind(1)
    value, smallest = images.amax(1), images.amin(1)
    chroma = value - smallest
    safe = torch.where(chroma == 0, 1, chroma)
    angle = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turned = angle + 6 * shift[:, None, None]
    # A channel is value - chroma * trapezoid(its distance round the colour circle, in sixths of a turn).
    sector = torch.stack([(turned + offset) % 6 for offset in (5, 3, 1)], 1)
    trapezoid = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value[:, None] - chroma[:, None] * trapezoid


_OPERATIONS = (brightness, contrast, saturation, hue)


def _jitter(images: Tensor, draw: _Draw, augmentation: Augmentation) -> Tensor:
    """ColorJitter: the four operations in an order of each sample's own."""
    jittered = draw.happens(augmentation.jitter_probability)
    order = draw.uniform(0, 1, 4).argsort(1)
    factors = torch.stack([draw.uniform(*_factor_range(k, s)) for k, s in enumerate(augmentation.jitter)], 1)
    used = [k for k, s in enumerate(augmentation.jitter) if s > 0]
    images = images.clone()
    for place in range(4):
        for k in used:
            chosen = (jittered & (order[:, place] == k)).nonzero()[:, 0]
            if len(chosen):
                images[chosen] = _OPERATIONS[k](images[chosen], factors[chosen, k])
    return images


def _factor_range(operation: int, strength: float) -> tuple[float, float]:
    return (-strength, strength) if operation == 3 else (max(0.0, 1 - strength), 1 + strength)


# --- blur --------------------------------------------------------------------------------------------------


def blur_width(share: float, size: int) -> int:
    """Kernel size in pixels, odd: sthalles/SimCLR's 2 * (int(share * size) // 2) + 1, 3 at 32 pixels."""
    return 2 * (int(share * size) // 2) + 1


def blur_matrix(sigma: Tensor, width: int, size: int) -> Tensor:
    """[n, size, size] matrices that blur an axis with a Gaussian of each sample's sigma, reflecting at the ends."""
    offsets = torch.arange(width, device=sigma.device) - width // 2
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    source = torch.arange(size, device=sigma.device)[:, None] + offsets
    last = size - 1
    source = last - (last - source.abs()).abs()
    places = torch.nn.functional.one_hot(source, size).to(weights.dtype)
    return torch.einsum("nk,ikj->nij", weights, places)
