import dataclasses
import math

import pytest
from conftest import SPECS, reread, values
from hypothesis import assume, given
from hypothesis import strategies as st

from rossbench.config.recipes import (
    ATTACKS,
    FIELD_FULL,
    FIELD_LINEAR,
    Attack,
    Evaluation,
    Finetuning,
    Pretraining,
    Recipe,
)
from rossbench.config.scenarios import Scenario, specs_of
from rossbench.config.specs import passes
from rossbench.util.errors import InvalidValue
from rossbench.util.values import flatten, with_fields


def scenario(**changes: object) -> Scenario:
    return Scenario(**{"name": "x", "source": "cifar10", "target": "cifar100", **changes})


def test_equal_values_have_equal_keys_however_they_are_written():
    one = scenario(train_epsilons=[0, 1], eval_epsilons=(0,)).cells[1.0, 1.0, 0.0]
    other = scenario(train_epsilons=(0.0, 1.0), eval_epsilons=(0.0,)).cells[1, 1, 0]
    assert one == other
    assert one.key == other.key


PINNED = ("c41a1d248f97ebad", "8525223693a7f9c2", "c2c06bfc1f3ae5c9")


def test_keys_never_change_without_notice():
    """A changed key makes every stored artifact unreachable: raise the store's format when this has to change."""
    cell = Scenario("x", "cifar10", "cifar100").cells[0.2, 0.2, 1.0]
    assert (cell.finetune.pretrain.key, cell.finetune.key, cell.key) == PINNED


OTHER = {
    "norm": "Linf",
    "epsilon_warmup": 1.0,
    "limit": 500,
    "encoder": "resnet34",
    "attack_mode": "train",
    "batch_norm": "per-rank",
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (0.9, 1.1),
    "jitter": (0.1, 0.1, 0.1, 0.1),
    "blur_sigma": (1.0, 2.0),
    "precision": "bfloat16",
    "attacked": "correct",
    "name": "apgd-ce",
    "step_unit": "epsilon",
    "trained": "full",
    "optimizer": "sgd",
    "milestones": (10, 20),
    "flip_probability": 0.25,
    "head_init": "zero",
    "trades_batch_norm": "dual",
    "attack.loss": "margin",
    "loss": "trades",
    "size": 8,
}
"""Another valid value of a field; of others it is made from the one they have."""


def other(path: str, old: object) -> object:
    name = ".".join(path.split(".")[-2:])
    for known in (name, path.rpartition(".")[2]):
        if known in OTHER:
            return OTHER[known]
    return not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else old / 2


PGD_ALONE = ("recipe.attack.name", "recipe.attack.restarts")
FIXED = (PGD_ALONE, PGD_ALONE, ("recipe.attack_version",))
"""By stage, what a scenario does not leave open."""
SPECIFIC = ("seed", "epsilon", "encoder", "limit", "size")
FIELDS = [
    *((0, f"recipe.{field}") for field in sorted(flatten(Pretraining()))),
    *((0, field) for field in SPECIFIC),
    *((1, f"recipe.{field}") for field in sorted(flatten(Finetuning()))),
    *((2, f"recipe.{field}") for field in sorted(flatten(Evaluation()))),
]


@pytest.mark.parametrize(("stage", "field"), FIELDS)
def test_every_field_of_a_stage_is_in_its_key(stage, field):
    """And a recipe's, where a scenario takes it, in the protocol."""
    one = scenario()
    spec = one.cells[0.2, 0.2, 0.2].chain[stage]
    new = other(field, flatten(spec)[field])
    assert with_fields(spec, {field: new}).key != spec.key
    if field.startswith("recipe.") and field not in FIXED[stage]:
        path = f"recipe.{('pretraining', 'finetuning', 'evaluation')[stage]}.{field.removeprefix('recipe.')}"
        assert with_fields(one, {path: new}).protocol != one.protocol


ATTACK = Attack(norm="Linf", steps=7, step_size=0.1)


