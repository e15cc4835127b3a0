"""The checks of an audit: what each looks for, and what its verdict means.

They are those that Carlini et al. (2019), "On Evaluating Adversarial Robustness", and AutoAttack's reference ask for.
docs/trust.md explains each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config.recipes import Attack
from ..store.records import Verdicts
from ..util.epsilons import EPS, format_epsilon
from .audit_bench import Bench, percent

SLACK = 0.5
"""In percentage points: an image or two of the audited part, which chance may turn."""
MARGIN = 2.0
"""In percentage points: so much a stronger search may take away, or accuracy rise, before a verdict warns or fails."""
WRONG = 20.0
"""From here on, in percentage points, a number is not too high but meaningless."""
STRONGER = Attack(steps=50, step_size=0.1, step_unit="epsilon", restarts=2)
LARGE = Attack(steps=20, step_size=0.25, step_unit="epsilon")
QUERIES = Attack("square", steps=300)


Judgement = tuple[Verdicts, str]
"""pass, warn or fail; and what was measured."""
_ORDER: tuple[Verdicts, ...] = ("pass", "warn", "fail")


def _grade(value: float, warn: float, fail: float) -> Verdicts:
    """pass up to ``warn``; fail beyond ``fail``, and for what is no number."""
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


# --- of the classifier -------------------------------------------------------------------------------------


def _outputs(bench: Bench) -> Judgement:
    logits, sums = bench.clean, bench.clean.sum(1)
    probabilities = logits.min() >= 0 and logits.max() <= 1 + 1e-5 and ((sums - 1).abs() < 1e-4).all()
    verdict: Verdicts = "fail" if probabilities or not logits.isfinite().all() else "pass"
    return verdict, f"{float(logits.min()):.3g} to {float(logits.max()):.3g}, sum {float(sums.mean()):.3g} on average"


def _deterministic(bench: Bench) -> Judgement:
    small = [bench.logits(part.flip(0)).flip(0) for part in bench.images.split(8)]
    scale = bench.clean.abs().max().clamp(min=1e-12)
    others = (torch.cat(small), bench.logits(bench.images))
    moved = max(float((other - bench.clean).abs().max() / scale) for other in others)
    turned = max(percent(other.argmax(1) != bench.clean.argmax(1)) for other in others)
    verdict = "fail" if turned and moved > 1e-4 else _grade(moved, 1e-3, 1e-2)  # else a tie that rounding decides
    return verdict, f"computed again, logits move by {moved:.2g} of their size and {turned:.3g} % of predictions turn"


def _input(bench: Bench) -> Judgement:
    """What values were in training is known where a BatchNorm has kept their statistics."""
    first = bench.entering(lambda layer: next(layer.parameters(recurse=False), None) is not None)
    values = bench.images if first is None else first[1]
    low, high, spread = float(values.min()), float(values.max()), float(values.std())
    usual = (low >= 0 and high <= 1) or (abs(float(values.mean())) <= 1 and 0.25 <= spread <= 2)
    verdict: Verdicts = "pass" if usual else "fail"
    figure = f"the first layer sees {low:.3g} to {high:.3g}"
    norm = bench.entering(lambda layer: isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None)
    if norm is not None:
        shift, scale = _moved(*norm)
        off = max(scale, 1 / max(scale, 1e-9))
        verdict = max(verdict, _grade(shift, 0.5, 1), _grade(off, 1.6, 2.5), key=_ORDER.index)
        figure += f", its BatchNorm {scale:.2f} times the spread it knows, {shift:.2f} of it away"
    return verdict, figure


def _moved(norm: nn.Module, values: Tensor) -> tuple[float, float]:
    """How far values [n, c, h, w] are from a BatchNorm's mean, in its deviations, and how many of these they spread.

    Both are medians over the channels. What is left of the initial statistics, mean 0 and variance 1, is taken out.
    """
    state = norm.state_dict()
    batches, momentum = int(state.get("num_batches_tracked", 0)), getattr(norm, "momentum", None)
    left = (1 - momentum) ** batches if batches and momentum is not None else 0.0
    mean, variance = state["running_mean"] / (1 - left), (state["running_var"] - left).clamp(min=0) / (1 - left)
    known = (variance + 1e-9).sqrt()
    shift = ((values.mean((0, 2, 3)) - mean) / known).abs().median()
    return float(shift), float((values.std((0, 2, 3)) / known).median())


def _gradients(bench: Bench) -> Judgement:
    images = bench.images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(bench.model(images), bench.labels, reduction="sum")
    gradient = torch.autograd.grad(loss, images)[0] if loss.requires_grad else torch.zeros_like(images)
    lengths = gradient.flatten(1).norm(dim=1)
    dead = percent((lengths == 0) | ~lengths.isfinite())
    return _grade(dead, 0, 5), f"{dead:.3g} % of images have a gradient that is zero or not finite"


# --- of the numbers ----------------------------------------------------------------------------------------


def _clean(bench: Bench) -> Judgement:
    if 0.0 not in bench.stored:
        return "pass", "no evaluation at epsilon 0 to compare"
    right = bench.clean.argmax(1) == bench.labels
    differ = percent(right != bench.stored[0.0][bench.part])
    return _grade(
        differ, 0, 0.5
    ), f"{percent(right):.2f} % right now; {differ:.3g} % of images differ from those stored"


def _rising(bench: Bench) -> Judgement:
    accuracy = {epsilon: percent(right) for epsilon, right in bench.stored.items()}
    rises = {after: accuracy[after] - accuracy[before] for before, after in pairwise(accuracy)}
    where = max(rises, key=lambda epsilon: rises[epsilon], default=0.0)
    most = max(rises.get(where, 0.0), 0.0)
    return _grade(most, SLACK, MARGIN), f"{most:.2f} points at most" + (
        f", at {EPS} = {format_epsilon(where)}" if most else ""
    )


def _stronger(bench: Bench) -> Judgement:
    missed, figure = bench.search(STRONGER).shortfall(str(replace(STRONGER, norm=bench.attack.norm)))
    return _grade(missed, MARGIN, WRONG), figure


def _noise(bench: Bench) -> Judgement:
    missed, figure = bench.search(Attack("gaussian-noise")).shortfall("Gaussian noise")
    return _grade(missed, SLACK, MARGIN), figure


def _black_box(bench: Bench) -> Judgement:
    missed, figure = bench.search(QUERIES).shortfall(f"Square, {QUERIES.steps} queries")
    return _grade(missed, SLACK, MARGIN), figure


def _large(bench: Bench) -> Judgement:
    epsilon = 0.5 * (math.sqrt(bench.images[0].numel()) if bench.attack.norm == "L2" else 1)
    everywhere = torch.arange(len(bench.labels), device=bench.labels.device)
    found = bench.perturb(LARGE, bench.images.new_full((len(everywhere),), epsilon), everywhere)
    left, chance = bench.accuracy(found), 1 / bench.clean.shape[1]
    most = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / len(bench.labels)))
    return _grade(
        left, most, most
    ), f"{left:.2f} % at {EPS} = {epsilon:.3g}, which turns any image gray; chance: {most:.1f} %"


def _bounds(bench: Bench) -> Judgement:
    """Judged when they were made, as all are: see attacks.pgd.check."""
    found = bench.search(STRONGER)
    return "pass", f"at most {found.furthest:.4f} epsilon away, pixels {found.low:.3g} to {found.high:.3g}"


class Check(NamedTuple):
    """One thing to look for."""

    name: str
    look: Callable[[Bench], Judgement]
    attacks: bool
    """Whether it needs an evaluation under an attack."""
    good: str
    bad: str


CHECKS = (
    Check(
        "outputs are logits",
        _outputs,
        False,
        "The loss, and so the gradient, is that of logits.",
        "Probabilities, or no numbers: a softmax on a softmax flattens gradients; return what comes before it.",
    ),
    Check(
        "predictions are deterministic",
        _deterministic,
        False,
        "An image gets the same answer again, and in another batch.",
        "Noise or statistics of the batch hide the gradient; use eval mode, or an attack that averages over the noise.",
    ),
    Check(
        "input is as in training",
        _input,
        False,
        "Pixels in [0, 1], or normalised once, as the encoder knows them.",
        "Another range or normalisation than the encoder knows: check mean and std, and that one place applies them.",
    ),
    Check(
        "gradients reach the input",
        _gradients,
        False,
        "Attacks by gradient have one to follow.",
        "There they find nothing, robust or not; look for saturated logits, rounding, or steps without a gradient.",
    ),
    Check(
        "epsilon 0 is clean accuracy",
        _clean,
        False,
        "The stored predictions are this classifier's.",
        "The stored predictions are not what it says now; was it another mode, device or precision?",
    ),
    Check(
        "accuracy does not rise with epsilon",
        _rising,
        False,
        "A larger ball, which holds the smaller, is at least as hard.",
        "A larger ball holds the smaller one, so the attack fails in it; take smaller steps, more of them, restarts.",
    ),
    Check(
        "more steps and restarts change little",
        _stronger,
        True,
        f"A stronger search takes away at most {MARGIN:g} points at any epsilon.",
        "The attack stops short and the number is too high by the difference, at least; report a stronger one.",
    ),
    Check(
        "noise hurts less than the attack",
        _noise,
        True,
        "The attack finds what chance does not.",
        "Chance does better than the attack, so it is broken, or follows no gradient.",
    ),
    Check(
        "a black-box attack does not beat it",
        _black_box,
        True,
        "A search without gradients does no better.",
        "A search without gradients does better: gradients mislead; report autoattack-standard or an adaptive attack.",
    ),
    Check(
        "a large epsilon leaves chance or less",
        _large,
        True,
        "With nothing in its way an attack succeeds.",
        "An attack fails even where it may do anything, so it does not work on this classifier.",
    ),
    Check(
        "adversarial images are within bounds",
        _bounds,
        True,
        "So is every image that an attack returned, here and in the evaluation.",
        "An attack left its bounds, or gave no number.",
    ),
)
