"""Verdicts on one classifier's numbers: from its stored predictions, and a few passes over a fixed part of its images.

The checks are those that Carlini et al. (2019), "On Evaluating Adversarial Robustness", and AutoAttack's reference ask
for. docs/trust.md explains each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..attacks.task import Draws, run_attack
from ..config.recipes import Attack, Evaluation
from ..config.specs import AuditSpec
from ..data.datasets import balanced
from ..store import artifacts
from ..store.records import Verdict, Verdicts
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import AttackError
from ..util.memory import Pieces
from ..util.seeds import derive
from .context import Context
from .evaluate import at_once
from .train_loop import Hooks, Tick

IMAGES = 200
"""In the audited part, or one of each class where there are more classes."""
SLACK = 0.5
"""In percentage points: an image or two of the audited part, which chance may turn."""
MARGIN = 2.0
"""In percentage points: so much a stronger search may take away, or accuracy rise, before a verdict warns or fails."""
WRONG = 20.0
"""From here on, in percentage points, a number is not too high but meaningless."""
STRONGER = Attack(steps=50, step_size=0.1, step_unit="epsilon", restarts=2)
LARGE = Attack(steps=20, step_size=0.25, step_unit="epsilon")
QUERIES = Attack("square", steps=300)


def build(specs: Sequence[AuditSpec], context: Context, hooks: Hooks) -> None:
    """Audit the evaluations of one classifier, and store what each check found."""
    (spec,) = specs
    data, classifier, began = context.data(spec), context.classifier(spec.finetune), time.perf_counter()
    stored = {cell.epsilon: artifacts.load_predictions(context.store, cell)[0][:, 0] for cell in spec.cells}
    verdicts = judge(classifier, data.images, data.labels, stored, spec.recipe, spec.seed, hooks)
    seconds, images = time.perf_counter() - began, len(audited(data.labels))
    artifacts.save_audit(context.store, spec, verdicts, images, seconds, context.provenance())


def judge(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    predictions: Mapping[float, Tensor],
    recipe: Evaluation,
    seed: int,
    hooks: Hooks,
) -> list[Verdict]:
    """The verdict of every check that applies, those on the classifier first.

    images: uint8 [n, 3, size, size]; labels: int64 [n]; predictions: by evaluation epsilon, the class that was stored
    for each image, int64 [n]; recipe: how they were made.
    """
    bench = _Bench(classifier, images, labels, predictions, recipe, seed)
    checks = [check for check in CHECKS if bench.epsilons or not check.attacks]
    verdicts = []
    for k, check in enumerate(checks):
        try:
            verdict, figure = check.look(bench)
        except AttackError as error:
            verdict, figure = "fail", str(error)
        verdicts.append(Verdict(check.name, verdict, figure, check.good if verdict == "pass" else check.bad))
        hooks.tick(Tick((k + 1) / len(checks), f"check {k + 1}/{len(checks)}", 0))
    return verdicts


def audited(labels: Tensor) -> Tensor:
    """The fixed, class-balanced part of the images with these labels [n] that is looked at: int64 [m], ascending."""
    count = min(len(labels), max(IMAGES, int(labels.max()) + 1))
    return torch.from_numpy(balanced(labels.cpu().numpy(), count)).to(labels.device)


class _Bench:
    """The audited part of the test images, and what several checks ask of it."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        predictions: Mapping[float, Tensor],
        recipe: Evaluation,
        seed: int,
    ) -> None:
        self.model, self.attack, self.seed = model.eval().requires_grad_(False), recipe.attack, seed
        self.stored = {epsilon: predictions[epsilon].to(labels.device) == labels for epsilon in sorted(predictions)}
        self.part = audited(labels)
        self.labels = labels[self.part]
        self.images = images[self.part.to(images.device)].to(labels.device).float() / 255

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    @cached_property
    def clean(self) -> Tensor:
        return self.logits(self.images)

    @property
    def epsilons(self) -> list[float]:
        """Of the stored evaluations under attack, ascending; none where there is nothing to judge."""
        return [epsilon for epsilon in self.stored if epsilon and self.attack.kind.is_distance]

    @cached_property
    def standing(self) -> Tensor:
        """Which audited images the stored attack left right: bool [epsilons, m]."""
        return torch.stack([self.stored[epsilon][self.part] for epsilon in self.epsilons])

    def perturb(self, attack: Attack, radii: Tensor, places: Tensor) -> Tensor:
        """Images of some places in the audited part, under another attack in the norm of the stored one."""
        draws = Draws(derive(self.seed, "audit"), len(self.labels), places)
        attack = replace(attack, norm=self.attack.norm)
        return run_attack(self.model, self.images[places], self.labels[places], attack, radii, draws)

    def search(self, attack: Attack) -> _Search:
        """What another attack finds, at every epsilon, where the stored one found nothing.

        At every epsilon, since one chosen by its accuracy would be another after one image more or less. From the
        largest, where a blind attack shows; what resists there is not searched again in the smaller balls within.
        """
        found = _Search(self)
        resisted = torch.zeros_like(self.labels, dtype=torch.bool)
        for k, epsilon in reversed([*enumerate(self.epsilons)]):
            radii = self.images.new_full((len(self.labels),), epsilon)

            def look(places: Tensor, radii: Tensor = radii) -> Tensor:
                adversarial = self.perturb(attack, radii[places], places)
                found.note_bounds(adversarial, self.images[places], radii[places])
                return self.logits(adversarial).argmax(1) != self.labels[places]

            for places, turned in Pieces(at_once(self.images, self.images.device)).of(
                look, (found.left[k] & ~resisted).nonzero()[:, 0]
            ):
                found.left[k, places] = ~turned
            resisted = found.left[k]
        return found

    @cached_property
    def stronger(self) -> _Search:
        return self.search(STRONGER)

    def accuracy(self, images: Tensor) -> float:
        """In percent."""
        return _percent(self.logits(images).argmax(1) == self.labels)

    def entering(self, kind: Callable[[nn.Module], bool]) -> tuple[nn.Module, Tensor] | None:
        """The layer of a kind that is called first, and what it is given for the audited images."""
        calls: list[tuple[nn.Module, Tensor]] = []

        def see(layer: nn.Module, inputs: Any) -> None:
            if inputs and not calls:
                calls.append((layer, inputs[0].detach().float()))

        hooks = [layer.register_forward_pre_hook(see) for layer in self.model.modules() if kind(layer)]
        try:
            self.logits(self.images)
        finally:
            for hook in hooks:
                hook.remove()
        return calls[0] if calls else None


