"""SimCLR's random views of a whole batch at once, each sample with parameters of its own, on the batch's device.

The operations, their order and their ranges are those of torchvision's RandomResizedCrop, RandomHorizontalFlip,
ColorJitter, RandomGrayscale and GaussianBlur, in floats throughout (PIL rounds to 8 bits after each).
Nearly all is small matrices, one for each sample: crop, flip and blur are linear along each axis, and brightness,
contrast, saturation and grayscale are linear in a pixel's colour. Nothing here waits for the device, so a CUDA graph
can hold it, and nothing of an image's size is selected by a mask, which is slow on a CPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config.recipes import Augmentation
from ..models.simclr import rows_of

_GRAY = (0.2989, 0.587, 0.114)  # torchvision's weights
_CACHED = 3 * 2**17  # numbers that a CPU works on at once: a few such arrays stay in its cores' caches


def two_views(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator | None = None, mine: slice | None = None
) -> Tensor:
    """Two random views of each image, or of ``mine`` among them: those that they are among all.

    images: uint8 [n, 3, size, size]. Returns float32 [2n, 3, size, size] in [0, 1]; sample i's
    views are rows i and n + i. ``generator`` lives on the images' device (None: that device's global one); the same
    state gives the same views.
    """
    rows = None if mine is None else rows_of(len(images), mine, images.device)
    return augment(images.repeat(2, 1, 1, 1), augmentation, generator, rows)


def augment(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator | None = None, rows: Tensor | None = None
) -> Tensor:
    """One random view of each image, or of those of ``rows``, int64, for which the same is drawn.

    uint8 [n, 3, size, size] in, float32 in [0, 1] out. See two_views.
    """
    size = images.shape[-1]
    plan = _plan(_Draw(len(images), generator, images.device, rows), size, augmentation)
    images = images if rows is None else images[rows]
    at_once = max(1, _CACHED // images[0].numel()) if images.device.type == "cpu" else len(images)
    parts = zip(images.split(at_once), *(part.split(at_once) for part in plan), strict=True)
    return torch.cat([_apply(some, _Plan(*of_them)) for some, *of_them in parts])


def crop_and_flip(
    images: Tensor, padding: int, flip_probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """A crop of each image's own size from it with ``padding`` zeros around, flipped or not: uint8 [n, 3, size, size].

    As torchvision's RandomCrop and RandomHorizontalFlip. Where there is neither, nothing is drawn. See two_views.
    """
    if not (padding or flip_probability):
        return images
    draw, size = _Draw(len(images), generator, images.device), images.shape[-1]
    top, left = (draw.below(2 * padding + 1).long()[:, None] for _ in range(2))
    flipped = draw.happens(flip_probability)[:, None]
    pixels = torch.arange(size, device=images.device)
    rows, columns = top + pixels, left + torch.where(flipped, size - 1 - pixels, pixels)
    padded = nn.functional.pad(images, [padding] * 4)
    return padded.take_along_dim(rows[:, None, :, None], 2).take_along_dim(columns[:, None, None, :], 3)


class _Plan(NamedTuple):
    """What happens to each of n samples, in this order. ``k`` is 3 or 6, or 0 without jitter; last may be empty."""

    rows: Tensor
    """Crop, as ``columns``, which flip too: [n, size, size]."""
    columns: Tensor
    colours: Tensor
    """Jitter of brightness, contrast and saturation in a random order, [n, k, 3, 3]: half before a turn of the hue."""
    shares: Tensor
    """Of a sample's mean gray, which each of them adds: [n, k]."""
    turns: Tensor
    """Of the hue: [n, 1], or [n, 0] without."""
    gray: Tensor
    """[n, 3, 3]"""
    blur: Tensor
    """[n, size, size] for both axes, or [n, 0, 0] without."""


def _plan(draw: _Draw, size: int, augmentation: Augmentation) -> _Plan:
    top, left, height, width = _boxes(draw, size, augmentation)
    flipped = draw.happens(augmentation.flip_probability)
    colours, shares, turns = _jitter(draw, augmentation)
    grayed = draw.happens(augmentation.grayscale_probability)
    return _Plan(
        resize_matrix(top, height, size).div_(255),  # so images need not be divided
        resize_matrix(left, width, size, flipped),
        colours,
        shares,
        turns,
        linear("saturation", 1 - grayed.float())[0],  # gray is a saturation of 0
        _blur(draw, size, augmentation),
    )


