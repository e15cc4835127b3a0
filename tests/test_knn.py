"""stages.kinds.knn: nearest neighbours beside scikit-learn's, and under attack."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import subject
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from rossbench.config.kinds import Kind
from rossbench.data import datasets
from rossbench.models.encoders import Encoder, build
from rossbench.stages import evaluate
from rossbench.stages.kinds.knn import KnnClassifier, knn


@pytest.fixture(scope="module")
def digits():
    return [datasets.load("digits", split, n, 16, Path()) for split, n in (("train", 300), ("test", 60))]


def measured(digits, columns, **settings):
    train, test = digits
    encoder = build("conv3", 16, 0)
    kind = Kind("knn", **settings)
    return knn(subject(encoder, test.images, columns, labels=test.labels, kind=kind, train=lambda: train))


class Flat(nn.Module):
    def forward(self, images):
        return images.flatten(1)


def flat(bank, labels, neighbours=2, temperature=0.07, classes=3):
    bank = normalize(torch.tensor(bank))
    return KnnClassifier(Flat(), bank, torch.tensor(labels), classes, neighbours, temperature)


@pytest.mark.parametrize("neighbours", [1, 20, 200, 300])
def test_it_is_scikit_learns(digits, neighbours):
    """In double precision: in single, two images may change places at the k-th."""
    train, test = digits
    encoder = build("conv3", 16, 0).requires_grad_(False).eval().double()
    known, asked = (encoder(part.images.double() / 255) for part in digits)
    theirs = KNeighborsClassifier(neighbours, weights=lambda far: np.exp((1 - far) / 0.07), metric="cosine")
    theirs.fit(known.numpy(), train.labels.numpy())
    shares = torch.tensor(theirs.predict_proba(asked.numpy()))
    logits = KnnClassifier(encoder, normalize(known), train.labels, 10, neighbours, 0.07)(test.images.double() / 255)
    votes = torch.where(shares > 0, logits.exp(), 0)
    torch.testing.assert_close(votes / votes.sum(1, keepdim=True), shares, atol=1e-9, rtol=1e-9)
    assert logits.argmax(1).tolist() == theirs.predict(asked.numpy()).tolist()
    accuracy = 100 * float((logits.argmax(1) == test.labels).float().mean())
    assert measured(digits, (0,), neighbours=neighbours).rows["accuracy (%)"] == pytest.approx([accuracy], abs=2)


def test_votes_by_hand():
    """Two neighbours of class 0; of class 1 there is none among them, of class 2 no image at all."""
    model = flat([[1.0, 0], [1, 1], [0, 1]], [0, 0, 1])
    votes = float(torch.tensor([1, 0.5**0.5]).div(0.07).exp().sum().log())
    assert model(torch.tensor([[2.0, 0]]))[0].tolist() == pytest.approx([votes, 0, -2 / 0.07])


def test_more_neighbours_than_images_are_all():
    few = flat([[1.0, 0], [0, 1]], [0, 1], neighbours=200)
    assert few.neighbours == 2
    assert few(torch.tensor([[3.0, 1]])).argmax() == 0


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 10])
@pytest.mark.parametrize("image", [[1.0, 0], [-1.0, 0], [0.0, 0]])
def test_logits_and_gradients_are_finite(temperature, image):
    model = flat([[1.0, 0], [1, 1], [0, 1]], [0, 0, 1], temperature=temperature)
    leaf = torch.tensor([image], requires_grad=True)
    logits = model(leaf)
    cross_entropy(logits, torch.tensor([1])).backward()
    assert logits.isfinite().all()
    assert leaf.grad.isfinite().all()


def test_an_image_all_of_whose_neighbours_are_of_its_class_is_not_safe_for_that():
    """A class without a vote has to pull: else cross-entropy is 0 there, and so is its gradient."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(2, 3, 4, 4, generator=generator)
    noisy = (pattern.repeat_interleave(10, 0) + 0.01 * torch.randn(20, 3, 4, 4, generator=generator)).clamp(0, 1)
    train = datasets.Data((255 * noisy).to(torch.uint8), torch.tensor([0] * 10 + [1] * 10), "")
    encoder = Encoder(Flat(), 4)
    encoder.mean.fill_(0.5)
    far = float((pattern[0] - pattern[1]).norm())
    kind = Kind("knn", neighbours=5)
    found = knn(subject(encoder, train.images, (0, 0.1, far), labels=train.labels, kind=kind, train=lambda: train))
    assert found.rows["accuracy (%)"] == [100, 100, 0]


@pytest.mark.parametrize(("norm", "columns"), [("L2", (0, 0.25, 0.5, 1, 2)), ("Linf", (0, 0.05, 0.1, 0.2))])
@pytest.mark.parametrize("neighbours", [10, 200])
def test_accuracy_falls_as_epsilon_grows(digits, norm, columns, neighbours):
    """By one image it may rise, as no attack finds all there is."""
    found = measured(digits, columns, norm=norm, neighbours=neighbours)
    accuracy = found.rows["accuracy (%)"]
    assert accuracy == pytest.approx((100 * found.right.float().mean(1)).tolist())
    assert all(after <= before + 100 / 60 for before, after in pairwise(accuracy))
    assert accuracy[0] > 60
    assert accuracy[-1] < 20


def test_how_many_images_are_attacked_at_once_plays_no_part(digits, monkeypatch):
    whole = measured(digits, (0, 0.25, 0.5), neighbours=20).right
    monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", 1)  # 32 images
    parts = measured(digits, (0, 0.25, 0.5), neighbours=20).right
    assert (whole != parts).sum() <= 1  # of 180: sums that round otherwise can turn one on the edge
