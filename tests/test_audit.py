"""Planted faults are flagged, each by a check it is for; classifiers as they are trained here are not."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import tiny
from torch import nn

from rossbench import registry
from rossbench.config.recipes import ATTACKS, Attack
from rossbench.data import datasets
from rossbench.data.datasets import facts
from rossbench.models import encoders
from rossbench.stages import audit, audit_bench, audit_checks, audit_classifier
from rossbench.stages.evaluate import evaluate
from rossbench.stages.finetune import finetune
from rossbench.stages.train_loop import Hooks
from rossbench.store.records import Verdict

MEAN, STD = 0.3, 0.37  # about those of the digits
DIGITS = registry.get("digits")


def trained(epsilon, encoder=None, train=None, target="digits", epochs=8):
    """A classifier that is trained whole, by the package's own finetuning: quicker than a pretraining."""
    cell = next(iter(DIGITS.cells.values()))
    attack = Attack(steps=3, step_size=0.5, step_unit="epsilon")
    recipe = dataclasses.replace(cell.finetune.recipe, trained="full", epochs=epochs, learning_rate=2e-3, attack=attack)
    spec = dataclasses.replace(cell.finetune, recipe=recipe, epsilon=epsilon, target=target)
    train = train or datasets.load("digits", "train")
    encoder = encoder or encoders.build("conv3", train.images.shape[-1], 0)
    return finetune(spec, encoder, train.images, train.labels, facts(target).classes, Hooks())[0]


@pytest.fixture(scope="module")
def pair():
    """A plain and a robust digits model."""
    return {"plain": trained(0), "robust": trained(1)}


@pytest.fixture(scope="module")
def few():
    return datasets.load("digits", "test", 100)


def judged(classifier, test, names=(), attack=None, epsilons=(0, 0.5, 1), predictions=None, other=None):
    """The verdicts by their check's name, of all checks or those named, after an evaluation of that very classifier."""
    cells = [cell for (row, _, epsilon), cell in DIGITS.cells.items() if row == 0 and epsilon in epsilons]
    if attack:
        recipe = dataclasses.replace(cells[-1].recipe, attack=attack)
        cells = [dataclasses.replace(cell, recipe=recipe) for cell in cells]
    if predictions is None:
        found = evaluate(cells, classifier, test.images, test.labels, Hooks())
        predictions = {cell.epsilon: ranked[:, 0] for cell, ranked in zip(cells, found.attacked, strict=True)}
    checks = audit.CHECKS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "CHECKS", tuple(check for check in checks if not names or check.name in names))
        made = audit.judge(classifier, test.images, test.labels, predictions, cells[-1].recipe, 0, Hooks(), other)
    assert all(one.figure and one.meaning for one in made)
    return {one.check: one for one in made}


def flagged(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: one.figure for name, one in found.items() if one.verdict == "fail"}


# --- classifiers without a fault -----------------------------------------------------------------------------


class Faulty(nn.Module):
    """Not always: also what honest models do to a classifier's images or outputs."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(images)


class LogSoftmax(Faulty):
    def forward(self, images):
        return self.classifier(images).log_softmax(1)


class Bfloat16(Faulty):
    def forward(self, images):
        with torch.autocast("cpu", torch.bfloat16):
            return self.classifier(images).float()


class Clipped(Faulty):
    def forward(self, images):
        return self.classifier(images.clamp(0, 1))


class CosineHead(Faulty):
    """The trained head's directions, with the scale that cosine heads have."""

    def forward(self, images):
        features, weight = self.classifier.encoder(images), self.classifier.linear.weight
        return 16 * nn.functional.normalize(features) @ nn.functional.normalize(weight).T


