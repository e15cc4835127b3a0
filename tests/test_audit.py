"""Planted faults are flagged, each by a check it is for; classifiers as they are trained here are not."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import tiny
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from rossbench import registry
from rossbench.attacks.pgd import pgd
from rossbench.config.recipes import ATTACKS, Attack
from rossbench.data import datasets
from rossbench.data.datasets import facts
from rossbench.models import encoders
from rossbench.stages import audit, audit_bench, audit_classifier
from rossbench.stages.audit_bench import Bench
from rossbench.stages.evaluate import evaluate
from rossbench.stages.finetune import finetune
from rossbench.stages.train_loop import Hooks
from rossbench.store import results
from rossbench.store.records import Verdict
from rossbench.store.store import Store

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


def judged(classifier, test, names=(), attack=None, epsilons=(0, 0.5, 1), predictions=None, **more):
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
        bench = Bench(classifier, test.images, test.labels, predictions, cells[-1].recipe, 0, **more)
        made = audit.judge(bench, Hooks())
    assert all(one.figure and one.meaning for one in made)
    return {one.check: one for one in made}


def flagged(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: one.figure for name, one in found.items() if one.verdict == "fail"}


# --- classifiers without a fault -----------------------------------------------------------------------------


class Around(nn.Module):
    """A classifier whose logits are a function of it and the images."""

    def __init__(self, classifier, function=lambda classifier, images: classifier(images)):
        super().__init__()
        self.classifier, self.function = classifier, function

    def forward(self, images):
        return self.function(self.classifier, images)


def around(function):
    return lambda classifier: Around(classifier, function)


def on_logits(change):
    return around(lambda classifier, images: change(classifier(images)))


def on_images(change):
    return around(lambda classifier, images: classifier(change(images)))


def on_features(change):
    """Something between encoder and head."""
    return around(lambda classifier, images: classifier.linear(change(classifier.encoder(images))))


log_softmax = on_logits(lambda logits: logits.log_softmax(1))


@around
def bfloat16(classifier, images):
    with torch.autocast("cpu", torch.bfloat16):
        return classifier(images).float()


@around
def cosine_head(classifier, images):
    """The trained head's directions, with the scale that cosine heads have."""
    features, weight = classifier.encoder(images), classifier.linear.weight
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
    "log-softmax": lambda pair: log_softmax(pair["plain"]),
    "bfloat16": lambda pair: bfloat16(pair["plain"]),
    "bfloat16 robust": lambda pair: bfloat16(pair["robust"]),
    "clamped input": lambda pair: on_images(lambda images: images.clamp(0, 1))(pair["plain"]),
    "cosine head": lambda pair: cosine_head(pair["plain"]),
    "GroupNorm and GELU": lambda pair: trained(0, encoders.Encoder(group_norm_and_gelu(), 16)),
    "normalises each image": lambda pair: trained(
        0, encoders.Encoder(EachNormalised(encoders.build("conv3", 16, 0).backbone), 16)
    ),
}


SMALLER = "no smaller perturbation is known"


@pytest.mark.parametrize(("shorter", "verdict"), [(0, "pass"), (1, "pass"), (3, "warn"), (10, "fail"), (200, "fail")])
def test_a_smaller_perturbation_that_is_known_is_told(pair, shorter, verdict):
    """Of so many of 200 images: of those that resist at epsilon 0.5, and then of the others."""
    test = datasets.load("digits", "test", 200)
    (cell,) = (cell for (row, _, epsilon), cell in DIGITS.cells.items() if (row, epsilon) == (0, 0.5))
    ranked = evaluate([cell], pair["robust"], test.images, test.labels, Hooks()).attacked[0][:, 0]
    bench = Bench(pair["robust"], test.images, test.labels, {0.5: ranked}, cell.recipe, 0)
    resisting = bench.part[bench.resisting[0]]
    assert len(resisting) > 20
    distances = torch.full((len(test.labels),), torch.inf)
    distances[torch.cat([resisting, torch.arange(200)])[:shorter]] = 0.1
    found = judged(pair["robust"], test, [SMALLER], epsilons=(0.5,), predictions={0.5: ranked}, distances=distances)
    assert found[SMALLER].verdict == verdict