@pytest.mark.parametrize(
    ("stage", "recipe"),
    [
        (0, Recipe(pretraining=Pretraining(attack=ATTACK, attack_mode="train"))),
        (0, Recipe(pretraining=Pretraining(epsilon_warmup=2))),
        (1, Recipe(finetuning=Finetuning(attack=ATTACK))),
        (1, Recipe(finetuning=Finetuning(loss="trades", trades_beta=1.0))),
        (2, Recipe(evaluation=Evaluation(attack=ATTACK))),
        (2, Recipe(evaluation=Evaluation(attacked="correct"))),
    ],
)
def test_how_is_attacked_is_in_no_key_where_nothing_is(stage, recipe):
    plain, changed = scenario(), scenario(recipe=recipe)
    for place, same in (((0, 0, 0), True), ((0.2, 0.2, 0.2), False)):
        ours, theirs = (one.cells[place].chain[stage] for one in (plain, changed))
        assert (ours.key == theirs.key) is same


def test_a_warm_up_is_the_same_work():
    warm = scenario(recipe=Recipe(pretraining=Pretraining(epsilon_warmup=2)))
    assert passes(specs_of([warm])) == passes(specs_of([scenario()]))


@pytest.mark.parametrize(
    ("images", "temperature", "loss", "collapsed"),
    [
        (64, 0.07, math.log(127), True),
        (64, 0.07, 4.825, True),  # conv3 on CIFAR-10 as it begins to leave that state
        (64, 0.07, 4.789, False),  # 600 steps later
        (256, 0.5, 6.236, True),  # where ResNet-18 was
        (256, 0.5, 6.22, False),  # at that temperature most that can be gained is 2
        (64, 0.5, 4.45, False),  # digits at epsilon 1, first epoch
        (64, 0.07, 5.2, False),  # worse than constant features
        (64, 50.0, math.log(127), True),
        (64, 50.0, math.log(127) - 0.01, False),  # half of all that can be gained at so high a temperature
        (2, 0.07, math.log(3), True),
        (100_000, 0.07, math.log(2 * 50_000 - 1), True),  # all images are one batch
    ],
)
def test_the_loss_of_constant_features_is_known(images, temperature, loss, collapsed):
    spec = scenario(recipe=Recipe(pretraining=Pretraining(batch_size=images, temperature=temperature)))
    assert spec.cells[0.2, 0.2, 0].finetune.pretrain.is_collapsed(loss) is collapsed


@pytest.mark.parametrize(
    ("name", "norm", "versions"),
    [
        ("square", "L2", {2}),
        ("autoattack-standard", "L2", {2}),
        ("square", "Linf", {1}),
        ("pgd", "L2", {1}),
    ],
)
def test_results_of_an_attack_whose_code_has_changed_are_not_taken_for_those_of_now(name, norm, versions):
    """Those of before keep their key, so that they can be read, and another protocol tells them apart."""
    attack = dataclasses.replace(ATTACKS[name].defaults, norm=norm)
    now = scenario(recipe=Recipe(evaluation=Evaluation(attack)))
    old, cells = Recipe(evaluation=Evaluation(attack, attack_version=1)), now.cells
    before = {place: dataclasses.replace(cell, recipe=old.evaluation) for place, cell in cells.items()}
    assert {cell.recipe.attack_version for cell in cells.values()} == versions
    assert scenario(recipe=old) == now
    assert scenario(recipe=old).deviations(now) == now.deviations(scenario(recipe=old)) == {}
    assert cells[0.2, 0.2, 0] == before[0.2, 0.2, 0]  # where nothing is attacked
    assert (cells[0.2, 0.2, 0.2] == before[0.2, 0.2, 0.2]) == (versions == {1})
    assert "attack_version" not in str(before[0.2, 0.2, 0.2].identity)
    assert ("attack_version" in str(cells[0.2, 0.2, 0.2].identity)) == (versions == {2})