class EachNormalised(nn.Module):
    """Every image to mean 0 and deviation 1."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        mean, std = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
        return self.backbone((images - mean) / (std + 1e-3))


def group_norm_and_gelu():
    torch.manual_seed(0)
    layers = []
    for before, after in itertools.pairwise((3, 32, 64, 128)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten())


HONEST = {
    "plain": lambda pair: pair["plain"],
    "robust": lambda pair: pair["robust"],
    "log-softmax": lambda pair: LogSoftmax(pair["plain"]),
    "bfloat16": lambda pair: Bfloat16(pair["plain"]),
    "bfloat16 robust": lambda pair: Bfloat16(pair["robust"]),
    "clamped input": lambda pair: Clipped(pair["plain"]),
    "cosine head": lambda pair: CosineHead(pair["plain"]),
    "GroupNorm and GELU": lambda pair: trained(0, encoders.wrap(group_norm_and_gelu(), 16)),
    "normalises each image": lambda pair: trained(
        0, encoders.wrap(EachNormalised(encoders.build("conv3", 16, 0).backbone), 16)
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_classifier_without_a_fault_is_not_flagged(pair, few, name):
    other = pair["plain" if "robust" in name else "robust"]
    found = judged(HONEST[name](pair), few, other=other)
    assert flagged(found) == {}
    assert set(found) == {check.name for check in audit.CHECKS}
    # The study's long steps do stop short of a plain model, and the verdict says by how much and what to do.
    weak = found["finer and scale-free steps change little"]
    assert weak.verdict == "pass" or "--attack" in weak.figure


# --- faults of classifiers -----------------------------------------------------------------------------------


def on_logits(change):
    return lambda model: Changed(model, after=change)


def on_images(change):
    return lambda model: Changed(model, before=change)


class Changed(Faulty):
    def __init__(self, classifier, before=lambda images: images, after=lambda logits: logits):
        super().__init__(classifier)
        self.before, self.after = before, after

    def forward(self, images):
        return self.after(self.classifier(self.before(images)))


class Features(Faulty):
    """Something between encoder and head."""

    def __init__(self, classifier, change):
        super().__init__(classifier)
        self.change = change

    def forward(self, images):
        return self.classifier.linear(self.change(self.classifier.encoder(images)))


def detached(share):
    def change(features):
        kept = torch.rand(features.shape[1], generator=torch.Generator().manual_seed(0)) >= share
        return torch.where(kept, features, features.detach())

    return lambda model: Features(model, change)


def winners(features, share=0.1):
    least = features.topk(int(share * features.shape[1]), dim=1).values[:, -1:]
    return features * (features >= least)


class Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(context, images, change):
        context.change = change
        return images.clone()

    @staticmethod
    def backward(context, gradient):
        return context.change(gradient), None


def backward(change):
    return on_images(lambda images: Backward.apply(images, change))


def refuse(gradient):
    raise NotImplementedError("no backward pass here")


def pattern(gradient, size=1.0):
    fixed = torch.randn(gradient.shape[1:], generator=torch.Generator().manual_seed(0))
    return gradient + size * 30 * gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * fixed / fixed.norm()


def hashed_noise(images, size=0.05):
    seeds = (images.detach().flatten(1) * 1e4).sum(1).frac().mul(2**20).long()
    noise = torch.stack([torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(int(s))) for s in seeds])
    return images + size * noise


def levels(images, count=15):
    return (images * count).round() / count


def straight_through(images, count=3):
    return images + (levels(images, count) - images).detach()


def no_grad(images):
    with torch.no_grad():
        return images * 1.0


def thermometer(images):
    return (images[..., None] > torch.arange(10) / 10 + 0.05).float().mean(-1)


def soft_thermometer(images, gain=200):
    return torch.sigmoid(gain * (images[..., None] - torch.arange(10) / 10 - 0.05)).mean(-1)


class Statistics(Faulty):
    """BatchNorm in train mode, whatever is asked for."""

    def train(self, mode=True):
        super().train(mode)
        self.classifier.encoder.backbone[1].train()
        return self


class Permuted(Faulty):
    def forward(self, images):
        return self.classifier(images).roll(1, 1)


OUTPUTS, AGAIN, INPUT = "outputs are logits", "predictions are deterministic", "input is as in training"
REACH, SLOPES, CHANCE = "gradients reach the input", "gradients are the slopes", "clean accuracy is above chance"
FINER, LOWER = "finer and scale-free steps change little", "the attack finds no more than there is"
FAULTS = {
    "logits x 1e-6": (on_logits(lambda z: z * 1e-6), OUTPUTS),
    "logits x 0.01": (on_logits(lambda z: z * 0.01), OUTPUTS),
    "logits x 1e3": (on_logits(lambda z: z * 1e3), REACH),
    "logits x 1e6": (on_logits(lambda z: z * 1e6), REACH),
    "logits clipped": (on_logits(lambda z: z.clamp(-1, 1)), REACH),
    "logits rounded": (on_logits(torch.round), REACH),
    "tanh": (on_logits(lambda z: (100 * z).tanh()), REACH),
    "softmax": (on_logits(lambda z: z.softmax(1)), OUTPUTS),
    "sharp softmax": (on_logits(lambda z: (10 * z).softmax(1)), OUTPUTS),
    "sigmoid": (on_logits(torch.sigmoid), OUTPUTS),
    "argmax": (on_logits(lambda z: nn.functional.one_hot(z.argmax(1), 10).float()), REACH),
    "votes of an ensemble": (on_logits(lambda z: 5.0 * nn.functional.one_hot(z.argmax(1), 10)), REACH),
    "no numbers": (on_logits(lambda z: z / 0), OUTPUTS),
    "detached 50 %": (detached(0.5), SLOPES),
    "detached 90 %": (detached(0.9), SLOPES),
    "detached 98 %": (detached(0.98), SLOPES),
    "detached": (detached(1), REACH),
    "features rounded": (lambda model: Features(model, torch.round), REACH),
    "dead ReLU": (lambda model: Features(model, lambda features: (features - 1e3).relu()), CHANCE),
    "10 % winners take all": (lambda model: Features(model, winners), SLOPES),
    "gradient reversed": (backward(torch.neg), SLOPES),
    "gradient halved": (backward(lambda gradient: gradient / 2), SLOPES),
    "gradient of one pixel": (backward(lambda gradient: gradient * (torch.arange(16) == 8)), SLOPES),
    "gradient buried": (backward(pattern), SLOPES),
    "gradient of noise": (backward(torch.randn_like), SLOPES),
    "gradient of ones": (backward(torch.ones_like), SLOPES),
    "gradient zero": (backward(torch.zeros_like), REACH),
    "gradient no number": (backward(lambda gradient: gradient / 0 * 0), REACH),
    "gradient that raises": (backward(refuse), REACH),
    "root and square": (on_images(lambda images: images.sqrt().square()), REACH),
    "no_grad": (on_images(no_grad), REACH),
    "thermometer": (on_images(thermometer), REACH),
    "soft thermometer": (on_images(soft_thermometer), SLOPES),
    "quantised": (on_images(levels), REACH),
    "quantised, straight through": (on_images(straight_through), SLOPES),
    "noise": (on_images(lambda images: images + 0.05 * torch.randn_like(images)), AGAIN),
    "noise by a hash": (on_images(hashed_noise), SLOPES),
    "normalised again": (on_images(lambda images: (images - MEAN) / STD), INPUT),
    "another range": (on_images(lambda images: images * 255), INPUT),
    "divided twice": (on_images(lambda images: images / 255), INPUT),
    "statistics of the batch": (Statistics, AGAIN),
    "another class": (Permuted, CHANCE),
}


@pytest.mark.parametrize("row", ["plain", "robust"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_flagged(pair, few, name, row):
    plant, check = FAULTS[name]
    model = plant(pair[row])
    with torch.no_grad():
        clean = model.eval()(few.images.float() / 255).argmax(1)
    found = judged(model, few, [check], predictions={0.0: clean})
    assert check in flagged(found), found
