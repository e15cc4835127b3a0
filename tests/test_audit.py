"""Planted faults are flagged, each by the check it is for; classifiers as they are trained here are not."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import tiny
from torch import nn

from rossbench import registry
from rossbench.config.recipes import ATTACKS
from rossbench.data import datasets
from rossbench.runner import run as runner
from rossbench.stages import audit, audit_bench, audit_checks
from rossbench.stages.evaluate import evaluate
from rossbench.stages.train_loop import Hooks
from rossbench.store.artifacts import load_classifier, load_predictions
from rossbench.store.records import Verdict
from rossbench.store.store import Store

MEAN, STD = 0.3, 0.37  # about those of the digits


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The digits as registered but for the model of 0.5, and one whose encoder normalises; where they are stored."""
    root = tmp_path_factory.mktemp("study")
    plain = dataclasses.replace(registry.get("digits"), train_epsilons=(0, 1))
    recipe = dataclasses.replace(
        plain.recipe, pretraining=dataclasses.replace(plain.recipe.pretraining, normalize=True)
    )
    normalising = dataclasses.replace(plain, name="normalising", recipe=recipe, train_epsilons=(0,))
    runner.run_suite([plain, normalising], store=root, device="cpu")
    return Store(root), plain, normalising


@pytest.fixture(scope="module")
def test_split():
    return datasets.load("digits", "test")


@pytest.fixture(scope="module")
def few():
    return datasets.load("digits", "test", 100)


def judged(classifier, cells, test, predictions=None):
    """The verdicts by their check's name, after an evaluation of that very classifier."""
    if predictions is None:
        found = evaluate(cells, classifier, test.images, test.labels, Hooks())
        predictions = {cell.epsilon: ranked[:, 0] for cell, ranked in zip(cells, found.attacked, strict=True)}
    recipe = max(cells, key=lambda cell: cell.epsilon).recipe
    made = audit.judge(classifier, test.images, test.labels, predictions, recipe, cells[0].seed, Hooks())
    assert [one.check for one in made] == [check.name for check in audit.CHECKS]
    assert all(one.figure and one.meaning for one in made)
    return {one.check: one for one in made}


def cells_of(scenario, row):
    return [cell for (first, _, _), cell in scenario.cells.items() if first == row]


def flagged(found: dict[str, Verdict]) -> set[str]:
    return {name for name, one in found.items() if one.verdict == "fail"}


@pytest.mark.parametrize(("which", "row"), [(1, 0.0), (1, 1.0), (2, 0.0)], ids=["plain", "robust", "normalising"])
def test_a_classifier_without_a_fault_is_not_flagged(study, test_split, which, row):
    store, cells = study[0], cells_of(study[which], row)
    stored = {cell.epsilon: load_predictions(store, cell)[0][:, 0] for cell in cells}
    found = judged(load_classifier(store, cells[0].finetune), cells, test_split, stored)
    assert flagged(found) == set()
    warned = {name for name, one in found.items() if one.verdict == "warn"}
    assert warned <= {"more steps and restarts change little"}  # the study's long steps do stop short of a plain model