class _Search:
    """What an attack of the audit left right, and how far it went."""

    def __init__(self, bench: _Bench) -> None:
        self.bench = bench
        self.left = bench.standing.clone()
        """Right under both attacks: bool [epsilons, m]."""
        self.furthest, self.low, self.high = 0.0, 1.0, 0.0
        """Of all adversarial images: the largest distance, in epsilons; the darkest and the brightest pixel."""

    def note_bounds(self, adversarial: Tensor, images: Tensor, radii: Tensor) -> None:
        order = 2 if self.bench.attack.norm == "L2" else torch.inf
        distances = torch.linalg.vector_norm((adversarial - images).flatten(1), ord=order, dim=1)
        low, high = adversarial.aminmax()
        self.furthest = max(self.furthest, float((distances / radii).max()))
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def shortfall(self, what: str) -> tuple[float, str]:
        """By how many percentage points the stored attack falls short of both together where it does so most, in
        words too."""
        bench = self.bench
        stored, after = ([_percent(column) for column in right] for right in (bench.standing, self.left))
        # Of several equal ones, the column nearest to half right, where there is most to see.
        worst = max(range(len(stored)), key=lambda k: (stored[k] - after[k], -abs(stored[k] - 50)))
        words = f"{stored[worst]:.2f} % under {bench.attack}, {after[worst]:.2f} % under that and {what}"
        return stored[worst] - after[worst], f"{words}, {EPS} = {_short(bench.epsilons[worst])}"


Judgement = tuple[Verdicts, str]
"""pass, warn or fail; and what was measured."""
_ORDER: tuple[Verdicts, ...] = ("pass", "warn", "fail")
_short = format_epsilon


def _grade(value: float, warn: float, fail: float) -> Verdicts:
    """pass up to ``warn``; fail beyond ``fail``, and for what is no number."""
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


def _percent(right: Tensor) -> float:
    return 100 * float(right.float().mean())


# --- of the classifier -------------------------------------------------------------------------------------