@pytest.mark.parametrize("name", HONEST)
def test_a_classifier_without_a_fault_is_not_flagged(pair, few, name):
    other = pair["plain" if "robust" in name else "robust"]
    found = judged(HONEST[name](pair), few, other=other)
    assert flagged(found) == {}
    assert {*found, SMALLER} == {check.name for check in audit.CHECKS}
    # The study's long steps do stop short of a plain model, and the verdict says by how much and what to do.
    weak = found["finer and scale-free steps change little"]
    assert weak.verdict == "pass" or "--attack" in weak.figure


# --- faults of classifiers -----------------------------------------------------------------------------------


def detached(share):
    def change(features):
        kept = torch.rand(features.shape[1], generator=torch.Generator().manual_seed(0)) >= share
        return torch.where(kept, features, features.detach())

    return on_features(change)


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


def hashed_noise(images, size=0.1):
    seeds = (images.detach().double().flatten(1) * 1e4).sum(1).frac().mul(2**20).long()
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


def steep(images, gain=200):
    return torch.sigmoid(gain * (images[..., None] - torch.arange(10) / 10 - 0.05)).mean(-1)


class Statistics(Around):
    """BatchNorm in train mode, whatever is asked for."""

    def train(self, mode=True):
        super().train(mode)
        self.classifier.encoder.backbone[1].train()
        return self


@around
def heated(classifier, images):
    """Logits that grow with the image's brightness."""
    return classifier(images) * (50 * (images.mean((1, 2, 3)) - 0.3)).exp()[:, None]


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
    "a copy of the first class": (on_logits(lambda z: torch.cat([z, z.amax(1, keepdim=True) - 0.01], 1)), REACH),
    "temperature by brightness": (heated, REACH),
    # Another classifier where gradients are asked for.
    "two-faced": (on_logits(lambda z: z.roll(int(torch.is_grad_enabled()), 1)), SLOPES),
    "detached 20 %": (detached(0.2), SLOPES),
    "detached 50 %": (detached(0.5), SLOPES),
    "detached 90 %": (detached(0.9), SLOPES),
    "detached 98 %": (detached(0.98), SLOPES),
    "detached": (detached(1), REACH),
    "features rounded": (on_features(torch.round), REACH),
    "dropout left on": (on_features(lambda features: nn.functional.dropout(features, 0.3)), AGAIN),
    "dead ReLU": (on_features(lambda features: (features - 1e3).relu()), CHANCE),
    "10 % winners take all": (on_features(winners), SLOPES),
    "gradient reversed": (backward(torch.neg), SLOPES),
    "gradient halved": (backward(lambda gradient: gradient / 2), SLOPES),
    "gradient of one column": (backward(lambda gradient: gradient * (torch.arange(gradient.shape[-1]) == 8)), SLOPES),
    "gradient of every second column": (
        backward(lambda gradient: gradient * (torch.arange(gradient.shape[-1]) % 2)),
        SLOPES,
    ),
    "gradient of one channel": (backward(lambda gradient: gradient * torch.eye(3)[0].view(3, 1, 1)), SLOPES),
    "gradient's signs": (backward(lambda gradient: gradient.sign() * gradient.std()), SLOPES),
    "gradient clipped": (backward(lambda gradient: gradient.clamp(-1e-3, 1e-3)), SLOPES),
    "gradient blurred": (backward(lambda gradient: nn.functional.avg_pool2d(gradient, 3, 1, 1)), SLOPES),
    "gradient buried": (backward(pattern), SLOPES),
    "gradient of noise": (backward(torch.randn_like), SLOPES),
    "gradient of ones": (backward(torch.ones_like), SLOPES),
    "gradient zero": (backward(torch.zeros_like), REACH),
    "gradient no number": (backward(lambda gradient: gradient / 0 * 0), REACH),
    "gradient that raises": (backward(refuse), REACH),
    "root and square": (on_images(lambda images: images.sqrt().square()), REACH),
    "no_grad": (on_images(no_grad), REACH),
    "thermometer": (on_images(thermometer), REACH),
    "quantised": (on_images(levels), REACH),
    "quantised, straight through": (on_images(straight_through), SLOPES),
    "noise": (on_images(lambda images: images + 0.05 * torch.randn_like(images)), AGAIN),
    "noise by a hash": (on_images(hashed_noise), SLOPES),
    "a little noise by a hash": (on_images(lambda images: hashed_noise(images, 0.04)), SLOPES),
    "1 % noise by a hash": (on_images(lambda images: hashed_noise(images, 0.01)), SLOPES),
    "steep thermometer": (on_images(steep), SLOPES),
    "ripples": (on_images(lambda images: images + 0.02 * torch.sin(500 * images)), SLOPES),
    "normalised again": (on_images(lambda images: (images - MEAN) / STD), INPUT),
    "another range": (on_images(lambda images: images * 255), INPUT),
    "divided twice": (on_images(lambda images: images / 255), INPUT),
    "statistics of the batch": (Statistics, AGAIN),
    "another class": (on_logits(lambda z: z.roll(1, 1)), CHANCE),
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