@pytest.mark.parametrize(
    ("recipe", "epsilon", "step"),
    [
        (FIELD_LINEAR, 0, 1),
        (FIELD_LINEAR, 8 / 255, 1 + 2 * 10),
        (FIELD_FULL, 8 / 255, 2 * 10 + 1 + 3 + 3),
        (FIELD_FULL, 0, 3),
        (dataclasses.replace(FIELD_LINEAR, loss="trades"), 8 / 255, 2 * 10 + 1 + 1 + 1),
    ],
)
def test_passes_of_the_fields_finetunings(recipe, epsilon, step):
    one = scenario(recipe=Recipe(finetuning=recipe), finetune_epsilons=(epsilon,), train_limit=1000)
    assert one.cells[0, epsilon, 0].finetune.passes == 25 * 1000 * step


def test_passes_are_counted_by_hand():
    recipe = Recipe(
        pretraining=Pretraining(epochs=2, batch_size=300),
        finetuning=Finetuning(epochs=3),
    )
    one = scenario(recipe=recipe, train_epsilons=(0, 1), eval_epsilons=(0, 1), train_limit=1000, test_limit=100)
    views = 2 * 900  # the incomplete batch of 100 is dropped
    assert passes(specs_of([one])) == {
        "pretrain": 2 * views * (3 + (3 + 2 * 3)),
        "finetune": 1000 + 3 * 1000 * (1 + 2 * 3),
        "evaluate": 2 * 100 * (1 + (1 + 2 * 20)),
    }


def test_passes_of_what_is_shared_are_counted_once():
    base = scenario(train_epsilons=(1,), eval_epsilons=(0,), train_limit=1000, test_limit=100)
    heads = dataclasses.replace(base, finetune_epsilons=(0, 1))
    alone, both = passes(specs_of([base])), passes(specs_of([base, heads]))
    assert passes(specs_of([base, base])) == alone
    assert both == {
        "pretrain": alone["pretrain"],
        "finetune": alone["finetune"] + 1000,  # a standard head sees the encoder's features of each image once
        "evaluate": alone["evaluate"] + 100,
    }
    assert passes([]) == {"pretrain": 0, "finetune": 0, "evaluate": 0}


NAMES = [
    ((1, 1, 0.5), "pretrain cifar10 ε=1", "finetune cifar10 → cifar100 ε=1", "evaluate cifar10 → cifar100 ε=1 at 0.5"),
    (
        (1, 0, 0.5),
        "pretrain cifar10 ε=1",
        "finetune cifar10 → cifar100 ε=1:0",
        "evaluate cifar10 → cifar100 ε=1:0 at 0.5",
    ),
    (
        (0, 8 / 255, 0),
        "pretrain cifar10 ε=0",
        "finetune cifar10 → cifar100 ε=0:8/255",
        "evaluate cifar10 → cifar100 ε=0:8/255 at 0",
    ),
]


@pytest.mark.parametrize(("place", "pretrain", "finetune", "evaluate"), NAMES)
def test_a_spec_is_named_by_its_task_and_epsilons(place, pretrain, finetune, evaluate):
    first, second, column = place
    one = scenario(train_epsilons=(first,), finetune_epsilons=(second,), eval_epsilons=(column,))
    assert list(map(str, one.cells[place].chain)) == [pretrain, finetune, evaluate]


# --- properties ----------------------------------------------------------------------------------------------


def replaced(content: dict, path: str, item: object) -> dict:
    head, _, rest = path.partition(".")
    return {**content, head: replaced(content[head], rest, item) if rest else item}


@given(st.data())
def test_specs_that_differ_in_any_one_field_have_different_keys(data):
    spec = data.draw(SPECS)
    other = data.draw(values(type(spec)))
    contents = dataclasses.asdict(spec), dataclasses.asdict(other)
    path = data.draw(st.sampled_from(sorted({*flatten(contents[0])} & {*flatten(contents[1])})))
    try:
        changed = reread(type(spec), replaced(contents[0], path, flatten(contents[1])[path]))
    except InvalidValue:  # steps of autoattack-standard
        assume(False)
    assert (changed.key == spec.key) == (changed.identity == spec.identity)


@given(SPECS)
def test_any_spec_has_a_cost_and_a_name_of_one_line(spec):
    assert isinstance(spec.passes, int)
    assert spec.passes >= 0
    assert len(str(spec).splitlines()) == 1
