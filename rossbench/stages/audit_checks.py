"""The checks of an audit: what each looks for, and what its verdict means.

They are those that Carlini et al. (2019), "On Evaluating Adversarial Robustness", and AutoAttack's reference ask for,
and slopes measured beside those that the gradient says. docs/trust.md explains each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from ..config.recipes import Attack
from ..util.epsilons import EPS, format_epsilon
from . import audit_classifier as classifier
from .audit_bench import GRADIENT, SCALE_FREE, Bench, percent
from .audit_classifier import Judgement, grade

SLACK = 1.0
"""In percentage points: an image or two of the audited part, which chance may turn."""
MARGIN = 2.0
"""In percentage points: so much a search may take away that knows less than the attack, or accuracy rise."""
WRONG = 10.0
"""From here on, in percentage points, an attack that stops short has not measured the model."""
TRANSFERRED = (GRADIENT[0], Attack(steps=20, step_size=0.2, step_unit="epsilon"))
LARGE = Attack(steps=10, step_size=0.25, step_unit="epsilon")
QUERIES = Attack("square", steps=100)
FINER = f"--attack pgd,steps={SCALE_FREE.steps},step_size={SCALE_FREE.step_size},step_unit=epsilon"


def _clean(bench: Bench) -> Judgement:
    if 0.0 not in bench.stored:
        return "pass", "no evaluation at epsilon 0 to compare"
    right = bench.clean.argmax(1) == bench.labels
    differ = percent(right != bench.stored[0.0][bench.part])
    figure = f"{percent(right):.2f} % right now; {differ:.3g} % of images differ from those stored"
    return grade(differ, 0, 0.5), figure


def _above_chance(bench: Bench) -> Judgement:
    """Chance is the share of the largest class. Of all test images, where they were evaluated without an attack."""
    right, labels = bench.clean.argmax(1) == bench.labels, bench.labels
    if 0.0 in bench.stored:
        right, labels = bench.stored[0.0], bench.all_labels
    chance = max(float(labels.bincount().max()) / len(labels), 1 / bench.clean.shape[1])
    above = (percent(right) / 100 - chance) / math.sqrt(chance * (1 - chance) / len(labels) + 1e-12)
    figure = f"{percent(right):.2f} % right of {len(labels)}; chance: {100 * chance:.1f} %"
    return grade(-above, -3, -1), figure


def _rising(bench: Bench) -> Judgement:
    accuracy = {epsilon: percent(right) for epsilon, right in bench.stored.items()}
    rises = {after: accuracy[after] - accuracy[before] for before, after in pairwise(accuracy)}
    where = max(rises, key=lambda epsilon: rises[epsilon], default=0.0)
    most = max(rises.get(where, 0.0), 0.0)
    place = f", at {EPS} = {format_epsilon(where)}" if most else ""
    return grade(most, SLACK / 2, MARGIN), f"{most:.2f} points at most{place}"


def _stronger(bench: Bench) -> Judgement:
    """By its own search, since a model whose gradient is right may have been attacked too little."""
    missed, figure = bench.gap(bench.standing, bench.resisting)
    figure = figure.format(f"under {bench.attack}", "under that and finer, scale-free steps")
    if missed > MARGIN and bench.attack.name != "autoattack-standard":
        best = "--attack autoattack-standard" if bench.clean.shape[1] >= 4 else FINER + ",restarts=5"
        figure += f"; {missed:.1f} points less, by {FINER},loss=margin; {best} measures it"
    return grade(missed, MARGIN, WRONG), figure


def _lower(bench: Bench) -> Judgement:
    beyond, figure = bench.gap(bench.reached, bench.reached & bench.standing)
    return grade(beyond, 5, WRONG), figure.format("resist the audit's search", "resist that and the stored attack")


def _noise(bench: Bench) -> Judgement:
    missed, figure = bench.gap(bench.standing, bench.search([Attack("gaussian-noise")], bench.standing))
    return grade(missed, SLACK, MARGIN), figure.format(f"under {bench.attack}", "under that and Gaussian noise")


def _black_box(bench: Bench) -> Judgement:
    """On every second image: queries take most of an audit's time, and what they must show is plain."""
    some = bench.resisting[:, ::2]
    tried = bench.resisting & (torch.arange(len(bench.labels), device=some.device) % 2 == 0)
    missed, figure = bench.gap(some, bench.search([QUERIES], tried)[:, ::2])
    return grade(missed, SLACK, MARGIN), figure.format("resist", f"resist Square, {QUERIES.steps} queries, too")


def _transfer(bench: Bench) -> Judgement:
    assert bench.other is not None
    if (bench.gradients("margin", bench.other).lengths == 0).any():
        return "pass", "the other model has no gradient to follow"
    missed, figure = bench.gap(bench.resisting, bench.search(TRANSFERRED, bench.resisting, bench.other))
    return grade(missed, SLACK, MARGIN), figure.format("resist", "resist images of another model too")


def _minimal(bench: Bench) -> Judgement:
    """By perturbations that were measured beforehand, of all images."""
    assert bench.distances is not None
    beyond = bench.distances > torch.tensor(bench.epsilons, device=bench.distances.device)[:, None]
    missed, figure = bench.gap(bench.resisting, bench.resisting & beyond)
    return grade(missed, SLACK, MARGIN), figure.format("resist", "have no perturbation that is smaller")