# --- evaluations that say too much or too little -------------------------------------------------------------


def test_a_model_without_a_gradient_ends_in_a_verdict(pair, few):
    """After black-box attacks alone, whatever its gradient does."""
    for name in ("no_grad", "root and square", "gradient that raises", "quantised"):
        model = FAULTS[name][0](pair["plain"])
        found = judged(model, few, attack=Attack("gaussian-noise"), epsilons=(0, 1))
        assert REACH in flagged(found), name
        assert {"a black-box attack does not beat it", "noise hurts less than the attack"} <= set(found)
        assert FINER not in found
        assert name == "quantised" or "no gradient reaches the input" in found[REACH].figure


def test_an_attack_that_hardly_attacks_is_noticed(pair, few):
    """At epsilon 1 the plain digits keep 97 % of 100 under noise, and less than 10 % under PGD."""
    clean = pair["plain"](few.images.float() / 255).argmax(1)
    found = judged(pair["plain"], few, [FINER], predictions={0.0: clean, 0.5: clean, 1.0: clean})
    assert found[FINER].verdict == "fail"
    assert "autoattack-standard measures it" in found[FINER].figure
    found = judged(pair["plain"], few, [FINER], attack=ATTACKS["gaussian-noise"].defaults)
    assert found[FINER].verdict == "fail"
    assert "under Gaussian noise-L2, " in found[FINER].figure


def test_a_number_that_no_search_reaches_is_noticed(pair, few):
    """As of an attack that changed the model: at epsilon 0.25 the robust digits keep more than 85 %."""
    clean = pair["robust"](few.images.float() / 255).argmax(1)
    found = judged(pair["robust"], few, [LOWER], predictions={0.0: clean, 0.25: (clean + 1) % 10})
    assert found[LOWER].verdict == "fail"
    stored = torch.where(torch.arange(100) < 2, (clean + 1) % 10, clean)
    assert judged(pair["robust"], few, [LOWER], predictions={0.0: clean, 0.25: stored})[LOWER].verdict == "pass"


def test_images_of_another_model_show_what_a_gradient_hides(pair, few):
    name = "images of another model do not beat it"
    shown = trained(0, encoders.build("conv3", 16, 1), epochs=1)

    def gradient_of_another(classifier, images):
        """Logits of this one: only images from outside tell."""
        logits = shown(images)
        return logits + (classifier(images) - logits).detach()

    hidden = around(gradient_of_another)(pair["plain"])
    assert judged(hidden, few, [name], other=pair["plain"])[name].verdict == "fail"
    assert judged(pair["plain"], few, [name], other=pair["robust"])[name].verdict != "fail"
    blind = FAULTS["no_grad"][0](pair["robust"])
    assert judged(pair["plain"], few, [name], other=blind)[name].verdict == "pass"


def test_each_model_is_audited_beside_another(finished):
    (matrix,) = results.load(Store(finished))
    first, last = matrix.audit_specs().values()
    assert (first.other, last.other) == (last.finetune, first.finetune)
    assert last.finetune in first.parents
    alone = dataclasses.replace(first, other=None)
    assert alone.key != first.key
    assert "other" not in alone.identity


def noticed(images, name="images show something"):
    labels = torch.arange(len(images)) % 10
    bench = Bench(nn.Identity(), images, labels, {}, tiny().recipe.evaluation, 0)
    return {check.name: check for check in audit.CHECKS}[name].look(bench)[0]