def _outputs(bench: _Bench) -> Judgement:
    logits, sums = bench.clean, bench.clean.sum(1)
    probabilities = logits.min() >= 0 and logits.max() <= 1 + 1e-5 and ((sums - 1).abs() < 1e-4).all()
    verdict: Verdicts = "fail" if probabilities or not logits.isfinite().all() else "pass"
    return verdict, f"{float(logits.min()):.3g} to {float(logits.max()):.3g}, sum {float(sums.mean()):.3g} on average"


def _deterministic(bench: _Bench) -> Judgement:
    small = [bench.logits(part.flip(0)).flip(0) for part in bench.images.split(8)]
    scale = bench.clean.abs().max().clamp(min=1e-12)
    others = (torch.cat(small), bench.logits(bench.images))
    moved = max(float((other - bench.clean).abs().max() / scale) for other in others)
    turned = max(_percent(other.argmax(1) != bench.clean.argmax(1)) for other in others)
    verdict = "fail" if turned and moved > 1e-4 else _grade(moved, 1e-3, 1e-2)  # else a tie that rounding decides
    return verdict, f"computed again, logits move by {moved:.2g} of their size and {turned:.3g} % of predictions turn"


def _input(bench: _Bench) -> Judgement:
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


def _gradients(bench: _Bench) -> Judgement:
    images = bench.images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(bench.model(images), bench.labels, reduction="sum")
    gradient = torch.autograd.grad(loss, images)[0] if loss.requires_grad else torch.zeros_like(images)
    lengths = gradient.flatten(1).norm(dim=1)
    dead = _percent((lengths == 0) | ~lengths.isfinite())
    return _grade(dead, 0, 5), f"{dead:.3g} % of images have a gradient that is zero or not finite"


# --- of the numbers ----------------------------------------------------------------------------------------


def _clean(bench: _Bench) -> Judgement:
    if 0.0 not in bench.stored:
        return "pass", "no evaluation at epsilon 0 to compare"
    right = bench.clean.argmax(1) == bench.labels
    differ = _percent(right != bench.stored[0.0][bench.part])
    return _grade(
        differ, 0, 0.5
    ), f"{_percent(right):.2f} % right now; {differ:.3g} % of images differ from those stored"


def _rising(bench: _Bench) -> Judgement:
    accuracy = {epsilon: _percent(right) for epsilon, right in bench.stored.items()}
    rises = {after: accuracy[after] - accuracy[before] for before, after in pairwise(accuracy)}
    where = max(rises, key=lambda epsilon: rises[epsilon], default=0.0)
    most = max(rises.get(where, 0.0), 0.0)
    return _grade(most, SLACK, MARGIN), f"{most:.2f} points at most" + (f", at {EPS} = {_short(where)}" if most else "")


def _stronger(bench: _Bench) -> Judgement:
    missed, figure = bench.stronger.shortfall(str(replace(STRONGER, norm=bench.attack.norm)))
    return _grade(missed, MARGIN, WRONG), figure


def _noise(bench: _Bench) -> Judgement:
    missed, figure = bench.search(Attack("gaussian-noise")).shortfall("Gaussian noise")
    return _grade(missed, SLACK, MARGIN), figure


def _black_box(bench: _Bench) -> Judgement:
    missed, figure = bench.search(QUERIES).shortfall(f"Square, {QUERIES.steps} queries")
    return _grade(missed, SLACK, MARGIN), figure


def _large(bench: _Bench) -> Judgement:
    epsilon = 0.5 * (math.sqrt(bench.images[0].numel()) if bench.attack.norm == "L2" else 1)
    everywhere = torch.arange(len(bench.labels), device=bench.labels.device)
    found = bench.perturb(LARGE, bench.images.new_full((len(everywhere),), epsilon), everywhere)
    left, chance = bench.accuracy(found), 1 / bench.clean.shape[1]
    most = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / len(bench.labels)))
    return _grade(
        left, most, most
    ), f"{left:.2f} % at {EPS} = {epsilon:.3g}, which turns any image gray; chance: {most:.1f} %"


def _bounds(bench: _Bench) -> Judgement:
    """Judged when they were made, as all are: see attacks.pgd.check."""
    found = bench.stronger
    return "pass", f"at most {found.furthest:.4f} epsilon away, pixels {found.low:.3g} to {found.high:.3g}"


class Check(NamedTuple):
    """One thing to look for."""

    name: str
    look: Callable[[_Bench], Judgement]
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