def _apply(images: Tensor, plan: _Plan) -> Tensor:
    made = _separable(images.float(), plan.rows, plan.columns)
    steps = list(zip(plan.colours.unbind(1), plan.shares.unbind(1), strict=True))
    before_turn = len(steps) // 2 if plan.turns.numel() else len(steps)
    for step in steps[:before_turn]:
        made = adjust(made, *step)
    if plan.turns.numel():
        made = hue(made, plan.turns[:, 0])
    for step in steps[before_turn:]:
        made = adjust(made, *step)
    made = torch.bmm(plan.gray, made.flatten(2)).view_as(made)
    if plan.blur.numel():
        made = _separable(made, plan.blur, plan.blur)
    return made.clamp_(0, 1)  # sums of weights are 1 only up to rounding


class _Draw:
    """Random parameters, one per sample; drawn for all, and kept for those of ``rows``."""

    def __init__(
        self, drawn: int, generator: torch.Generator | None, device: torch.device, rows: Tensor | None = None
    ) -> None:
        self.drawn, self.generator, self.device, self.rows = drawn, generator, device, rows
        self.count = drawn if rows is None else len(rows)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(self.drawn, *shape, generator=self.generator, device=self.device)
        unit = unit if self.rows is None else unit[self.rows]
        return low + (high - low) * unit

    def happens(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability

    def below(self, bound: Tensor | int) -> Tensor:
        """A whole number in [0, bound)."""
        return (self.uniform(0, 1) * bound).floor().clamp(max=bound - 1)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for each sample's own [n, size, size] matrices; the same for all channels."""
    count, channels, size, _ = images.shape
    stretched = torch.bmm(images.reshape(count, channels * size, size), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], stretched.view(count, channels, size, size))


# --- crop --------------------------------------------------------------------------------------------------


