"""Stage 4: verdicts on one classifier's numbers: can they be trusted?

The checks are those that Carlini et al. (2019), "On Evaluating Adversarial Robustness", and AutoAttack's reference ask
for, and slopes measured beside those that the gradient says. docs/trust.md explains each. Here are those on what is
stored and on attacks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from ..config.recipes import Attack
from ..config.specs import AuditSpec, FinetuneSpec
from ..store import artifacts
from ..store.records import Verdict
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import AttackError
from .audit_bench import GRADIENT, SCALE_FREE, Bench, percent
from .audit_classifier import CHECKS, Judgement, check, grade
from .context import Context
from .train_loop import Hooks, Tick

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
LEARNED = "the encoder has learned something"


def build(specs: Sequence[AuditSpec], context: Context, hooks: Hooks) -> None:
    """Audit the evaluations of one classifier, and store what each check found."""
    (spec,) = specs
    store, data = context.store, context.data(spec)
    classifier, began = context.classifier(spec.finetune), time.perf_counter()
    other = None
    if spec.other:
        other = artifacts.load_classifier(store, spec.other, context.encoder(spec.other.pretrain)).to(context.device)
    distances = artifacts.load_measured(store, spec.minimal)["distance"] if spec.minimal else None
    stored = {cell.epsilon: artifacts.load_predictions(store, cell)[0][:, 0] for cell in spec.cells}
    bench = Bench(classifier, data.images, data.labels, stored, spec.recipe, spec.seed, other, distances)
    verdicts = learned(spec.finetune, artifacts.load_history(store, spec.finetune.pretrain)) + judge(bench, hooks)
    seconds = time.perf_counter() - began
    artifacts.save_audit(store, spec, verdicts, len(bench.labels), seconds, context.provenance())


def learned(spec: FinetuneSpec, history: Sequence[Mapping[str, float]]) -> list[Verdict]:
    """Whether the encoder was worth a classifier; no verdict where the history, an entry an epoch, is not known.

    A collapsed encoder fails, unless the finetuning trained it whole: then only what was pretrained is lost.
    """
    if not history:
        return []
    loss, pretrain = history[-1]["loss"], spec.pretrain
    figure = f"the pretraining ended at loss {loss:.3f}; of constant features: {pretrain.constant_loss:.3f}"
    if not pretrain.is_collapsed(loss):
        return [Verdict(LEARNED, "pass", figure, "Its loss is not that of constant features.")]
    meaning = "This encoder learned nothing: its loss is that of constant features; try " + pretrain.collapse_remedies
    return [Verdict(LEARNED, "warn" if spec.recipe.trained == "full" else "fail", figure, meaning + ".")]


def judge(bench: Bench, hooks: Hooks) -> list[Verdict]:
    """The verdict of every check that applies, those on the images and the classifier first."""
    has = {
        "attack": bool(bench.epsilons),
        "gradient": not bench.blind,
        "other model": bench.other is not None,
        "distances": bench.distances is not None,
    }
    checks = [one for one in CHECKS if all(has[need] for need in one.needs)]
    verdicts = []
    for k, one in enumerate(checks):
        try:
            verdict, figure = one.look(bench)
        except AttackError as error:
            verdict, figure = "fail", str(error)
        verdicts.append(Verdict(one.name, verdict, figure, one.good if verdict == "pass" else one.bad))
        hooks.tick(Tick((k + 1) / len(checks), f"check {k + 1}/{len(checks)}", 0))
    return verdicts


@check(
    "epsilon 0 is clean accuracy",
    "The stored predictions are this classifier's.",
    "The stored predictions are not what it says now; was it another mode, device or precision?",
)
def _clean(bench: Bench) -> Judgement:
    if 0.0 not in bench.stored:
        return "pass", "no evaluation at epsilon 0 to compare"
    differ = percent(bench.right != bench.stored[0.0][bench.part])
    figure = f"{percent(bench.right):.2f} % right now; {differ:.3g} % of images differ from those stored"
    return grade(differ, 0, 0.5), figure


@check(
    "clean accuracy is above chance",
    "There is something to attack.",
    "The classifier has learned nothing that robustness could be of: check encoder, labels and finetuning.",
)
def _above_chance(bench: Bench) -> Judgement:
    """Chance is the share of the largest class. Of all test images, where they were evaluated without an attack."""
    known = 0.0 in bench.stored
    right, labels = (bench.stored[0.0], bench.all_labels) if known else (bench.right, bench.labels)
    chance = max(float(labels.bincount().max()) / len(labels), 1 / bench.clean.shape[1])
    above = (percent(right) / 100 - chance) / math.sqrt(chance * (1 - chance) / len(labels) + 1e-12)
    figure = f"{percent(right):.2f} % right of {len(labels)}; chance: {100 * chance:.1f} %"
    return grade(-above, -3, -1), figure


@check(
    "accuracy does not rise with epsilon",
    "A larger ball, which holds the smaller, is at least as hard.",
    "A larger ball holds the smaller one, so the attack fails in it; take smaller steps, more of them, restarts.",
)
def _rising(bench: Bench) -> Judgement:
    accuracy = {epsilon: percent(right) for epsilon, right in bench.stored.items()}
    rises = {after: accuracy[after] - accuracy[before] for before, after in pairwise(accuracy)}
    where = max(rises, key=lambda epsilon: rises[epsilon], default=0.0)
    most = max(rises.get(where, 0.0), 0.0)
    place = f", at {EPS} = {format_epsilon(where)}" if most else ""
    return grade(most, SLACK / 2, MARGIN), f"{most:.2f} points at most{place}"


@check(
    "finer and scale-free steps change little",
    f"They take away at most {MARGIN:g} points at any epsilon.",
    "The attack stops short and the number is too high by the difference, at least; report a stronger one.",
    needs=("attack", "gradient"),
)
def _stronger(bench: Bench) -> Judgement:
    """By its own search, since a model whose gradient is right may have been attacked too little."""
    missed, figure = bench.gap(bench.standing, bench.resisting)
    figure = figure.format(f"under {bench.attack}", "under that and finer, scale-free steps")
    if missed > MARGIN and bench.attack.name != "autoattack-standard":
        best = "--attack autoattack-standard" if bench.clean.shape[1] >= 4 else FINER + ",restarts=5"
        figure += f"; {missed:.1f} points less, by {FINER},loss=margin; {best} measures it"
    return grade(missed, MARGIN, WRONG), figure


@check(
    "the attack finds no more than there is",
    "The audit's search turns what the attack turned.",
    "A search from the clean images does not find what was stored: did the attack change the model or its epsilon?",
    needs=("attack", "gradient"),
)
def _lower(bench: Bench) -> Judgement:
    beyond, figure = bench.gap(bench.reached, bench.reached & bench.standing)
    return grade(beyond, 5, WRONG), figure.format("resist the audit's search", "resist that and the stored attack")


@check(
    "noise hurts less than the attack",
    "The attack finds what chance does not.",
    "Chance does better than the attack, so it is broken, or follows no gradient.",
    needs=("attack",),
)
def _noise(bench: Bench) -> Judgement:
    missed, figure = bench.gap(bench.standing, bench.search([Attack("gaussian-noise")], bench.standing))
    return grade(missed, SLACK, MARGIN), figure.format(f"under {bench.attack}", "under that and Gaussian noise")


@check(
    "a black-box attack does not beat it",
    "A search without gradients does no better.",
    "A search without gradients does better: gradients mislead; report autoattack-standard or an adaptive attack.",
    needs=("attack",),
)
def _black_box(bench: Bench) -> Judgement:
    """On every second image: queries take most of an audit's time, and what they must show is plain."""
    some = bench.resisting[:, ::2]
    tried = bench.resisting & (torch.arange(len(bench.labels), device=some.device) % 2 == 0)
    missed, figure = bench.gap(some, bench.search([QUERIES], tried)[:, ::2])
    return grade(missed, SLACK, MARGIN), figure.format("resist", f"resist Square, {QUERIES.steps} queries, too")


