"""What an audit asks of the images and of the classifier, before any attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..store.records import Verdicts
from .audit_bench import Bench, percent

Judgement = tuple[Verdicts, str]
"""pass, warn or fail; and what was measured."""
ORDER: tuple[Verdicts, ...] = ("pass", "warn", "fail")
SLOPED = 50
"""Images whose slopes are measured."""
SHARE = 0.025
"""By which a step should change the slope's quantity; see measured_slopes."""
FLAT = 0.3
"""A spread of an image's logits below which its cross-entropy is all but that of no knowledge, whatever the class."""


def grade(value: float, warn: float, fail: float) -> Verdicts:
    """pass up to ``warn``; fail beyond ``fail``, and for what is no number."""
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


def images(bench: Bench) -> Judgement:
    """Nearly no contrast is less than half a gray level of deviation; a copy is an image that came before."""
    flat = bench.images.flatten(1)
    bare = percent(flat.std(1) < 0.5 / 255)
    copies = 100 * (1 - len(flat.unique(dim=0)) / len(flat))
    brightest, dark = float(flat.max()), float(flat.max()) <= 2 / 255
    verdict = "fail" if dark else max(grade(bare, 1, 20), grade(copies, 5, 50), key=ORDER.index)
    return verdict, f"{bare:.3g} % have no contrast, {copies:.3g} % are copies, the brightest value is {brightest:.3g}"


def outputs(bench: Bench) -> Judgement:
    logits = bench.clean
    shares = bool(logits.min() >= 0 and logits.max() <= 1 + 1e-5)
    spread = float((logits.amax(1) - logits.amin(1)).median())
    known: Verdicts = "fail" if shares or spread < FLAT or not logits.isfinite().all() else "pass"
    return known, f"{float(logits.min()):.3g} to {float(logits.max()):.3g}, an image's spread over {spread:.3g}"


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


def input_range(bench: Bench) -> Judgement:
    """What values were in training is known where a BatchNorm has kept their statistics; else their range must do."""
    norm = bench.entering(lambda layer: isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None)
    first = bench.entering(lambda layer: next(layer.parameters(recurse=False), None) is not None)
    values = bench.images if first is None else first[1]
    low, high, spread = float(values.min()), float(values.max()), float(values.std())
    figure = f"the first layer sees {low:.3g} to {high:.3g}"
    if norm is None:
        usual = (low >= 0 and high <= 1) or (abs(float(values.mean())) <= 1 and 0.25 <= spread <= 2)
        return "pass" if usual else "fail", figure
    shift, scale = moved(*norm)
    off = max(scale, 1 / max(scale, 1e-9))
    verdict = max(grade(shift, 0.5, 1), grade(off, 1.6, 2.5), key=ORDER.index)
    return verdict, f"{figure}, its BatchNorm {scale:.2f} times the spread it knows, {shift:.2f} of it away"


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


def gradients(bench: Bench) -> Judgement:
    found = bench.gradients("cross-entropy")
    dead = percent(found.lengths == 0)
    if dead == 100 or found.raised:
        return "fail", "no gradient reaches the input" + (f": {found.raised:.100}" if found.raised else "")
    return grade(dead, 0, 5), f"{dead:.3g} % of images have a gradient that is zero or not finite"


def slopes(bench: Bench) -> Judgement:
    """The limits lie midway between honest models, in bfloat16 too, and what each kind of wrong gradient shows."""
    along, others = measured_slopes(bench)
    middle, far = float(along.median()), percent((along - 1).abs() > 0.5)
    said, found = others[0], others[1:].mean(0)
    # Rounding, as in bfloat16, is what two measurements differ by, which lowers the correlation of their mean too.
    same = float(torch.nan_to_num(torch.corrcoef(others[1:])[0, 1]).clamp(min=0))
    agreement = float(torch.nan_to_num(torch.corrcoef(torch.stack([said, found]))[0, 1]))
    agreement = min(1.0, agreement / math.sqrt(max(2 * same / (1 + same), 0.7)))
    between = float((said * found).sum() / said.square().sum().clamp(min=1e-30))
    if not others.any():  # there is one image, or all are the same
        agreement = between = 1.0
    off = max(max(ratio, 1 / max(ratio, 1e-9)) for ratio in (middle, between))
    verdict = max(grade(off, 1.15, 1.25), grade(far, 5, 15), grade(-agreement, -0.985, -0.95), key=ORDER.index)
    figure = f"{middle:.2f} of what the gradient says (median), for {far:.3g} % of images more than half off"
    return verdict, f"{figure}; towards other images {between:.2f} of it, correlation {agreement:.3f}"


def measured_slopes(bench: Bench) -> tuple[Tensor, Tensor]:
    """Slopes by differences on both sides of some images, beside those that the gradient says.

    The first is along the gradient, over the gradient's length: [n], 0 if there is none. The second is towards other
    images, for what a gradient leaves out: what it says, and what is found in steps of two lengths, [3, directions], as
    shares of the logits' spread.

    The slope is that of the two largest logits' difference, which no softmax flattens. Steps are as long as should
    change it by a ``SHARE`` of the spread, or that share of the way: far above rounding, in bfloat16 too, and small
    beside epsilon. Contrast is lowered to nine tenths, and no pixel moves by more than half of what that leaves, so
    that a limit on pixels, which an honest model may have, plays no part.
    """
    count = min(SLOPED, len(bench.images))
    points = 0.05 + 0.9 * bench.images[torch.linspace(0, len(bench.images) - 1, count).long().to(bench.images.device)]

    def look(some: Tensor) -> tuple[Tensor, Tensor]:
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

        size = gradient.flatten(1).square().sum(1).clamp(min=1e-30)
        most = gradient.flatten(1).abs().amax(1).clamp(min=1e-30)
        said, found = change((torch.minimum(SHARE * spread / size, 0.025 / most)).view(-1, 1, 1, 1) * gradient)
        ways = [SHARE * (points[(some + 1 + k * count // 6) % count] - images.detach()) for k in range(1, 5)]
        others = [(*change(way), change(1.2 * way)[1] / 1.2) for way in ways]
        return found / said, torch.stack([torch.cat(part) for part in zip(*others, strict=True)])

    every = torch.arange(count, device=bench.images.device)
    along, others = zip(*(made for _, made in bench.pieces().of(look, every)), strict=True)
    return torch.nan_to_num(torch.cat(along), 0, 0, 0).float(), torch.nan_to_num(torch.cat(others, 1), 0, 0, 0).float()
