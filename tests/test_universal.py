"""stages.kinds.universal: one perturbation for all images, made on an encoder."""

import pytest
import torch
from conftest import least_squares, subject
from torch import nn

from rossbench.config.kinds import Kind
from rossbench.data import datasets
from rossbench.models.encoders import Encoder, build
from rossbench.stages.kinds import subject as subjects
from rossbench.stages.kinds import universal as module

MADE, RANDOM = "accuracy (%)", "random direction (%)"


@pytest.fixture(scope="module")
def splits():
    return datasets.load("digits", "train", 400), datasets.load("digits", "test", 200)


def principal(images):
    """A linear encoder: the ten principal components of images."""
    layer = nn.Linear(images[0].numel(), 10)
    points = images.flatten(1).float() / 255
    layer.weight.data = torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh[:10]
    return Encoder(nn.Sequential(nn.Flatten(), layer), images.shape[-1])


def found(splits, encoder, columns, **settings):
    train, test = splits
    head = least_squares(encoder, train.images, train.labels)
    kind = Kind("universal", **{"steps": 30, **settings})
    given = {"classifier": head, "labels": test.labels, "kind": kind, "source": lambda: train}
    return module.universal(subject(encoder, test.images, columns, **given)), head


@pytest.mark.parametrize(("norm", "epsilon"), [("L2", 5.0), ("Linf", 0.25)])
def test_on_a_linear_encoder_it_does_more_harm_than_a_random_one(splits, norm, epsilon):
    rows = found(splits, principal(splits[0].images), (0, epsilon), norm=norm)[0].rows
    assert rows[MADE][0] == rows[RANDOM][0] > 80
    assert rows[MADE][1] < rows[RANDOM][1] - 10, "in percent points; 30 and more when this was written"


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_at_epsilon_0_it_is_natural_and_any_batches_give_the_same(splits, norm, monkeypatch):
    once, head = found(splits, build("conv3", 16, 0), (0, 1), norm=norm, steps=3)
    _, test = splits
    assert torch.equal(once.right[0], head(test.images.float() / 255).argmax(1) == test.labels)
    assert once.rows[MADE] == pytest.approx([100 * float(one.double().mean()) for one in once.right])
    monkeypatch.setattr(subjects, "at_once", lambda images, device: 7)
    again, _ = found(splits, build("conv3", 16, 0), (0, 1), norm=norm, steps=3)
    assert (again.right != once.right).sum() <= 1, "by batches convolutions round otherwise"


@pytest.mark.parametrize(("norm", "order"), [("L2", 2), ("Linf", torch.inf)])
def test_it_is_as_long_as_epsilon_and_moves_features_more_with_every_step(splits, norm, order):
    encoder, images = build("conv3", 16, 0).requires_grad_(False).eval(), splits[0].images[:64].float() / 255
    start = torch.full((1, 3, 16, 16), 1e-3)

    def displaced(steps):
        moved = module.perturbation(encoder, iter([images] * steps), start, norm, 0.5)
        assert float(moved.flatten().norm(p=order)) <= 0.5 * (1 + 1e-5)
        return float((encoder((images + moved).clamp(0, 1)) - encoder(images)).square().sum(1).mean())

    far = [displaced(steps) for steps in (0, 5, 20)]
    assert far == sorted(far)
    assert far[2] > 10 * far[0]


def test_batches_go_through_the_source_in_another_order_each_time(monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 4)
    source = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    batches = [(255 * batch).round().int().flatten().tolist() for batch in module._batches(source, 6, seed=0)]
    assert list(map(len, batches)) == [4, 4, 2, 4, 4, 2]
    epochs = [[place for batch in some for place in batch] for some in (batches[:3], batches[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