IMAGES = {
    "as they are": (lambda images: images, "pass"),
    "all black": (lambda images: images * 0, "fail"),
    "all white": (lambda images: images * 0 + 255, "fail"),
    "each of one value": (
        lambda images: images * 0 + torch.arange(100, dtype=torch.uint8)[:, None, None, None],
        "fail",
    ),
    "divided by 255": (lambda images: images // 255, "fail"),
    "all the same": (lambda images: images[:1].expand_as(images), "fail"),
    "half of one value": (lambda images: images * (torch.arange(100) % 2)[:, None, None, None], "fail"),
    "a few copies": (lambda images: torch.cat([images[:92], images[:8]]), "warn"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_show_nothing_are_noticed(few, name):
    change, verdict = IMAGES[name]
    assert noticed(change(few.images).to(torch.uint8)) == verdict


def test_the_margin_does_not_hang_on_the_scale_of_logits(pair, few):
    images, labels, attack = few.images[:9].float() / 255, few.labels[:9], Attack(steps=3, loss="margin")
    made = [
        pgd(lambda images, scale=scale: scale * pair["robust"](images), images, labels, attack, 0.5, 0 * images)
        for scale in (2.0**-20, 1.0, 2.0**20)
    ]
    assert str(attack).endswith(", on the margin")
    assert (made[1] - images).abs().max() > 0.01
    for other in (made[0], made[2]):
        torch.testing.assert_close(other, made[1], atol=1e-3, rtol=0)


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
    """Whichever column gains or loses an image, a search tells the same; no trained model is asked.

    Shortfalls are at least 3 images from where a verdict changes, but for the image itself.
    """
    monkeypatch.setattr(audit, "CHECKS", tuple(check for check in audit.CHECKS if check.name == FINER))
    monkeypatch.setattr(audit_bench, "GRADIENT", (dataclasses.replace(audit_bench.FINE, steps=10),))
    images, labels = by_pixel()
    recipe = tiny().recipe.evaluation
    rights, expected = ATTACKED[name]
    found = set()
    for changes in ((0, 0, 0, 0), (1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0), (0, 0, 0, -1), (1, 1, 1, 1)):
        changed = [
            one_image_more_or_less(right, change) for right, change in zip(rights(distances()), changes, strict=True)
        ]
        made = audit.judge(Bench(ByPixel(), images, labels, stored_as(labels, changed), recipe, 0), Hooks())
        found.add(made[0].verdict)
    assert len(found) == 1
    assert found <= expected


def test_a_blind_attack_fails_at_the_epsilon_where_it_shows():
    images, labels = by_pixel()
    stored = stored_as(labels, [distances() > 0] * 4)
    made = audit.judge(Bench(ByPixel(), images, labels, stored, tiny().recipe.evaluation, 0), Hooks())
    found = {one.check: one for one in made}[FINER]
    assert found.verdict == "fail"
    assert found.figure.startswith("100.00 % under PGD-L2")
    assert "ε = 0.4;" in found.figure


def test_what_a_search_finds_is_within_the_stated_distance():
    """Each image is found where its distance says so, and nowhere else: to a tenth of a gray level."""
    images, labels = by_pixel()
    stored = stored_as(labels, [distances() > 0] * 4)
    bench = Bench(ByPixel(), images, labels, stored, tiny().recipe.evaluation, 0)
    for epsilon, left in zip(EPSILONS, bench.reached, strict=True):
        assert left[distances() > epsilon].all()
        assert left[distances() < 0.95 * epsilon].sum() == 0
    assert bench.furthest <= 1.0001


@pytest.mark.parametrize(("others", "verdict"), [(0, "pass"), (1, "warn"), (4, "fail")])
def test_predictions_that_are_not_this_classifiers_are_noticed(pair, others, verdict):
    test, name = datasets.load("digits", "test"), "epsilon 0 is clean accuracy"
    stored = pair["plain"](test.images.float() / 255).argmax(1)
    some = audit_bench.audited(test.labels)[:others]
    right = stored[some] == test.labels[some]
    stored[some] = torch.where(right, (test.labels[some] + 1) % 10, test.labels[some])
    assert judged(pair["plain"], test, [name], predictions={0.0: stored})[name].verdict == verdict


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
    bench = Bench(nn.Identity(), torch.zeros(200, 3, 2, 2), labels, predictions, tiny().recipe.evaluation, 0)
    assert audit._rising(bench) == (verdict, figure)


def test_of_a_negative_image_and_without_an_attack_only_the_classifier_is_judged(pair, few):
    recipe = dataclasses.replace(DIGITS.recipe.evaluation, attack=ATTACKS["negative"].defaults)
    of_classifier = [check.name for check in audit.CHECKS if not {"attack", "other model"} & set(check.needs)]
    for predictions in ({0.0: few.labels}, {0.0: few.labels, 0.5: few.labels}):
        made = audit.judge(Bench(pair["plain"], few.images, few.labels, predictions, recipe, 0), Hooks())
        assert [one.check for one in made] == of_classifier


def test_the_audited_part_is_balanced_and_always_the_same():
    labels = torch.arange(1000) % 7
    part = audit_bench.audited(labels)
    assert torch.equal(part, audit_bench.audited(labels))
    assert len(part) == 200
    assert labels[part].bincount().max() - labels[part].bincount().min() <= 1
    assert len(audit_bench.audited(torch.arange(300) % 300)) == 300  # one of each class
    assert torch.equal(audit_bench.audited(torch.arange(40) % 10), torch.arange(40))


def test_nothing_of_the_classifier_is_changed(pair, few):
    classifier = pair["robust"]
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    judged(classifier, few)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert sum(len(module._forward_pre_hooks) for module in classifier.modules()) == 0


@pytest.mark.parametrize("padding", [1, 2])
def test_a_stem_that_pads_otherwise_than_in_training_is_noticed(few, padding):
    """The statistics in all BatchNorm layers are those of the audited images, so the right padding fits exactly."""
    torch.manual_seed(0)
    backbone = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=0, channels=(8, 8, 8, 8))
    backbone.conv1, backbone.maxpool = nn.Conv2d(3, 64, 3, padding=padding, bias=False), nn.Identity()
    for norm in backbone.modules():
        norm.momentum = 1.0
    backbone.train()(few.images.float() / 255)
    for given, expected in ((padding, "pass"), (3 - padding, "warn")):
        backbone.conv1.padding = (given, given)
        found = judged(backbone, few, [INPUT], predictions={0.0: few.labels})[INPUT]
        assert (found.verdict, ":cifar" in found.figure) == (expected, expected == "warn"), found.figure
        assert backbone.conv1.padding == (given, given)


def test_a_collapsed_encoder_fails_where_only_a_head_was_trained_on_it():
    spec = next(iter(DIGITS.cells.values())).finetune
    lost, learned = ([{"loss": 9.0}, {"loss": loss}] for loss in (spec.pretrain.constant_loss + 0.001, 3.1))
    whole = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, trained="full"))
    for one, history, expected in ((spec, lost, "fail"), (whole, lost, "warn"), (spec, learned, "pass")):
        (found,) = audit.learned(one, history)
        assert found.verdict == expected
        assert ("learned nothing: its loss is that of constant features" in found.meaning) is (expected != "pass")
    assert "milder augmentation, more epochs" in audit.learned(spec, lost)[0].meaning
    assert audit.learned(spec, []) == []  # an encoder that was given


