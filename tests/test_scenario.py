import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossbench.epsilons import format_epsilon, parse_epsilons
from rossbench.errors import InvalidValue, UnknownName
from rossbench.recipe import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe
from rossbench.scenario import Scenario
from rossbench.specs import EvaluateSpec
from rossbench.values import flatten


def scenario(**changes: object) -> Scenario:
    return Scenario(**{"name": "x", "source": "cifar10", "target": "cifar100", **changes})


def test_the_defaults_are_the_protocol_of_the_study():
    flat = flatten(Recipe())
    expected = {
        # section 5.2
        "pretraining.epochs": 500,
        "pretraining.batch_size": 256,
        "pretraining.learning_rate": 2e-4,
        "pretraining.attack.steps": 3,
        "pretraining.attack.step_size": 1.0,
        "pretraining.attack.norm": "L2",
        "pretraining.augmentation.jitter_probability": 0.8,
        "pretraining.augmentation.grayscale_probability": 0.2,
        "pretraining.augmentation.blur_kernel": 0.1,
        "finetuning.epochs": 100,
        "finetuning.batch_size": 256,
        "finetuning.learning_rate": 8e-5,
        "finetuning.attack.steps": 3,
        "finetuning.attack.step_size": 1.0,
        # section 5.4.1
        "evaluation.attack.steps": 20,
        "evaluation.attack.step_size": 3.0,
        "evaluation.batch_size": 1024,
        # sthalles/SimCLR, where the study is silent
        "pretraining.temperature": 0.07,
        "pretraining.weight_decay": 1e-4,
        "pretraining.projection_dim": 128,
        "pretraining.projection_batch_norm": False,
        "pretraining.normalize": False,
        "pretraining.constant_epochs": 10,
        "pretraining.augmentation.crop_scale": (0.08, 1.0),
        "pretraining.augmentation.jitter": (0.8, 0.8, 0.8, 0.2),
        "pretraining.augmentation.blur_probability": 1.0,
        "finetuning.weight_decay": 8e-4,
    }
    assert {name: flat[name] for name in expected} == expected
    assert scenario().train_epsilons == scenario().eval_epsilons == (0, 0.2, 0.4, 0.6, 0.8, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pretraining(epochs=0), "Pretraining.epochs: expected a whole number of at least 1, got 0"),
        (lambda: Pretraining(epochs=1.5), "expected a whole number of at least 1, got 1.5"),
        (lambda: Pretraining(epochs=True), "expected a whole number of at least 1, got True"),
        (lambda: Pretraining(learning_rate=0), "Pretraining.learning_rate: expected a finite number"),
        (lambda: Pretraining(learning_rate=math.nan), "got nan"),
        (lambda: Pretraining(temperature="hot"), "got 'hot'"),
        (lambda: Pretraining(normalize=1), "Pretraining.normalize: expected bool, got 1"),
        (lambda: Pretraining(attack_mode="evil"), "unknown Pretraining.attack_mode 'evil'; did you mean eval"),
        (lambda: Finetuning(attack="pgd"), "Finetuning.attack: expected Attack, got 'pgd'"),
        (lambda: Attack(norm="L3"), "unknown Attack.norm 'L3'"),
        (lambda: Attack(steps=0), "Attack.steps"),
        (lambda: Augmentation(crop_scale=(1, 0.5)), "Augmentation.crop_scale: expected (low, high)"),
        (lambda: Augmentation(jitter=(0.8, 0.8)), "Augmentation.jitter: expected 4 numbers"),
        (lambda: Augmentation(jitter=(0.8, 0.8, 0.8, 0.6)), "hue of at most 0.5, got 0.6"),
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


def test_equal_values_have_equal_keys_however_they_are_written():
    one = scenario(train_epsilons=[0, 1], eval_epsilons=(0,)).cells[1.0, 0.0]
    other = scenario(train_epsilons=(0.0, 1.0), eval_epsilons=(0.0,)).cells[1, 0]
    assert one == other
    assert one.key == other.key


PINNED = ("cdc07a3abd8c619d", "1c3409b8a9d956bc", "c0f7439998095b4b")


def test_keys_never_change_without_notice():
    """A changed key makes every stored artifact unreachable: raise the record's schema when this has to change."""
    cell = Scenario("x", "cifar10", "cifar100").cells[0.2, 1.0]
    assert (cell.finetune.pretrain.key, cell.finetune.key, cell.key) == PINNED


