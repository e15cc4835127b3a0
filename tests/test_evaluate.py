import dataclasses

import pytest
import torch
import torchattacks
from conftest import tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rossbench import attacks, datasets, evaluate
from rossbench.finetune import finetune
from rossbench.pretrain import build
from rossbench.seeds import derive, seeded
from rossbench.training import Hooks

GRID = (0, 0.1, 0.5, 2)
LINF = {"norm": "Linf", "step_size": 0.02}
both_norms = pytest.mark.parametrize(
    ("attack", "epsilons"), [({}, GRID), (LINF, (0, 0.005, 0.02, 0.2))], ids=["L2", "Linf"]
)


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


@both_norms
def test_an_attack_costs_accuracy_and_a_larger_one_more(trained, attack, epsilons):
    cell, classifier, test = trained
    found = predicted(under(cell, epsilons, attack), classifier, test)
    counts = [right(ranked, test) for ranked in found.attacked]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2]
    assert counts[3] == 0


@both_norms
def test_epsilons_together_are_what_each_is_alone(trained, attack, epsilons):
    cell, classifier, test = trained
    specs = under(cell, epsilons, attack)
    for ranked, spec in zip(predicted(specs, classifier, test).attacked, specs, strict=True):
        assert torch.equal(ranked, predicted([spec], classifier, test).attacked[0])


@both_norms
@pytest.mark.parametrize("random_start", [False, True])
def test_the_predictions_are_those_of_torchattacks_from_the_same_starts(trained, attack, epsilons, random_start):
    """Of 64 images the sum of the loss is 64 times its mean exactly, so gradients differ by their exponents alone."""
    cell, classifier, test = trained
    count, step_size = 64, attack.get("step_size", 0.1)
    settings = {**attack, "step_size": step_size, "random_start": random_start}
    found = predicted(under(cell, epsilons[1:], settings), classifier, test, count)
    made, more = torchattacks.PGD, {}
    if not attack:
        made, more = torchattacks.PGDL2, {"eps_for_division": attacks.EPS_FOR_DIVISION}
    for epsilon, ranked in zip(epsilons[1:], found.attacked, strict=True):
        theirs = made(classifier, eps=epsilon, alpha=step_size, steps=20, random_start=random_start, **more)
        with seeded(derive(cell.seed, "evaluate", 0)):
            adversarial = theirs(test.images[:count] / 255, test.labels[:count])
        assert torch.equal(ranked, classifier(adversarial).topk(5).indices)


@both_norms
def test_how_many_are_attacked_at_once_changes_nothing(trained, monkeypatch, moved, attack, epsilons):
    cell, classifier, test = trained
    found = []
    for at_once in (evaluate._CPU_AT_ONCE, 1):
        monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", at_once)
        moved.clear()
        found.append(predicted(under(cell, epsilons, attack), classifier, test))
    assert [len(images) for _, images in moved] == [*[32] * 9, 12]  # never fewer than 32 if there are more
    assert torch.equal(found[0].natural, found[1].natural)
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


@both_norms
def test_only_correct_images_are_attacked_on_request_and_robust_accuracy_is_the_same(trained, moved, attack, epsilons):
    cell, classifier, test = trained
    every = predicted(under(cell, epsilons, attack), classifier, test)
    moved.clear()
    some = predicted(under(cell, epsilons, attack, attacked="correct"), classifier, test)
    correct = every.natural[:, 0] == test.labels
    assert 0 < correct.sum() < 100
    assert sum(len(images) for _, images in moved) == 3 * correct.sum()
    for ranked, whole in zip(some.attacked, every.attacked, strict=True):
        assert right(ranked, test) == int((correct & (whole[:, 0] == test.labels)).sum())
        assert torch.equal(ranked[correct], whole[correct])
        assert torch.equal(ranked[~correct], every.natural[~correct])


@both_norms
def test_where_no_image_is_right_nothing_is_attacked(trained, moved, attack, epsilons):
    cell, classifier, test = trained
    natural = predicted(under(cell, (0,)), classifier, test).natural
    wrong = dataclasses.replace(test, labels=(natural[:, 0] + 1) % 10)
    found = predicted(under(cell, epsilons, attack, attacked="correct"), classifier, wrong)
    assert not moved
    assert all(torch.equal(ranked, natural) for ranked in found.attacked)
    none, specs = torch.zeros(100, dtype=torch.bool), under(cell, epsilons[1:], attack)
    assert not list(evaluate.attacked(specs, classifier, test.images, test.labels, none))


@pytest.mark.parametrize("every", [1, 3])
def test_attacked_images_of_each_evaluation_come_in_order(trained, every):
    cell, classifier, test = trained
    specs, among = under(cell, (0.1, 0.5), batch_size=40), torch.arange(100) % every == 0
    batches = list(evaluate.attacked(specs, classifier, test.images, test.labels, among))
    images, number, image = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for k, spec in enumerate(specs):
        assert image[number == k].tolist() == list(range(0, 100, every))
        distance = (images - test.images[image] / 255)[number == k].flatten(1).norm(dim=1)
        assert spec.epsilon / 2 < distance.max() <= spec.epsilon * (1 + 1e-4)


def test_without_a_choice_all_images_are_attacked(trained):
    cell, classifier, test = trained
    batches = list(evaluate.attacked(under(cell, (0.1,)), classifier, test.images, test.labels))
    assert torch.cat([batch.image for batch in batches]).tolist() == list(range(100))


class Largest(TorchDispatchMode):
    """Remembers the size of the largest float tensor that is made."""

    size = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        made = operation(*arguments, **(options or {}))
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor) and part.is_floating_point():
                self.size = max(self.size, part.numel())
        return made


@both_norms
def test_memory_is_bounded_by_the_batch_and_work_is_linear(trained, monkeypatch, moved, attack, epsilons):
    cell, classifier, test = trained
    monkeypatch.setattr(evaluate, "_CPU_AT_ONCE", 1)
    specs = under(cell, epsilons[1:3], attack, batch_size=20)
    sizes, attacked = [], []
    for count in (25, 50, 100):
        moved.clear()
        with Largest() as largest:
            predicted(specs, classifier, test, count)
        sizes.append(largest.size)
        attacked.append(sum(len(images) for _, images in moved))
    assert sizes[0] == sizes[1] == sizes[2] > 0
    assert attacked == [50, 100, 200]