def _large(bench: Bench) -> Judgement:
    epsilon = 0.5 * (math.sqrt(bench.images[0].numel()) if bench.attack.norm == "L2" else 1)
    everywhere = torch.arange(len(bench.labels), device=bench.labels.device)
    found = bench.perturb(LARGE, bench.images.new_full((len(everywhere),), epsilon), everywhere)
    left, chance = bench.accuracy(found), 1 / bench.clean.shape[1]
    most = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / len(bench.labels)))
    figure = f"{left:.2f} % at {EPS} = {epsilon:.3g}, which turns any image gray; chance: {most:.1f} %"
    return grade(left, most, most), figure


def _bounds(bench: Bench) -> Judgement:
    """Judged when they were made, as all are: see attacks.pgd.check."""
    return "pass", f"at most {bench.furthest:.4f} epsilon away, pixels {bench.low:.3g} to {bench.high:.3g}"


Need = Literal["attack", "gradient", "other model", "distances"]
"""An evaluation under an attack; a gradient that can be followed; a classifier for the same images; the smallest
perturbation that is known of each image."""


class Check(NamedTuple):
    """One thing to look for."""

    name: str
    look: Callable[[Bench], Judgement]
    needs: tuple[Need, ...]
    good: str
    bad: str

    def applies(self, bench: Bench) -> bool:
        has = {
            "attack": bool(bench.epsilons),
            "gradient": not bench.blind,
            "other model": bench.other is not None,
            "distances": bench.distances is not None,
        }
        return all(has[need] for need in self.needs)


CHECKS = (
    Check(
        "images show something",
        classifier.images,
        (),
        "They have contrast, and are not all the same.",
        "Empty images, copies, or pixels divided by 255 twice: look at the files and at how they were converted.",
    ),
    Check(
        "outputs are logits",
        classifier.outputs,
        (),
        "The loss, and so the gradient, is that of logits.",
        "Probabilities, sigmoids, all but equal values, or no numbers flatten the loss; return what comes before them.",
    ),
    Check(
        "predictions are deterministic",
        classifier.deterministic,
        (),
        "An image gets the same answer again, and in another batch.",
        "Noise or statistics of the batch hide the gradient; use eval mode, or an attack that averages over the noise.",
    ),
    Check(
        "input is as in training",
        classifier.input_range,
        (),
        "Pixels in [0, 1], or normalised once, as the encoder knows them.",
        "Another range, normalisation or padding than the encoder knows: check mean, std, and the stem.",
    ),
    Check(
        "gradients reach the input",
        classifier.gradients,
        (),
        "Attacks by gradient have one to follow.",
        "There they find nothing, robust or not; look for saturated logits, rounding, or steps without a gradient.",
    ),
    Check(
        "gradients are the slopes",
        classifier.slopes,
        ("gradient",),
        "Along the gradient the logits change as it says.",
        "Attacks are led astray, so the number is theirs and not the model's; look for detached or replaced parts.",
    ),
    Check(
        "epsilon 0 is clean accuracy",
        _clean,
        (),
        "The stored predictions are this classifier's.",
        "The stored predictions are not what it says now; was it another mode, device or precision?",
    ),
    Check(
        "clean accuracy is above chance",
        _above_chance,
        (),
        "There is something to attack.",
        "The classifier has learned nothing that robustness could be of: check encoder, labels and finetuning.",
    ),
    Check(
        "accuracy does not rise with epsilon",
        _rising,
        (),
        "A larger ball, which holds the smaller, is at least as hard.",
        "A larger ball holds the smaller one, so the attack fails in it; take smaller steps, more of them, restarts.",
    ),
    Check(
        "finer and scale-free steps change little",
        _stronger,
        ("attack", "gradient"),
        f"They take away at most {MARGIN:g} points at any epsilon.",
        "The attack stops short and the number is too high by the difference, at least; report a stronger one.",
    ),
    Check(
        "the attack finds no more than there is",
        _lower,
        ("attack", "gradient"),
        "The audit's search turns what the attack turned.",
        "A search from the clean images does not find what was stored: did the attack change the model or its epsilon?",
    ),
    Check(
        "noise hurts less than the attack",
        _noise,
        ("attack",),
        "The attack finds what chance does not.",
        "Chance does better than the attack, so it is broken, or follows no gradient.",
    ),
    Check(
        "a black-box attack does not beat it",
        _black_box,
        ("attack",),
        "A search without gradients does no better.",
        "A search without gradients does better: gradients mislead; report autoattack-standard or an adaptive attack.",
    ),
    Check(
        "images of another model do not beat it",
        _transfer,
        ("attack", "other model"),
        "What turns another model turns nothing that resisted here.",
        "Another model's adversarial images do better: this one's gradients mislead; report an adaptive attack.",
    ),
    Check(
        "no smaller perturbation is known",
        _minimal,
        ("attack", "distances"),
        "A search for the smallest perturbation of each image finds none below the epsilons that it resists.",
        "A minimal-norm attack does better: the number is too high; --kind minimal tells what it becomes.",
    ),
    Check(
        "a large epsilon leaves chance or less",
        _large,
        ("attack", "gradient"),
        "With nothing in its way an attack succeeds.",
        "An attack fails even where it may do anything, so it does not work on this classifier.",
    ),
    Check(
        "adversarial images are within bounds",
        _bounds,
        ("attack", "gradient"),
        "So is every image that an attack returned, here and in the evaluation.",
        "An attack left its bounds, or gave no number.",
    ),
)
