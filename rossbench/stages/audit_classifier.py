"""What a check of an audit is, and those of the images and of the classifier, before any attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..models.encoders import PADDINGS, cifar_stem
from ..store.records import Verdicts
from .audit_bench import Bench, percent

Judgement = tuple[Verdicts, str]
"""pass, warn or fail; and what was measured."""
Look = Callable[[Bench], Judgement]
Need = Literal["attack", "gradient", "other model", "distances"]
"""An evaluation under an attack; a gradient that can be followed; a classifier for the same images; the smallest
perturbation that is known of each image."""
ORDER: tuple[Verdicts, ...] = ("pass", "warn", "fail")
SLOPED = 50
"""Images whose slopes are measured."""
SHARE = 0.025
"""By which a step should change the slope's quantity; see measured_slopes."""
BETTER = 1.2
"""Times as near as now, from which on another padding of the stem is likely that of the training."""
FLAT = 0.3
"""A spread of an image's logits below which its cross-entropy is all but that of no knowledge, whatever the class."""


class Check(NamedTuple):
    """One thing to look for; and what it means to pass and not to."""

    name: str
    look: Look
    good: str
    bad: str
    needs: tuple[Need, ...]


CHECKS: list[Check] = []
"""In the order in which they are made, that of their functions: here, then in audit.py."""


def check(name: str, good: str, bad: str, needs: tuple[Need, ...] = ()) -> Callable[[Look], Look]:
    def add(look: Look) -> Look:
        CHECKS.append(Check(name, look, good, bad, needs))
        return look

    return add


def grade(value: float, warn: float, fail: float) -> Verdicts:
    """pass up to ``warn``; fail beyond ``fail``, and for what is no number."""
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


@check(
    "images show something",
    "They have contrast, and are not all the same.",
    "Empty images, copies, or pixels divided by 255 twice: look at the files and at how they were converted.",
)
def images(bench: Bench) -> Judgement:
    """Nearly no contrast is less than half a gray level of deviation; a copy is an image that came before."""
    flat = bench.images.flatten(1)
    bare = percent(flat.std(1) < 0.5 / 255)
    copies = 100 * (1 - len(flat.unique(dim=0)) / len(flat))
    brightest, dark = float(flat.max()), float(flat.max()) <= 2 / 255
    verdict = "fail" if dark else max(grade(bare, 1, 20), grade(copies, 5, 50), key=ORDER.index)
    return verdict, f"{bare:.3g} % have no contrast, {copies:.3g} % are copies, the brightest value is {brightest:.3g}"


@check(
    "outputs are logits",
    "The loss, and so the gradient, is that of logits.",
    "Probabilities, sigmoids, all but equal values, or no numbers flatten the loss; return what comes before them.",
)
def outputs(bench: Bench) -> Judgement:
    logits = bench.clean
    shares = bool(logits.min() >= 0 and logits.max() <= 1 + 1e-5)
    spread = float((logits.amax(1) - logits.amin(1)).median())
    known: Verdicts = "fail" if shares or spread < FLAT or not logits.isfinite().all() else "pass"
    return known, f"{float(logits.min()):.3g} to {float(logits.max()):.3g}, an image's spread over {spread:.3g}"


@check(
    "predictions are deterministic",
    "An image gets the same answer again, and in another batch.",
    "Noise or statistics of the batch hide the gradient; use eval mode, or an attack that averages over the noise.",
)
def deterministic(bench: Bench) -> Judgement:
    """In other batches a model of low precision rounds otherwise, by up to a hundredth; in the same it does not."""
    small = torch.cat([bench.logits(part.flip(0)).flip(0) for part in bench.images.split(8)])
    scale = bench.clean.abs().max().clamp(min=1e-12)
    others = (small, bench.logits(bench.images))
    in_eights, again = (float((other - bench.clean).abs().max() / scale) for other in others)
    turned = [percent(other.argmax(1) != bench.clean.argmax(1)) for other in others]
    verdict = "fail" if turned[1] and again > 1e-4 else grade(again, 1e-3, 1e-2)  # else a tie that rounding decides
    verdict = max(verdict, grade(in_eights, 5e-3, 3e-2), key=ORDER.index)
    figure = f"logits move by {max(in_eights, again):.2g} of their size and {max(turned):.3g} % of predictions turn"
    return verdict, f"computed again, {figure}"


