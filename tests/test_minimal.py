"""stages.kinds.minimal: smallest perturbations beside what is known by algebra, and beside PGD."""

import math

import pytest
import torch
from conftest import least_squares, subject
from torch import nn

from rossbench import registry
from rossbench.attacks.task import Draws, run_attack
from rossbench.config.kinds import Kind
from rossbench.data import datasets
from rossbench.models.encoders import build
from rossbench.stages.kinds import minimal as module
from rossbench.stages.kinds import subject as subjects

NORMS = ["L2", "Linf"]


class Linear(nn.Module):
    """About images of 4 pixels in the middle of the box."""

    def __init__(self, classes):
        super().__init__()
        self.weight = torch.randn(classes, 48, generator=torch.Generator().manual_seed(classes))

    def forward(self, images):
        return (images.flatten(1) - 0.5) @ self.weight.T


def near_grey(n=20):
    return 0.45 + 0.1 * torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_linear_classifiers_smallest_perturbation_is_found(classes, norm):
    model, images = Linear(classes), near_grey()
    logits = model(images)
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    steepness = (model.weight[labels][:, None] - model.weight).norm(p=2 if norm == "L2" else 1, dim=2)
    expected = torch.where(gaps > 0, gaps / steepness, torch.inf).amin(1)
    found, distances = module.nearest(model, images, labels, norm, 200)
    assert (distances / expected).max() < 1.01
    assert (distances / expected).min() > 1 - 1e-4
    assert (model(found).argmax(1) != labels).all()


@pytest.fixture(scope="module")
def digits():
    """A head on a random encoder, and test images with their labels."""
    train, test = (datasets.load("digits", split, limit) for split, limit in (("train", None), ("test", 60)))
    return least_squares(build("conv3", 16, 0), train.images, train.labels), test.images, test.labels


def measured(digits, columns, **settings):
    head, images, labels = digits
    kind = Kind("minimal", **settings)
    return module.minimal(subject(head.encoder, images, columns, classifier=head, labels=labels, kind=kind))


@pytest.mark.parametrize("norm", NORMS)
def test_distances_are_of_adversarial_images_in_the_box_and_images_that_are_wrong_have_none(digits, norm):
    head, images, labels = digits
    images, other = images.float() / 255, labels.clone()
    other[:5] = (other[:5] + 1) % 10
    natural = head(images).argmax(1) == other
    found, distances = module.nearest(head, images, other, norm, 30)
    assert (head(found).argmax(1) != other).all()
    assert found.min() >= 0
    assert found.max() <= 1
    moved = (found - images).flatten(1).norm(p=2 if norm == "L2" else math.inf, dim=1)
    assert torch.equal(distances > 0, natural)
    assert torch.allclose(moved, distances)
    half = images + 0.5 * (found - images)
    assert (head(half).argmax(1) == other)[natural].float().mean() > 0.9, "half the way is mostly not enough"


@pytest.mark.parametrize(("norm", "epsilons"), [("L2", (0, 0.1, 0.3, 0.6, 1)), ("Linf", (0, 2 / 255, 8 / 255))])
def test_it_leaves_no_more_images_right_than_pgd_with_the_studys_settings(digits, norm, epsilons):
    """But for one: a search may end beyond a radius that an attack of that radius just turned."""
    head, images, labels = digits
    name = "digits" if norm == "L2" else "cifar10-to-cifar10-linf"
    attack, n = registry.get(name).recipe.evaluation.attack, len(labels)
    assert attack.norm == norm
    found = measured(digits, epsilons, norm=norm, steps=60)
    for k, epsilon in enumerate(epsilons[1:], 1):
        radii, draws = torch.full((n,), epsilon), Draws(0, n, torch.arange(n))
        moved = run_attack(head, images.float() / 255, labels, attack, radii, draws)
        under_pgd = (head(moved).argmax(1) == labels) & found.right[0]
        assert found.right[k].sum() <= under_pgd.sum() + 1


def test_rows_summary_and_right_are_of_the_distances(digits, monkeypatch):
    found = measured(digits, (0, 0.2, 0.5), steps=20)
    distance = found.arrays["distance"]
    assert found.right.tolist() == [(distance > epsilon).tolist() for epsilon in (0, 0.2, 0.5)]
    assert found.rows["robust accuracy (%)"] == pytest.approx([100 * float(one.double().mean()) for one in found.right])
    assert found.summary["median distance"] == float(distance[distance > 0].median())
    assert found.summary["adversarial found (%)"] == 100
    monkeypatch.setattr(subjects, "at_once", lambda images, device: 7)
    again = measured(digits, (0, 0.2, 0.5), steps=20).arrays["distance"]
    assert torch.allclose(again, distance, rtol=0.02), "by batches convolutions round otherwise, and no more"


@pytest.mark.parametrize(
    "mask",
    [lambda x: x.detach(), lambda x: x.round() + 0 * x, lambda x: x.detach() + (0 * x).sqrt()],
    ids=["no gradient", "zero", "NaN"],
)
@pytest.mark.parametrize("norm", NORMS)
def test_where_gradients_lead_nowhere_nothing_is_found_and_all_stays_finite(digits, norm, mask):
    head, images, labels = digits

    class Masked(nn.Module):
        def forward(self, images):
            return head(mask(images))

    right = Masked()(images.float() / 255).argmax(1) == labels
    assert right.any()
    given = subject(
        head.encoder, images, (0, 0.5), classifier=Masked(), labels=labels, kind=Kind("minimal", steps=5, norm=norm)
    )
    found = module.minimal(given)
    assert torch.equal(found.arrays["distance"], torch.where(right, torch.inf, 0.0))
    assert found.summary == {"median distance": math.inf, "adversarial found (%)": 0}
    assert found.rows["robust accuracy (%)"] == [pytest.approx(100 * float(right.double().mean()))] * 2


def test_a_model_that_is_always_wrong_has_no_median(digits):
    head, images, labels = digits
    found = measured((head, images, (labels + 1) % 10), (0, 0.5), steps=2)
    wrong = found.arrays["distance"] == 0
    assert wrong.float().mean() > 0.9
    always = measured((head, images[wrong], (labels[wrong] + 1) % 10), (0, 0.5), steps=2)
    assert math.isnan(always.summary["median distance"])
    assert always.rows["robust accuracy (%)"] == [0, 0]