@pytest.mark.parametrize("batches", [1, 5, 200])
@pytest.mark.parametrize("count", ["known", "lost", "of a finetuning"])
def test_a_batch_norm_that_has_seen_little_is_known_all_the_same(batches, count):
    """What is left of its first statistics is taken out, so a short training is no fault, whatever its count says."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    values = 3 + torch.tensor([0.1, 0.3, 1.0, 2.0])[:, None, None] * torch.randn(256, 4, 8, 8)
    for _ in range(batches):
        norm(values)
    if count != "known":
        norm.num_batches_tracked.fill_(0 if count == "lost" else 3)
    shift, scale = audit_classifier.moved(norm, values)
    assert shift == pytest.approx(0, abs=0.1)
    assert scale == pytest.approx(1, abs=0.1)
    shift, scale = audit_classifier.moved(norm, 3 * values)
    assert shift > 1 or scale > 2.5


@pytest.mark.slow
def test_faults_on_cifar10(cifar):
    """conv3 on 2,000 images, finetuned whole: no honest form is flagged, and every fault of a gradient is."""
    train, test = (
        datasets.load("cifar10", part, count, data_dir=cifar) for part, count in (("train", 2000), ("test", 100))
    )
    models = {"plain": trained(0, train=train, target="cifar10", epochs=12)}
    models["robust"] = trained(0.5, train=train, target="cifar10", epochs=12)
    for row, model in models.items():
        for change in (lambda model: model, log_softmax, bfloat16):
            assert flagged(judged(change(model), test, epsilons=(0, 0.25, 0.5))) == {}, row
        for name, (plant, check) in FAULTS.items():
            if check in (OUTPUTS, REACH, SLOPES):
                assert check in flagged(judged(plant(model), test, [check], predictions={0.0: test.labels})), (
                    name,
                    row,
                )