FIELDS = {*flatten(Pretraining()), "seed", "epsilon", "encoder", "limit"} - {"attack.name"}  # there is one attack


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_every_field_of_a_pretraining_is_in_its_key(field):
    spec = scenario().cells[0.2, 0].finetune.pretrain
    assert _changed(spec, field).key != spec.key


def _changed(spec: object, path: str) -> EvaluateSpec:
    """The spec with one field, somewhere in it, set to another valid value."""
    known = {
        "norm": "Linf",
        "limit": 500,
        "encoder": "resnet34",
        "attack_mode": "train",
        "crop_scale": (0.5, 1.0),
        "crop_ratio": (0.9, 1.1),
        "jitter": (0.1, 0.1, 0.1, 0.1),
        "blur_sigma": (1.0, 2.0),
    }
    if "." in path:
        head, rest = path.split(".", 1)
        if hasattr(spec, head):
            return dataclasses.replace(spec, **{head: _changed(getattr(spec, head), rest)})
    if not hasattr(spec, path.split(".")[0]):
        return dataclasses.replace(spec, recipe=_changed(spec.recipe, path))
    old = getattr(spec, path)
    other = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else None
    new = known[path] if path in known else old / 2 if other is None else other
    return dataclasses.replace(spec, **{path: new})


@pytest.mark.parametrize("field", sorted(set(flatten(Finetuning())) - {"attack.name"}))
def test_every_field_of_a_finetuning_is_in_its_key(field):
    spec = scenario().cells[0.2, 0].finetune
    assert dataclasses.replace(spec, recipe=_changed(spec.recipe, field)).key != spec.key


@pytest.mark.parametrize("field", sorted(set(flatten(Evaluation())) - {"attack.name"}))
def test_every_field_of_an_evaluation_is_in_its_key(field):
    spec = scenario().cells[0.2, 0.2]
    assert dataclasses.replace(spec, recipe=_changed(spec.recipe, field)).key != spec.key


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
        assert spec.parent is None or spec.parent.key in seen
        assert spec.key not in seen
        seen.add(spec.key)


def test_finetuning_attacks_with_the_epsilon_of_pretraining():
    assert all(c.finetune.epsilon == c.finetune.pretrain.epsilon == row for (row, _), c in scenario().cells.items())


def test_passes_are_counted_by_hand():
    recipe = Recipe(
        pretraining=Pretraining(epochs=2, batch_size=300),
        finetuning=Finetuning(epochs=3),
    )
    one = scenario(recipe=recipe, train_epsilons=(0, 1), eval_epsilons=(0, 1), train_limit=1000, test_limit=100)
    views = 2 * 900  # the incomplete batch of 100 is dropped
    assert one.passes() == {
        "pretrain": 2 * views * (3 + (3 + 2 * 3)),
        "finetune": 1000 + 3 * 1000 * (1 + 2 * 3),
        "evaluate": 2 * 100 * (1 + (1 + 2 * 20)),
    }


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0.0,)),
        ("0,0.5, 1", (0.0, 0.5, 1.0)),
        ("0:1:0.2", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0,8/255", (0.0, 8 / 255)),
        ("0:8/255:4/255", (0.0, 4 / 255, 8 / 255)),
        ("0:0.4:0.2,2", (0.0, 0.2, 0.4, 2.0)),
    ],
)
def test_epsilons_are_read_exactly(text, expected):
    assert parse_epsilons(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "1,0", "0,0", "-1", "nan", "inf", "1/0", "0:1", "0:1:0", "1:0:0.1", "0:1:1e-9", "0:1:-1", "1e9"],
)
def test_what_is_no_list_of_epsilons_is_refused_in_one_line(text):
    with pytest.raises(InvalidValue, match="expected") as raised:
        parse_epsilons(text)
    assert "\n" not in str(raised.value)


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=20), st.sampled_from([1, 10, 255, 1000]))
def test_epsilons_survive_being_written_and_read(numerators, denominator):
    epsilons = tuple(n / denominator for n in sorted(numerators))
    assert parse_epsilons(",".join(f"{n}/{denominator}" for n in sorted(numerators))) == epsilons


@pytest.mark.parametrize(
    ("epsilon", "text"), [(0.0, "0"), (0.2, "0.2"), (1.0, "1"), (8 / 255, "8/255"), (1 / 3, "85/255")]
)
def test_epsilons_are_shown_short(epsilon, text):
    assert format_epsilon(epsilon) == text
