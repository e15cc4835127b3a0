"""stages.kinds.features: how far features move, beside what is known by algebra."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import subject
from torch import nn

from rossbench.config.kinds import Kind
from rossbench.data import datasets
from rossbench.models.encoders import Encoder, build
from rossbench.stages import evaluate
from rossbench.stages.kinds import features as module
from rossbench.stages.kinds.features import cka, cosine_distance, features

DISPLACED = "displacement, median"


def linear(*singular):
    """An encoder of images of 4 pixels with these singular values."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (len(singular), 48))
    layer = nn.Linear(48, len(singular))
    layer.weight.data = left @ torch.tensor(singular).diag() @ right[: len(singular)]
    return Encoder(nn.Sequential(nn.Flatten(), layer), 4)


def grey(n):
    """Images in the middle, which a small step moves anywhere."""
    return torch.randint(108, 148, (n, 3, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", "test", 60, 16, Path()).images


def test_a_linear_encoder_moves_by_epsilon_times_its_largest_singular_value():
    found = features(subject(linear(4.0, 2.0, 1.0, 0.5), grey(40), (0, 0.25, 1)))
    moved = found.arrays["displacement"] * found.summary["median L2 distance between images"]
    for k, epsilon in enumerate((0, 0.25, 1)):
        assert moved[k].max() <= 4 * epsilon * (1 + 1e-4)
        assert moved[k].min() >= 4 * epsilon * 0.99
    assert found.rows[DISPLACED] == pytest.approx(found.arrays["displacement"].median(1).values.tolist(), rel=1e-3)


def test_at_epsilon_0_nothing_moves(digits):
    rows = features(subject(build("conv3", 16, 0), digits, (0,))).rows
    assert {title: numbers[0] for title, numbers in rows.items()} == {
        DISPLACED: 0,
        "displacement, 10 %": 0,
        "displacement, 90 %": 0,
        "cosine distance, median": 0,
        "linear CKA": pytest.approx(1, abs=1e-5),
        "nearer to another (%)": 0,
    }


@pytest.mark.parametrize(("norm", "columns"), [("L2", (0.25, 1)), ("Linf", (0.03, 0.3))])
def test_of_all_steps_the_best_is_kept_and_more_epsilon_moves_more(digits, norm, columns):
    """A longer search from the same start goes through the shorter one's steps."""
    short, long = (
        features(subject(build("conv3", 16, 0), digits, columns, kind=Kind("features", norm=norm, steps=steps)))
        for steps in (3, 6)
    )
    for name in ("displacement", "cosine"):
        near, far = short.arrays[name], long.arrays[name]
        assert (far >= near * (1 - 1e-4)).all()
        assert (near[1] > near[0]).all()


def test_how_many_images_are_moved_at_once_plays_no_part(digits, monkeypatch):
    def found():
        return features(subject(build("conv3", 16, 0), digits, (0.25, 1), kind=Kind("features", steps=3)))

    whole = found()
    monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", 1)  # 32 images
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    parts = found()
    assert evaluate.at_once(digits, torch.device("cpu")) == 32
    for title, numbers in whole.rows.items():
        assert parts.rows[title] == pytest.approx(numbers, rel=1e-3), title


@pytest.mark.parametrize("constant", [lambda x: x.flatten(1)[:, :3] * 0 + 1, lambda x: torch.ones(len(x), 3)])
def test_an_encoder_that_has_collapsed_moves_nothing_and_has_no_distances(constant):
    class Collapsed(nn.Module):
        def forward(self, images):
            return constant(images)

    found = features(subject(Encoder(Collapsed(), 4), grey(5), (0, 1)))
    assert found.summary == {"median L2 distance between images": 0}
    assert all(math.isnan(number) for number in (*found.rows[DISPLACED], *found.rows["linear CKA"]))
    assert found.rows["cosine distance, median"] == (0, 0)
    assert found.rows["nearer to another (%)"] == (0, 0)


def test_one_image_has_no_distance_to_another():
    found = features(subject(linear(1.0, 0.5), grey(1), (1,)))
    assert math.isnan(found.rows[DISPLACED][0])
    assert found.rows["nearer to another (%)"] == (0,)


def test_progress_is_told_up_to_the_whole(digits):
    told = []
    features(subject(build("conv3", 16, 0), digits, (0, 1), kind=Kind("features", steps=1), progress=told.append))
    assert told == sorted(told)
    assert told[-1] == 1


def test_nearer_to_another_by_hand(monkeypatch):
    """In the middle between two it is still its own; far from 0 products alone would not tell."""
    natural = torch.tensor([[0.0], [1.0], [10.0], [10.0]]) + 1000
    moved = torch.tensor([[0.5], [0.4], [2.0], [10.0]]) + 1000
    for at_once in (1, 2**24):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        assert module._nearer_to_another(moved, natural).tolist() == [False, True, True, False]


def test_distance_between_images_is_the_median_of_pairs(generator):
    assert module._between(torch.tensor([[0.0], [1.0], [3.0]]), 0) == 2
    many = torch.randn(3000, 2, generator=generator)
    assert module._between(many, 0) == pytest.approx(float(torch.pdist(many).median()), rel=0.05)


def test_a_small_cosine_distance_is_exact(generator):
    one = torch.randn(5, 512, generator=generator, dtype=torch.float64)
    other = one + 1e-4 * torch.randn(5, 512, generator=generator, dtype=torch.float64)
    exact = 1 - torch.cosine_similarity(one, other)
    assert torch.allclose(cosine_distance(one.float(), other.float()).double(), exact, rtol=1e-2)
    assert cosine_distance(torch.zeros(1, 4), torch.zeros(1, 4)) == 0


def reference(x, y):
    """Kornblith et al. (2019) by kernels: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


@pytest.mark.parametrize("shape", [(50, 8), (20, 40)])
def test_cka_is_that_of_the_paper(generator, shape):
    x = torch.randn(shape, generator=generator) + 3
    y = x.relu() + torch.randn(shape, generator=generator)
    turn = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=generator)).Q
    assert cka(x, y) == pytest.approx(reference(x.double().numpy(), y.double().numpy()), abs=1e-4)
    for same in (x, 5 * x @ turn - 7, 1e15 * x):
        assert cka(x, same) == pytest.approx(1, abs=1e-4)
    assert cka(x, torch.ones(shape)).isnan()
