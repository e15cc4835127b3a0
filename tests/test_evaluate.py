import dataclasses

import pytest
import torch
from conftest import tiny

from rossbench import attacks, datasets
from rossbench.evaluate import evaluate
from rossbench.finetune import finetune
from rossbench.pretrain import build
from rossbench.training import Hooks


@pytest.fixture(scope="module")
def trained():
    """A classifier of random features, good enough to be fooled, and test images."""
    cell = tiny().cells[0.0, 0.0, 0.5]
    train, test = datasets.load("digits", "train", 600), datasets.load("digits", "test", 100)
    encoder = build(cell.finetune.pretrain).encoder
    recipe = dataclasses.replace(cell.finetune.recipe, epochs=20)
    spec = dataclasses.replace(cell.finetune, recipe=recipe)
    classifier, _ = finetune(spec, encoder, train.images, train.labels, 10, Hooks())
    return cell, classifier, test


def right(ranked, test):
    return int((ranked[:, 0] == test.labels).sum())


def test_epsilon_0_is_plain_accuracy(trained):
    cell, classifier, test = trained
    ranked = evaluate(dataclasses.replace(cell, epsilon=0), classifier, test.images, test.labels, Hooks())
    with torch.no_grad():
        logits = classifier(test.images / 255)
    assert torch.equal(ranked, logits.topk(5).indices)
    assert right(ranked, test) > 50


def test_an_attack_costs_accuracy_and_a_larger_one_more(trained):
    cell, classifier, test = trained
    counts = [
        right(evaluate(dataclasses.replace(cell, epsilon=e), classifier, test.images, test.labels, Hooks()), test)
        for e in (0, 0.1, 0.5, 2)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2]
    assert counts[3] == 0


def test_every_batch_is_attacked_with_a_seed_of_its_own(trained, monkeypatch):
    cell, classifier, test = trained
    seeds, sizes, real = [], [], attacks.perturb

    def recorded(model, images, labels, attack, epsilon, seed):
        seeds.append(seed)
        sizes.append(len(images))
        assert attack == cell.recipe.attack
        return real(model, images, labels, attack, epsilon, seed)

    monkeypatch.setattr("rossbench.evaluate.perturb", recorded)
    spec = dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, batch_size=40))
    ticks = []
    first = evaluate(spec, classifier, test.images, test.labels, Hooks(tick=ticks.append))
    assert sizes == [40, 40, 20]
    assert len(set(seeds)) == 3
    assert [tick.fraction for tick in ticks] == [0.4, 0.8, 1.0]
    assert torch.equal(first, evaluate(spec, classifier, test.images, test.labels, Hooks()))