class Faulty(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier


class Saturated(Faulty):
    def forward(self, images):
        return self.classifier(images) * 1e4


class Quantised(Faulty):
    def forward(self, images):
        return self.classifier((images * 15).round() / 15)


class Noisy(Faulty):
    def forward(self, images):
        return self.classifier(images + 0.05 * torch.randn_like(images))


class Probabilities(Faulty):
    def forward(self, images):
        return self.classifier(images).softmax(1)


class NormalisedAgain(Faulty):
    def forward(self, images):
        return self.classifier((images - MEAN) / STD)


class WrongRange(Faulty):
    def forward(self, images):
        return self.classifier(images * 255)


class MovingStatistics(Faulty):
    """BatchNorm in train mode, whatever is asked for."""

    def train(self, mode=True):
        super().train(mode)
        self.classifier.encoder.backbone[1].train()
        return self

    def forward(self, images):
        return self.classifier(images)


FAULTS = [
    (Saturated, "gradients reach the input"),
    (Quantised, "gradients reach the input"),
    (Noisy, "predictions are deterministic"),
    (Probabilities, "outputs are logits"),
    (NormalisedAgain, "input is as in training"),
    (WrongRange, "input is as in training"),
    (MovingStatistics, "predictions are deterministic"),
]


@pytest.mark.parametrize("row", [0.0, 1.0], ids=["plain", "robust"])
@pytest.mark.parametrize(("fault", "check"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_is_flagged(study, few, fault, check, row):
    store, plain, normalising = study
    again = fault is NormalisedAgain and row == 0  # of an encoder that does so itself
    cells = [cell for cell in cells_of(normalising if again else plain, row) if cell.epsilon in (0, 0.5, 1)]
    found = judged(fault(load_classifier(store, cells[0].finetune)), cells, few)
    assert check in flagged(found)
    if fault in (Saturated, Quantised):  # the attack finds nothing, and says so where it may do anything
        assert "a large epsilon leaves chance or less" in flagged(found)


@pytest.mark.parametrize("name", ["gaussian-noise", "fgsm"])
def test_a_weak_attack_is_told_from_a_strong_one(study, few, name):
    """At epsilon 1 the plain digits keep 99 % under noise and less than 5 % under PGD, where 79 % would do to fail."""
    cells = cells_of(study[1], 0.0)
    recipe = dataclasses.replace(cells[-1].recipe, attack=ATTACKS[name].defaults)
    weak = [dataclasses.replace(cell, recipe=recipe) if cell.epsilon else cell for cell in cells]
    found = judged(load_classifier(study[0], cells[0].finetune), weak, few)
    verdict = found["more steps and restarts change little"]
    assert verdict.verdict in (["fail"] if name == "gaussian-noise" else ["warn", "fail"])
    assert f"under {ATTACKS[name].defaults}, " in verdict.figure


class ByPixel(nn.Module):
    """Ten classes by the largest of ten pixels: how far an image is from another class is known exactly."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, images):
        return self.scale * images.flatten(1)[:, :10]


EPSILONS = (0.1, 0.2, 0.3, 0.4)
LEVELS = torch.arange(200) * 170 // 200  # by which the label's pixel is above the next: 0.003 to 0.47 away in L2


def by_pixel():
    """200 images that ByPixel gets right, and their labels. None lies within 0.001 of an epsilon from another class."""
    labels = torch.arange(200) * 7 % 10
    images = torch.full((200, 75), 20, dtype=torch.uint8)
    images[torch.arange(200), (labels + 1) % 10] = 80
    images[torch.arange(200), labels] = (81 + LEVELS).to(torch.uint8)
    return images.view(200, 3, 5, 5), labels


def distances():
    return (1 + LEVELS) / 255 / math.sqrt(2)


def stored_as(labels, rights):
    """Stored predictions that are right where ``rights`` say so, by epsilon."""
    return {
        epsilon: torch.where(right, labels, (labels + 1) % 10)
        for epsilon, right in zip((0.0, *EPSILONS), [torch.ones(200, dtype=torch.bool), *rights], strict=True)
    }


def one_image_more_or_less(right, change):
    """One more image, or one less, that an attack left right."""
    right = right.clone()
    if change:
        places = (right if change < 0 else ~right).nonzero()[:, 0]
        if len(places):
            right[places[0]] = change > 0
    return right


ATTACKED = {
    # Accuracy of the stored attack by epsilon, how much too high it is, and what the audit must say.
    "honest": (lambda d: [d > e for e in EPSILONS], {"pass"}),
    "blind": (lambda d: [d > 0 for _ in EPSILONS], {"fail"}),
    "blind but for one image": (lambda d: [d > 0.01 for _ in EPSILONS], {"fail"}),
    "blind at the largest epsilon": (lambda d: [d > e for e in EPSILONS[:3]] + [d > 0.3], {"warn", "fail"}),
    "half as far as stated": (lambda d: [d > e / 2 for e in EPSILONS], {"fail"}),
    "99, 70, 50 %": (lambda d: [d > 0.01, d > 0.05, d > 0.15, d > 0.24], {"fail"}),
    "nothing right": (lambda d: [d > 1 for _ in EPSILONS], {"pass"}),
}


@pytest.mark.parametrize("name", ATTACKED)
def test_the_verdict_hangs_on_no_single_image(name, monkeypatch):
    """Whatever column gains or loses an image, a search tells the same; no trained model is asked.

    Shortfalls are at least 3 images from where a verdict changes, but for the image itself.
    """
    monkeypatch.setattr(audit, "CHECKS", tuple(c for c in audit.CHECKS if "steps" in c.name))
    monkeypatch.setattr(audit_checks, "STRONGER", dataclasses.replace(audit_checks.STRONGER, steps=10, restarts=1))
    images, labels = by_pixel()
    recipe = tiny().recipe.evaluation
    rights, expected = ATTACKED[name]
    found = set()
    for changes in itertools.product((-1, 0, 1), repeat=len(EPSILONS)):
        changed = [
            one_image_more_or_less(right, change) for right, change in zip(rights(distances()), changes, strict=True)
        ]
        made = audit.judge(ByPixel(), images, labels, stored_as(labels, changed), recipe, 0, Hooks())
        found.add(made[0].verdict)
    assert len(found) == 1
    assert found <= expected


@pytest.mark.parametrize("check", ["more steps and restarts change little", "a black-box attack does not beat it"])
def test_a_blind_attack_fails_at_the_epsilon_where_it_shows(check):
    images, labels = by_pixel()
    stored = stored_as(labels, [distances() > 0] * 4)
    made = audit.judge(ByPixel(), images, labels, stored, tiny().recipe.evaluation, 0, Hooks())
    found = {one.check: one for one in made}[check]
    assert found.verdict == "fail"
    assert found.figure.startswith("100.00 % under PGD-L2")
    assert found.figure.endswith("ε = 0.4")


def test_more_masked_is_not_judged_milder():
    """An attack that leaves 99, 99, 99 % is judged no better than one that leaves less, whatever it leaves."""
    images, labels = by_pixel()
    masked = []
    for rates in [(0.99, 0.99, 0.99, 0.99), (0.99, 0.99, 0.7, 0.5), (0.99, 0.7, 0.5, 0.5), (0.7, 0.6, 0.55, 0.5)]:
        rights = [torch.arange(200) >= 200 - round(200 * rate) for rate in rates]
        made = audit.judge(ByPixel(), images, labels, stored_as(labels, rights), tiny().recipe.evaluation, 0, Hooks())
        found = {one.check: one.verdict for one in made}["more steps and restarts change little"]
        masked.append(audit_checks._ORDER.index(found))
    assert masked == sorted(masked, reverse=True)


def test_what_a_search_finds_is_within_the_stated_distance():
    """Each image is found where its distance says so, and nowhere else: to a tenth of a gray level."""
    images, labels = by_pixel()
    stored = stored_as(labels, [distances() > 0] * 4)
    bench = audit_bench.Bench(ByPixel(), images, labels, stored, tiny().recipe.evaluation, 0)
    for epsilon, left in zip(EPSILONS, bench.search(audit_checks.STRONGER).left, strict=True):
        assert left[distances() > epsilon].all()
        assert left[distances() < 0.95 * epsilon].sum() == 0
    assert bench.search(audit_checks.STRONGER).furthest <= 1.0001


@pytest.mark.parametrize(("others", "verdict"), [(0, "pass"), (1, "warn"), (4, "fail")])
def test_predictions_that_are_not_this_classifiers_are_noticed(study, test_split, monkeypatch, others, verdict):
    cells = cells_of(study[1], 0.0)
    stored = {cell.epsilon: load_predictions(study[0], cell)[0][:, 0] for cell in cells}
    some = audit_bench.audited(test_split.labels)[:others]
    right = stored[0][some] == test_split.labels[some]
    stored[0][some] = torch.where(right, (test_split.labels[some] + 1) % 10, test_split.labels[some])
    monkeypatch.setattr(audit, "CHECKS", tuple(check for check in audit.CHECKS if check.name.startswith("epsilon 0")))
    found = judged(load_classifier(study[0], cells[0].finetune), cells, test_split, stored)
    assert found["epsilon 0 is clean accuracy"].verdict == verdict


@pytest.mark.parametrize(
    ("rates", "verdict", "figure"),
    [
        ((0.9, 0.5, 0.2), "pass", "0.00 points at most"),
        ((0.9, 0.5, 0.51), "warn", "1.00 points at most, at ε = 1"),
        ((0.9, 0.5, 0.6), "fail", "10.00 points at most, at ε = 1"),
        ((0.5, 0.6, 0.1), "fail", "10.00 points at most, at ε = 0.5"),
    ],
)
def test_accuracy_that_rises_with_epsilon(rates, verdict, figure):
    labels = torch.arange(200) % 10
    predictions = {
        epsilon: torch.where(torch.arange(200) < rate * 200, labels, (labels + 1) % 10)
        for epsilon, rate in zip((0.0, 0.5, 1.0), rates, strict=True)
    }
    bench = audit_bench.Bench(
        nn.Identity(), torch.zeros(200, 3, 2, 2), labels, predictions, tiny().recipe.evaluation, 0
    )
    assert audit_checks._rising(bench) == (verdict, figure)


def test_of_a_negative_image_and_without_an_attack_only_the_classifier_is_judged(study, test_split):
    cells = cells_of(study[1], 0.0)
    classifier = load_classifier(study[0], cells[0].finetune)
    recipe = dataclasses.replace(cells[-1].recipe, attack=ATTACKS["negative"].defaults)
    classes = test_split.labels
    of_classifier = [check.name for check in audit.CHECKS if not check.attacks]
    for predictions in ({0.0: classes}, {0.0: classes, 0.5: classes}):
        made = audit.judge(classifier, test_split.images, classes, predictions, recipe, 0, Hooks())
        assert [one.check for one in made] == of_classifier


class NoNumbers(nn.Module):
    """Right by the mean of the image, and a gradient that is none."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, images):
        return self.weight * (images.flatten(1)[:, :10] * 0).sqrt()


def test_a_gradient_that_is_no_number_fails_and_does_not_raise(test_split):
    cells = list(registry.get("digits").cells.values())[:5]
    predictions = {cell.epsilon: test_split.labels for cell in cells}
    found = judged(NoNumbers(), cells, test_split, predictions)
    assert found["gradients reach the input"].verdict == "fail"
    assert "expected finite gradients" in found["adversarial images are within bounds"].figure
    assert found["adversarial images are within bounds"].verdict == "fail"


def test_the_audited_part_is_balanced_and_always_the_same():
    labels = torch.arange(1000) % 7
    part = audit_bench.audited(labels)
    assert torch.equal(part, audit_bench.audited(labels))
    assert len(part) == 200
    assert labels[part].bincount().max() - labels[part].bincount().min() <= 1
    assert len(audit_bench.audited(torch.arange(300) % 300)) == 300  # one of each class
    assert torch.equal(audit_bench.audited(torch.arange(40) % 10), torch.arange(40))


def test_nothing_of_the_classifier_is_changed(study, few):
    cells = cells_of(study[1], 1.0)
    classifier = load_classifier(study[0], cells[0].finetune)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    hooks = sum(len(module._forward_pre_hooks) for module in classifier.modules())
    judged(classifier, cells, few)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert sum(len(module._forward_pre_hooks) for module in classifier.modules()) == hooks == 0


def test_a_batch_norm_that_has_seen_little_is_known_all_the_same():
    """What is left of its first statistics is taken out, so a short training is no fault."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    values = 3 + 0.1 * torch.randn(256, 4, 8, 8)
    for _ in range(5):
        norm(values)
    shift, scale = audit_checks._moved(norm, values)
    assert shift == pytest.approx(0, abs=0.05)
    assert scale == pytest.approx(1, abs=0.05)
    shift, scale = audit_checks._moved(norm, 2 * values)
    assert shift > 10
    assert scale == pytest.approx(2, abs=0.1)
