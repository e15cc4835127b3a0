import numpy as np
import pytest
import torch
from conftest import tiny
from torch import nn

from rossbench.models import layers
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import build
from rossbench.report.figures.maps import embed
from rossbench.util.errors import InvalidValue


@pytest.fixture(scope="module")
def classifier():
    return Classifier(build(tiny().cells[0, 0, 0].finetune.pretrain).encoder, 10)


def images(n, generator):
    return torch.rand(n, 3, 16, 16, generator=generator)


def test_layers_are_named_in_their_order_with_their_shapes(classifier):
    found = layers.layers(classifier, 16)
    assert list(found)[-3:] == ["encoder.backbone", "encoder", "linear"]
    assert found["encoder.backbone.0"] == (32, 8, 8)
    assert found["encoder"] == (512,)
    assert found["linear"] == (10,)


@pytest.mark.parametrize("layer", ["encoder", "linear", "encoder.backbone.1", "encoder.backbone.8"])
def test_features_are_what_the_layer_gives(classifier, generator, layer):
    batch = images(8, generator)
    found = layers.extract(classifier, layer, batch.split(3))
    assert found.shape == (8, *layers.layers(classifier, 16)[layer])
    with torch.no_grad():
        if layer == "encoder":
            expected = classifier.encoder(batch)
        elif layer == "linear":
            expected = classifier(batch)
        else:
            last = int(layer.rsplit(".", 1)[1])
            expected = nn.Sequential(*list(classifier.encoder.backbone)[: last + 1])(batch)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_following_relu_in_place_does_not_write_into_them(classifier, generator):
    batch_norm, relu = list(classifier.encoder.backbone)[1:3]
    assert isinstance(batch_norm, nn.BatchNorm2d)
    assert relu.inplace
    assert layers.extract(classifier, "encoder.backbone.1", [images(4, generator)]).min() < 0
    assert layers.extract(classifier, "encoder.backbone.2", [images(4, generator)]).min() == 0


def test_batches_may_be_made_by_running_the_model(classifier, generator):
    """As an attack does, with gradients, between one batch and the next."""
    batch = images(4, generator)

    def moved():
        for part in batch.split(2):
            part = part.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(classifier(part).sum(), part)
            classifier(torch.zeros_like(part))
            yield part.detach() + 0 * gradient

    expected = layers.extract(classifier, "linear", batch.split(2))
    assert torch.equal(layers.extract(classifier, "linear", moved()), expected)


def test_nothing_stays_hooked(classifier, generator):
    layers.layers(classifier, 16)
    layers.extract(classifier, "encoder", [images(2, generator)])
    assert not any(module._forward_hooks for module in classifier.modules())


class Odd(nn.Module):
    """A layer that never runs, one that gives no tensor, and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.unused, self.twice, self.pair = nn.Linear(1, 1), nn.Identity(), Pair()

    def forward(self, x):
        return self.twice(self.twice(x) + 1) + self.pair(x)[0]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("layer", ["unused", "pair"])
def test_a_layer_without_features_is_refused(layer):
    with pytest.raises(InvalidValue, match=f"layer '{layer}': expected one that runs and gives a tensor"):
        layers.extract(Odd(), layer, [torch.zeros(1, 3, 4, 4)])


def test_of_a_layer_that_runs_twice_the_last_output_is_taken():
    assert layers.extract(Odd(), "twice", [torch.zeros(1, 3, 4, 4)]).unique().tolist() == [1]
    assert "pair" not in layers.layers(Odd(), 4)
    assert "unused" not in layers.layers(Odd(), 4)


def clusters(generator, n=30):
    centres = torch.tensor([[0.0] * 8, [9.0] * 8, [-9.0] * 8])
    return (centres[:, None] + torch.randn(3, n, 8, generator=generator)).flatten(0, 1)


def test_one_seed_gives_one_map_and_clusters_stay_together(generator):
    points = clusters(generator)
    first, second = (embed(points, 10, 500) for _ in range(2))
    assert first.shape == (90, 2)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, embed(points, 10, 500, seed=1))
    centres = first.reshape(3, 30, 2).mean(1)
    spread = first.reshape(3, 30, 2).std(1).max()
    gaps = [np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 3 * spread


def test_features_of_any_shape_are_flattened(generator):
    points = clusters(generator)
    assert np.array_equal(embed(points, 10, 300), embed(points.view(90, 2, 2, 2), 10, 300))


@pytest.mark.parametrize(
    ("perplexity", "iterations", "message"),
    [
        (30, 500, "expected a perplexity of 1 to 29.67 for 90 points, got 30; set another"),
        (0.5, 500, "expected a perplexity of 1"),
        (10, 100, "expected at least 250 iterations, got 100"),
    ],
)
def test_what_t_sne_cannot_do_is_refused(generator, perplexity, iterations, message):
    with pytest.raises(InvalidValue, match=message):
        embed(clusters(generator), perplexity, iterations)


@pytest.mark.parametrize("points", [torch.ones(90, 4), torch.full((90, 4), torch.nan), torch.zeros(0, 4)])
def test_features_that_cannot_be_mapped_are_refused(points):
    with pytest.raises(InvalidValue, match="expected features that are finite and differ, got others"):
        embed(points, 10, 500)