@check(
    "input is as in training",
    "Pixels in [0, 1], or normalised once, as the encoder knows them.",
    "Another range, normalisation or padding than the encoder knows: check mean, std, and the stem.",
)
def input_range(bench: Bench) -> Judgement:
    """What values were in training is known where a BatchNorm has kept their statistics; else their range must do."""
    first = bench.seen(lambda layer: next(layer.parameters(recurse=False), None) is not None, _range)
    low, high, middle, spread = first[0] if first else _range(bench.model, bench.images)
    figure = f"the first layer sees {low:.3g} to {high:.3g}"
    norms = bench.seen(_is_norm, moved)
    if not norms:
        usual = (low >= 0 and high <= 1) or (abs(middle) <= 1 and 0.25 <= spread <= 2)
        return "pass" if usual else "fail", figure
    shift, scale = norms[0]
    padded: Verdicts = "pass"
    figure += f", its BatchNorm {scale:.2f} times the spread it knows, {shift:.2f} of it away"
    stem = cifar_stem(bench.model)
    if stem is not None:
        better, name = other_padding(bench, stem, misfit(norms))
        padded = grade(better, BETTER, math.inf)
        figure += f"; with the padding of :{name} all of them {better:.2f} times as near" * (padded != "pass")
    return max(grade(shift, 0.5, 1), grade(off(scale), 1.6, 2.5), padded, key=ORDER.index), figure


def _range(_layer: nn.Module, values: Tensor) -> tuple[float, float, float, float]:
    """Least, largest, mean and deviation."""
    return float(values.min()), float(values.max()), float(values.mean()), float(values.std())


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None


def misfit(norms: list[tuple[float, float]]) -> float:
    """How far what the BatchNorm layers see is from what they know, in the mean over them; see moved."""
    return sum(shift + abs(math.log(max(scale, 1e-9))) for shift, scale in norms) / len(norms)


def other_padding(bench: Bench, stem: nn.Conv2d, now: float) -> tuple[float, str]:
    """How many times nearer the stem's other padding brings the BatchNorm layers, and its encoders' name.

    0.35 to 0.75 with the padding of the training, 1.33 to 2.88 with the other one: 12 small ResNets, trained briefly.
    """
    before = stem.padding
    ((name, other),) = ((name, one) for name, one in PADDINGS.items() if (one, one) != before)
    try:
        stem.padding = (other, other)
        return now / max(misfit(bench.seen(_is_norm, moved)), 1e-9), name
    finally:
        stem.padding = before


def moved(norm: nn.Module, values: Tensor) -> tuple[float, float]:
    """How far values [n, c, h, w] are from a BatchNorm's mean, in its deviations, and how many of these they spread.

    Both are medians over the channels. A share of the initial statistics, mean 0 and variance 1, is in those of a short
    training. How large it is, is not known for sure: a file may have lost the count of batches, and a finetuning may
    count from statistics that it was given. So it is the share, of those after 1 to 60 batches or none, that fits best.
    """
    state = norm.state_dict()
    momentum = getattr(norm, "momentum", None) or 0.1
    mean, deviation = values.mean((0, 2, 3)), values.std((0, 2, 3))

    def moved_by(left: float) -> tuple[float, float]:
        known_mean, variance = state["running_mean"] / (1 - left), (state["running_var"] - left) / (1 - left)
        known = (variance.clamp(min=0) + 1e-9).sqrt()
        return float(((mean - known_mean) / known).abs().median()), float((deviation / known).median())

    shares = [0.0, *((1 - momentum) ** batches for batches in range(1, 61) if momentum < 1)]
    return min(map(moved_by, shares), key=lambda one: one[0] + 2 * abs(math.log(max(one[1], 1e-9))))


@check(
    "gradients reach the input",
    "Attacks by gradient have one to follow.",
    "There they find nothing, robust or not; look for saturated logits, rounding, or steps without a gradient.",
)
def gradients(bench: Bench) -> Judgement:
    lengths, raised = bench.gradients("cross-entropy")
    dead = percent(lengths == 0)
    if dead == 100 or raised:
        return "fail", "no gradient reaches the input" + (f": {raised:.100}" if raised else "")
    if bench.blind:
        return "fail", "the lead of the likeliest other class has no gradient, as where a class copies the first"
    return grade(dead, 0, 5), f"{dead:.3g} % of images have a gradient that is zero or not finite"


@check(
    "gradients are the slopes",
    "Along the gradient the logits change as it says.",
    "Attacks are led astray, so the number is theirs and not the model's; look for detached or replaced parts.",
    needs=("gradient",),
)
def slopes(bench: Bench) -> Judgement:
    """The limits lie between honest models, in bfloat16 too, and what wrong or misleading gradients show.

    A long random step crosses kinks, so it lowers what honest models show; a short one is lost in the rounding of
    bfloat16. So the strict limits are on short steps, and only where two lengths of them agree.
    """
    along, *found = measured_slopes(bench)
    middle, far = float(along.median()), percent((along - 1).abs() > 0.5)
    (towards, agree, _), (anywhere, cosine, same), (near, exact, steady) = map(compared, found)
    grades = [grade(max(off(middle), off(towards)), 1.08, 1.15), grade(off(anywhere), 1.25, 1.25)]
    grades += [grade(far, 5, 15), grade(-agree, -0.985, -0.95), grade(-cosine, -0.92, -0.92)]
    grades += [grade(-same, -0.96, -0.92)]
    if steady > 0.99:
        grades += [grade(off(near), 1.05, 1.15), grade(-exact, -0.985, -0.965)]
    figure = f"{middle:.2f} of what the gradient says (median), for {far:.3g} % of images more than half off"
    figure += f"; towards other images {towards:.2f} of it, correlation {agree:.3f}"
    figure += f"; in random directions {anywhere:.2f}, {cosine:.3f}, steps of two lengths {same:.3f}"
    figure += f"; an eighth as long {near:.2f}, {exact:.3f}, {steady:.3f}"
    return max(grades, key=ORDER.index), figure


