import dataclasses
import math

import pytest

from rossbench.errors import InvalidValue, UnknownName
from rossbench.recipe import Attack, Evaluation, Finetuning, Pretraining, Recipe
from rossbench.scenario import Scenario


def scenario(**changes: object) -> Scenario:
    return Scenario(**{"name": "x", "source": "cifar10", "target": "cifar100", **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scenario(name="../x"), "Scenario.name"),
        (lambda: scenario(name=""), "Scenario.name"),
        (lambda: scenario(train_epsilons=()), "Scenario.train_epsilons: expected ascending epsilons"),
        (lambda: scenario(eval_epsilons=(0.2, 0)), "Scenario.eval_epsilons: expected ascending epsilons"),
        (lambda: scenario(eval_epsilons=(0, 0)), "Scenario.eval_epsilons: expected ascending epsilons"),
        (lambda: scenario(eval_epsilons=(-1, 0)), "at least 0, got -1"),
        (lambda: scenario(eval_epsilons=(0, math.inf)), "got inf"),
        (lambda: scenario(source="cifar11"), "unknown data set 'cifar11'; did you mean cifar1"),
        (lambda: scenario(target="mnist"), "expected images of cifar10's size, 32 pixels, got mnist's, 28"),
        (lambda: scenario(train_limit=99), "train limit for cifar100: expected 100 (one image a class) to 50000"),
        (lambda: scenario(test_limit=10_001), "test limit for cifar100: expected 100 (one image a class) to 10000"),
    ],
)
def test_a_field_out_of_its_range_is_refused(make, message):
    with pytest.raises((InvalidValue, UnknownName)) as raised:
        make()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_an_attack_its_settings_are_in_no_key():
    attack = Attack(norm="Linf", steps=7, step_size=0.1)
    recipe = Recipe(
        pretraining=Pretraining(attack=attack, attack_mode="train"),
        finetuning=Finetuning(attack=attack),
        evaluation=Evaluation(attack=attack),
    )
    plain, other = scenario(), scenario(recipe=recipe)
    assert plain.cells[0, 0].key == other.cells[0, 0].key
    assert plain.cells[0, 0.2].key != other.cells[0, 0.2].key
    assert plain.cells[0.2, 0].finetune.pretrain.key != other.cells[0.2, 0].finetune.pretrain.key


def test_a_limit_that_leaves_nothing_out_is_none():
    assert scenario(train_limit=50_000, test_limit=10_000) == scenario()


def test_scenarios_share_what_is_the_same():
    same, other = scenario(target="cifar10"), scenario(target="cifar100")
    assert {c.finetune.pretrain.key for c in same.cells.values()} == {
        c.finetune.pretrain.key for c in other.cells.values()
    }
    assert not {c.finetune.key for c in same.cells.values()} & {c.finetune.key for c in other.cells.values()}


def test_specs_come_once_and_after_what_they_are_made_from():
    specs = list(scenario().specs())
    assert [sum(s.stage == stage for s in specs) for stage in ("pretrain", "finetune", "evaluate")] == [6, 6, 36]
    seen = set()
    for spec in specs:
        parent = getattr(spec, "finetune", None) or getattr(spec, "pretrain", None)
        assert parent is None or parent.key in seen
        assert spec.key not in seen
        seen.add(spec.key)


def test_finetuning_attacks_with_the_epsilon_of_pretraining():
    assert all(c.finetune.epsilon == c.finetune.pretrain.epsilon == row for (row, _), c in scenario().cells.items())


def test_deviations_name_what_differs_and_leave_out_what_only_chooses_cells():
    registered = scenario()
    recipe = dataclasses.replace(registered.recipe, finetuning=Finetuning(epochs=7))
    other = dataclasses.replace(registered, recipe=recipe, train_limit=500, seed=3, eval_epsilons=(0,))
    assert other.deviations(registered) == {"recipe.finetuning.epochs": (7, 100), "train_limit": (500, None)}
    assert registered.deviations(registered) == {}


def test_matrices_merge_over_grids_only():
    base = scenario()
    same = dataclasses.replace(base, train_epsilons=(0,), eval_epsilons=(0, 5), description="other", name="y")
    assert same.protocol == base.protocol
    for change in ({"seed": 1}, {"train_limit": 500}, {"encoder": "resnet34"}):
        assert dataclasses.replace(base, **change).protocol != base.protocol