@check(
    "images of another model do not beat it",
    "What turns another model turns nothing that resisted here.",
    "Another model's adversarial images do better: this one's gradients mislead; report an adaptive attack.",
    needs=("attack", "other model"),
)
def _transfer(bench: Bench) -> Judgement:
    assert bench.other is not None
    if (bench.gradients("margin", bench.other)[0] == 0).any():
        return "pass", "the other model has no gradient to follow"
    missed, figure = bench.gap(bench.resisting, bench.search(TRANSFERRED, bench.resisting, bench.other))
    return grade(missed, SLACK, MARGIN), figure.format("resist", "resist images of another model too")


@check(
    "no smaller perturbation is known",
    "A search for the smallest perturbation of each image finds none below the epsilons that it resists.",
    "A minimal-norm attack does better: the number is too high; --kind minimal tells what it becomes.",
    needs=("attack", "distances"),
)
def _minimal(bench: Bench) -> Judgement:
    """By perturbations that were measured beforehand, of all images."""
    assert bench.distances is not None
    beyond = bench.distances > torch.tensor(bench.epsilons, device=bench.distances.device)[:, None]
    missed, figure = bench.gap(bench.resisting, bench.resisting & beyond)
    return grade(missed, SLACK, MARGIN), figure.format("resist", "have no perturbation that is smaller")


@check(
    "a large epsilon leaves chance or less",
    "With nothing in its way an attack succeeds.",
    "An attack fails even where it may do anything, so it does not work on this classifier.",
    needs=("attack", "gradient"),
)
def _large(bench: Bench) -> Judgement:
    epsilon = 0.5 * (math.sqrt(bench.images[0].numel()) if bench.attack.norm == "L2" else 1)
    everywhere = torch.arange(len(bench.labels), device=bench.labels.device)
    found = bench.perturb(LARGE, bench.images.new_full((len(everywhere),), epsilon), everywhere)
    left, chance = percent(bench.logits(found).argmax(1) == bench.labels), 1 / bench.clean.shape[1]
    most = 100 * (chance + 3 * math.sqrt(chance * (1 - chance) / len(bench.labels)))
    figure = f"{left:.2f} % at {EPS} = {epsilon:.3g}, which turns any image gray; chance: {most:.1f} %"
    return grade(left, most, most), figure


@check(
    "adversarial images are within bounds",
    "So is every image that an attack returned, here and in the evaluation.",
    "An attack left its bounds, or gave no number.",
    needs=("attack", "gradient"),
)
def _bounds(bench: Bench) -> Judgement:
    """Judged when they were made, as all are: see attacks.pgd.check."""
    return "pass", f"at most {bench.furthest:.4f} epsilon away, pixels {bench.low:.3g} to {bench.high:.3g}"