def off(ratio: float) -> float:
    """How many times too large or too small: at least 1."""
    return max(ratio, 1 / max(ratio, 1e-9))


def compared(slopes: Tensor) -> tuple[float, float, float]:
    """Found over said slopes, their correlation, and that of the two measurements, of slopes [3, directions].

    Rounding, as in bfloat16, is what the measurements differ by; it lowers the correlation of their mean, which is
    corrected for it.
    """
    said, found = slopes[0], slopes[1:].mean(0)
    if not slopes.any():  # there is one image, or all are the same
        return 1.0, 1.0, 1.0
    same = max(correlation(slopes[1], slopes[2]), 0.0)
    agreement = correlation(said, found) / math.sqrt(max(2 * same / (1 + same), 0.7))
    return float((said * found).sum() / said.square().sum().clamp(min=1e-30)), min(1.0, agreement), same


def correlation(one: Tensor, other: Tensor) -> float:
    """0 where one is the same everywhere."""
    return float(torch.nan_to_num(torch.corrcoef(torch.stack([one, other]))[0, 1]))


def measured_slopes(bench: Bench) -> tuple[Tensor, ...]:
    """Slopes by differences on both sides of some images, beside those that the gradient says.

    The first is along the gradient, over the gradient's length: [n], 0 if there is none. The second is towards other
    images, the third in random directions (every pixel a step up or down), for what a gradient leaves out: what it
    says, and what is found in steps of two lengths, [3, directions], as shares of the logits' spread. In random
    directions the correlation is the cosine between the gradient and what it should be. The fourth is the third in
    steps an eighth as long.

    The slope is that of the two largest logits' difference, which no softmax flattens. Steps are as long as should
    change it by a ``SHARE`` of the spread (random ones: half), or that share of the way: far above rounding, in
    bfloat16 too, and small beside epsilon. Contrast is lowered to nine tenths, and no pixel moves by more than half of
    what that leaves, so that a limit on pixels, which an honest model may have, plays no part.
    """
    count = min(SLOPED, len(bench.images))
    points = 0.05 + 0.9 * bench.images[torch.linspace(0, len(bench.images) - 1, count).long().to(bench.images.device)]
    signs = torch.randn(4, *points.shape, generator=torch.Generator().manual_seed(0)).sign().to(points.device)

    def look(some: Tensor) -> tuple[Tensor, ...]:
        images = points[some].requires_grad_()
        logits = bench.model(images)
        two, spread = logits.topk(2, dim=1).indices, (logits.amax(1) - logits.amin(1)).detach()

        def lead(logits: Tensor) -> Tensor:
            first, second = logits.gather(1, two).unbind(1)
            return first - second

        (gradient,) = torch.autograd.grad(lead(logits).sum(), images)

        def change(step: Tensor) -> tuple[Tensor, Tensor]:
            ahead, behind = (lead(bench.logits(images.detach() + way)) for way in (step, -step))
            return (gradient * step).flatten(1).sum(1) / spread, (ahead - behind) / 2 / spread

        def in_two_lengths(ways: Iterable[Tensor]) -> Tensor:
            found = [(*change(way), change(1.2 * way)[1] / 1.2) for way in ways]
            return torch.stack([torch.cat(part) for part in zip(*found, strict=True)])

        size = gradient.flatten(1).square().sum(1).clamp(min=1e-30)
        most = gradient.flatten(1).abs().amax(1).clamp(min=1e-30)
        said, found = change((torch.minimum(SHARE * spread / size, 0.025 / most)).view(-1, 1, 1, 1) * gradient)
        others = (SHARE * (points[(some + 1 + k * count // 6) % count] - images.detach()) for k in range(1, 5))
        length = (SHARE / 2 * spread / size.sqrt()).clamp(max=0.02).view(-1, 1, 1, 1)
        random = [length * sign[some] for sign in signs]
        return found / said, *map(in_two_lengths, (others, random, [step / 8 for step in random]))

    every = torch.arange(count, device=bench.images.device)
    found = zip(*(made for _, made in bench.pieces().of(look, every)), strict=True)
    return tuple(torch.nan_to_num(torch.cat(parts, -1), 0, 0, 0).float() for parts in found)