def _boxes(draw: _Draw, size: int, augmentation: Augmentation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes as RandomResizedCrop draws them: the first of ten tries that fits, else the whole image.

    (torchvision's last resort is the largest central box of an allowed ratio; for a square image that is the
    whole image unless the range of ratios leaves 1 out, and then the nearest ratio is taken here too.)
    """
    area = draw.uniform(*augmentation.crop_scale, 10) * size**2
    low, high = (math.log(ratio) for ratio in augmentation.crop_ratio)
    ratio = draw.uniform(low, high, 10).exp()
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths >= 1) & (widths <= size) & (heights >= 1) & (heights <= size)
    first = fits.float().argmax(1, keepdim=True)  # argmax gives the first of equals
    none_fits = ~fits.any(1)
    fallback = min(max(1.0, augmentation.crop_ratio[0]), augmentation.crop_ratio[1])
    width = widths.gather(1, first)[:, 0].masked_fill(none_fits, round(size * min(1.0, fallback)))
    height = heights.gather(1, first)[:, 0].masked_fill(none_fits, round(size / max(1.0, fallback)))
    top, left = draw.below(size - height + 1), draw.below(size - width + 1)
    centre_top, centre_left = ((size - height) / 2).floor(), ((size - width) / 2).floor()
    return torch.where(none_fits, centre_top, top), torch.where(none_fits, centre_left, left), height, width


def resize_matrix(start: Tensor, length: Tensor, size: int, flipped: Tensor | None = None) -> Tensor:
    """[n, size, size] matrices that stretch pixels [start, start + length) of an axis over all of it, bilinearly.

    Those of ``flipped`` (bool [n]) also turn its direction.

    Equal to torchvision's resize of the cropped axis, as a crop is never longer than the axis: no antialiasing.
    """
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    places = pixels if flipped is None else torch.where(flipped[:, None], size - 1 - pixels, pixels)
    source = start[:, None] + (places + 0.5) * (length / size)[:, None] - 0.5
    source = source.clamp(min=start[:, None]).minimum((start + length - 1)[:, None])
    return torch.rsub((source[:, :, None] - pixels).abs_(), 1).clamp_(min=0)


# --- colour ------------------------------------------------------------------------------------------------
# Brightness, contrast and saturation blend an image with black, its mean gray, or its gray.


def linear(operation: str, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [n, 3, 3] of a pixel's colour and share [n] of the mean gray, for an operation by factors [n]."""
    matrix = factor[:, None, None] * torch.eye(3, device=factor.device)
    if operation == "saturation":
        matrix = matrix + (1 - factor)[:, None, None] * _gray_weights(factor)
    return matrix, 1 - factor if operation == "contrast" else torch.zeros_like(factor)


def adjust(images: Tensor, matrix: Tensor, share: Tensor) -> Tensor:
    """Each pixel's colour through its sample's matrix, and a share of the sample's mean gray added; in [0, 1]."""
    flat = images.flatten(2)
    mean_gray = flat.mean(2) @ _gray_weights(flat)
    return torch.baddbmm((share * mean_gray)[:, None, None], matrix, flat).clamp_(0, 1).view_as(images)


def _gray_weights(like: Tensor) -> Tensor:
    # Built from numbers, not from a list: copying one to the device would wait for it.
    return torch.cat([like.new_full((1,), weight) for weight in _GRAY])


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by ``shift`` of a full turn, in [-0.5, 0.5]; value and saturation stay.

    With r, g, b scaled to [0, 1] by a pixel's smallest and largest channel, the distance of its hue from red is
    1 + g + b - r sixths of a turn, towards green where g > b. A channel is full within a sixth of a turn of its own
    hue, and falls to nothing over the next.
    """
    red, green, blue = images.unbind(1)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue) - smallest
    from_red = (green + blue).sub_(red).sub_(smallest).div_(chroma.clamp(min=1e-12)).add_(1)
    angle = torch.copysign(from_red, green - blue).add_(6 * shift[:, None, None])
    own = 2 * torch.arange(3, device=images.device)[:, None, None]
    distance = (angle[:, None] - own).div_(6)  # in full turns, and next round the circle
    distance.sub_(distance.round()).abs_()
    return torch.addcmul(smallest[:, None], chroma[:, None], torch.rsub(distance, 2, alpha=6).clamp_(0, 1))


def _jitter(draw: _Draw, augmentation: Augmentation) -> tuple[Tensor, Tensor, Tensor]:
    """ColorJitter: the four operations in a random order, as ``_Plan.colours``, ``shares`` and ``turns``.

    The three linear ones are in random order, and the hue is turned after 0 to 3 of them. So that all samples do the
    same at the same time, each of the three is there before and after the hue, and does nothing in one place.
    """
    *strengths, hue_strength = augmentation.jitter
    jittered = draw.happens(augmentation.jitter_probability)
    factors = [draw.uniform(max(0.0, 1 - s), 1 + s) for s in strengths]
    order = draw.uniform(0, 1, 3).argsort(1)
    turn_after = draw.below(4)
    turns = draw.uniform(-hue_strength, hue_strength) * jittered
    used = augmentation.jitter_probability > 0
    if not used or not any(strengths):
        colours, shares = turns.new_empty(draw.count, 0, 3, 3), turns.new_empty(draw.count, 0)
    else:
        operations = zip(("brightness", "contrast", "saturation"), factors, strict=True)
        made = [linear(name, factor.masked_fill(~jittered, 1)) for name, factor in operations]
        every = torch.arange(draw.count, device=draw.device)[:, None]
        colours = torch.stack([matrix for matrix, _ in made], 1)[every, order]
        shares = torch.stack([share for _, share in made], 1)[every, order]
    if not used or hue_strength == 0:
        return colours, shares, turns[:, None][:, :0]
    place = torch.arange(colours.shape[1], device=draw.device)
    now = torch.cat([place < turn_after[:, None], place >= turn_after[:, None]], 1)
    nothing = torch.eye(3, device=draw.device)
    colours = torch.where(now[:, :, None, None], colours.repeat(1, 2, 1, 1), nothing)
    return colours, shares.repeat(1, 2) * now, turns[:, None]


# --- blur --------------------------------------------------------------------------------------------------


def blur_width(share: float, size: int) -> int:
    """Kernel size in pixels, odd: sthalles/SimCLR's 2 * (int(share * size) // 2) + 1, 3 at 32 pixels."""
    return 2 * (int(share * size) // 2) + 1


def _blur(draw: _Draw, size: int, augmentation: Augmentation) -> Tensor:
    width = blur_width(augmentation.blur_kernel, size)
    sigma = draw.uniform(*augmentation.blur_sigma)
    blurred = draw.happens(augmentation.blur_probability)
    if width == 1 or augmentation.blur_probability == 0:
        return sigma.new_empty(draw.count, 0, 0)
    return blur_matrix(sigma.masked_fill(~blurred, 1e-3), width, size)  # a sigma so small changes nothing


def blur_matrix(sigma: Tensor, width: int, size: int) -> Tensor:
    """[n, size, size] matrices that blur an axis with a Gaussian of each sample's sigma, reflecting at the ends."""
    offsets = torch.arange(width, device=sigma.device) - width // 2
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    weights = weights * (weights > 1e-9)  # products of smaller ones are denormal numbers, which are slow
    pixels = torch.arange(size, device=sigma.device)
    source = pixels[:, None] + offsets
    last = size - 1
    source = last - (last - source.abs()).abs()
    places = (source[:, :, None] == pixels).to(weights.dtype)  # [size, width, size]
    return (weights @ places.transpose(0, 1).flatten(1)).view(-1, size, size)
