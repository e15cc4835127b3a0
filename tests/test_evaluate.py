import dataclasses

import pytest
import torch
import torchattacks
from conftest import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from rossbench import attacks, datasets, evaluate
from rossbench.finetune import finetune
from rossbench.pretrain import build
from rossbench.training import Hooks

GRID = (0, 0.1, 0.5, 2)


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


def under(cell, epsilons=GRID, attack=None, **changes):
    """The cell's evaluation at some epsilons, with changes to its recipe and its attack."""
    recipe = dataclasses.replace(cell.recipe, **changes)
    recipe = dataclasses.replace(recipe, attack=dataclasses.replace(recipe.attack, **(attack or {})))
    return [dataclasses.replace(cell, epsilon=epsilon, recipe=recipe) for epsilon in epsilons]


def predicted(specs, classifier, test, count=None):
    found = evaluate.evaluate(specs, classifier, test.images[:count], test.labels[:count], Hooks())
    assert len(found.attacked) == len(specs)
    return found


def right(ranked, test):
    return int((ranked[:, 0] == test.labels).sum())


@pytest.fixture
def moved(monkeypatch):
    """What is attacked: (radii, images) of each batch."""
    calls, real = [], attacks.perturb_each

    def recorded(model, images, labels, attack, radii, start):
        calls.append((radii, images))
        return real(model, images, labels, attack, radii, start)

    monkeypatch.setattr(attacks, "perturb_each", recorded)
    return calls


def test_epsilon_0_is_plain_accuracy(trained):
    cell, classifier, test = trained
    found = predicted(under(cell, (0,)), classifier, test)
    with torch.no_grad():
        logits = classifier(test.images / 255)
    assert torch.equal(found.natural, logits.topk(5).indices)
    assert torch.equal(found.attacked[0], found.natural)
    assert right(found.natural, test) > 50


@pytest.mark.parametrize(("norm", "epsilons"), [("L2", GRID), ("Linf", (0, 0.005, 0.02, 0.2))])
def test_an_attack_costs_accuracy_and_a_larger_one_more(trained, norm, epsilons):
    cell, classifier, test = trained
    specs = under(cell, epsilons, {"norm": norm, "step_size": 3.0 if norm == "L2" else 0.02})
    counts = [right(ranked, test) for ranked in predicted(specs, classifier, test).attacked]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2]
    assert counts[3] == 0


@pytest.mark.parametrize("attack", [{}, {"norm": "Linf", "step_size": 0.02}], ids=["L2", "Linf"])
def test_epsilons_together_are_what_each_is_alone(trained, attack):
    cell, classifier, test = trained
    epsilons = (0, 0.02, 0.05, 0.3) if attack else GRID
    together = predicted(under(cell, epsilons, attack), classifier, test).attacked
    for ranked, spec in zip(together, under(cell, epsilons, attack), strict=True):
        assert torch.equal(ranked, predicted([spec], classifier, test).attacked[0])


@pytest.mark.parametrize(("norm", "theirs"), [("L2", torchattacks.PGDL2), ("Linf", torchattacks.PGD)])
def test_without_a_random_start_the_predictions_are_those_of_torchattacks(trained, norm, theirs):
    cell, classifier, test = trained
    attack = {"norm": norm, "random_start": False, "step_size": 0.1}
    found = predicted(under(cell, GRID[1:], attack), classifier, test)
    more = {"eps_for_division": attacks.EPS_FOR_DIVISION} if norm == "L2" else {}
    for epsilon, ranked in zip(GRID[1:], found.attacked, strict=True):
        made = theirs(classifier, eps=epsilon, alpha=0.1, steps=20, random_start=False, **more)
        adversarial = made(test.images / 255, test.labels)
        assert torch.equal(ranked, classifier(adversarial).topk(5).indices)


def test_how_many_are_attacked_at_once_changes_nothing(trained, monkeypatch, moved):
    cell, classifier, test = trained
    found = []
    for at_once in (evaluate._CPU_AT_ONCE, 1):
        monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", at_once)
        moved.clear()
        found.append(predicted(under(cell), classifier, test))
    assert [len(images) for _, images in moved] == [*[32] * 9, 12]
    for first, second in zip(*(one.attacked for one in found), strict=True):
        assert torch.equal(first, second)


def test_every_batch_draws_starts_of_its_own_and_each_epsilon_the_same(trained, monkeypatch):
    cell, classifier, test = trained
    starts = []
    monkeypatch.setattr(
        attacks, "perturb_each", lambda model, images, labels, attack, radii, start: starts.append(start) or images
    )
    ticks = []
    specs = under(cell, (0.1, 0.5), batch_size=40)
    evaluate.evaluate(specs, classifier, test.images, test.labels, Hooks(tick=ticks.append))
    assert [len(start) for start in starts] == [80, 80, 40]
    for start in starts:
        assert torch.equal(*start.chunk(2))
    assert not torch.equal(starts[0], starts[1])
    assert [tick.position for tick in ticks] == [f"image {k}/300" for k in (100, 180, 260, 300)]
    assert ticks[-1].fraction == 1


def test_only_correct_images_are_attacked_on_request_and_robust_accuracy_is_the_same(trained, moved):
    cell, classifier, test = trained
    every = predicted(under(cell), classifier, test)
    moved.clear()
    some = predicted(under(cell, attacked="correct"), classifier, test)
    correct = every.natural[:, 0] == test.labels
    assert 0 < correct.sum() < 100
    assert sum(len(images) for _, images in moved) == 3 * correct.sum()
    for ranked, whole in zip(some.attacked, every.attacked, strict=True):
        assert torch.equal(ranked[correct], whole[correct])
        assert torch.equal(ranked[~correct], every.natural[~correct])


def test_where_no_image_is_right_nothing_is_attacked(trained, moved):
    cell, classifier, test = trained
    natural = predicted(under(cell, (0,)), classifier, test).natural
    wrong = dataclasses.replace(test, labels=(natural[:, 0] + 1) % 10)
    found = predicted(under(cell, attacked="correct"), classifier, wrong)
    assert not moved
    assert all(torch.equal(ranked, natural) for ranked in found.attacked)


def test_attacked_images_of_one_evaluation_come_in_order(trained):
    cell, classifier, test = trained
    (spec,) = under(cell, (0.5,), batch_size=40)
    batches = list(evaluate.attacked([spec], classifier, test.images, test.labels))
    assert torch.cat([batch.image for batch in batches]).tolist() == list(range(100))
    distance = (torch.cat([batch.images for batch in batches]) - test.images / 255).flatten(1).norm(dim=1)
    assert distance.max() <= 0.5 * (1 + 1e-4)
    assert distance.min() > 0.1
    among = torch.arange(100) % 3 == 0
    some = list(evaluate.attacked([spec], classifier, test.images, test.labels, among))
    assert torch.cat([batch.image for batch in some]).tolist() == list(range(0, 100, 3))


class Largest(TorchDispatchMode):
    """Remembers the size of the largest float tensor that is made."""

    size = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        made = operation(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor) and made.is_floating_point():
            self.size = max(self.size, made.numel())
        return made


def test_memory_is_bounded_by_the_batch_and_work_is_linear(trained, monkeypatch, moved):
    cell, classifier, test = trained
    monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", 1)
    specs = under(cell, (0.1, 0.5), batch_size=20)
    sizes, attacked = [], []
    for count in (40, 80):
        moved.clear()
        with Largest() as largest:
            predicted(specs, classifier, test, count)
        sizes.append(largest.size)
        attacked.append(sum(len(images) for _, images in moved))
    assert sizes[0] == sizes[1] > 0
    assert attacked == [80, 160]
