import dataclasses
import json
import math

import pytest
from conftest import JSON, refusal, tiny
from conftest import SPECS as ALL_SPECS
from hypothesis import given
from hypothesis import strategies as st

from rossbench import registry
from rossbench.attacks.table import NORMS
from rossbench.config.recipes import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe
from rossbench.config.scenarios import Scenario, Suite
from rossbench.config.specs import EvaluateSpec, FinetuneSpec, PretrainSpec
from rossbench.util.errors import InvalidValue, UnknownName
from rossbench.util.values import build, flatten, settled

POSITIVE = st.floats(1e-6, 1e6)
NUMBERS = st.floats(0, 1000) | st.integers(0, 1000)
RATES = st.floats(0, 1)
COUNTS = st.integers(1, 2**40)
PAIRS = st.tuples(st.floats(0.1, 0.5), st.floats(0.5, 1)).map(list)  # as JSON has them
ATTACKS = st.builds(
    Attack, norm=st.sampled_from(NORMS), steps=COUNTS, step_size=POSITIVE | COUNTS, random_start=st.booleans()
)
AUGMENTATIONS = st.builds(
    Augmentation,
    crop_scale=PAIRS,
    crop_ratio=PAIRS,
    flip_probability=RATES,
    jitter=st.tuples(RATES, RATES, RATES, st.floats(0, 0.5)),
    blur_kernel=RATES,
    blur_sigma=PAIRS,
)
PRETRAININGS = st.builds(
    Pretraining,
    epochs=COUNTS,
    learning_rate=POSITIVE,
    weight_decay=NUMBERS,
    projection_batch_norm=st.booleans(),
    augmentation=AUGMENTATIONS,
    attack=ATTACKS,
    attack_mode=st.sampled_from(["eval", "train"]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    channels_last=st.booleans(),
)
FINETUNINGS = st.builds(Finetuning, epochs=COUNTS, weight_decay=NUMBERS, attack=ATTACKS)
EVALUATIONS = st.builds(Evaluation, attack=ATTACKS, batch_size=COUNTS, attacked=st.sampled_from(["all", "correct"]))
SETS = st.sampled_from(["cifar10", "cifar100", "digits"])
LIMITS = st.none() | st.integers(1, 50_000)
PRETRAINS = st.builds(
    PretrainSpec, SETS, LIMITS, st.text(max_size=9), NUMBERS, PRETRAININGS, seed=st.integers(0, 2**62)
)
FINETUNES = st.builds(FinetuneSpec, PRETRAINS, SETS, LIMITS, NUMBERS, FINETUNINGS)
SPECS = PRETRAINS | FINETUNES | st.builds(EvaluateSpec, FINETUNES, LIMITS, NUMBERS, EVALUATIONS)


@given(SPECS)
def test_a_spec_survives_being_taken_apart_and_built(spec):
    found = build(type(spec), dataclasses.asdict(spec))
    assert found == spec
    assert found.key == spec.key


@given(SPECS)
def test_a_spec_survives_json(spec):
    """As in a record, where tuples are lists."""
    found = build(type(spec), json.loads(json.dumps(dataclasses.asdict(spec))))
    assert found == spec
    assert found.key == spec.key


@pytest.mark.parametrize("name", registry.names())
def test_every_built_in_scenario_survives_json(name):
    scenario = registry.get(name)
    found = build(Scenario, json.loads(json.dumps(dataclasses.asdict(scenario))))
    assert found == scenario
    assert found.protocol == scenario.protocol


def test_a_suite_survives_json():
    (suite, *_) = registry.suites()
    assert build(Suite, json.loads(json.dumps(dataclasses.asdict(suite)))) == suite


def content(**changes):
    """A cell's spec as a record holds it, with one part of it changed."""
    found = dataclasses.asdict(tiny().cells[1, 1, 0.5])
    return {**found, **changes}


def nested(**changes):
    return content(finetune={**content()["finetune"], **changes})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got None"),
        ([], "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got []"),
        ({}, "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got {}"),
        (content(extra=1), "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got {"),
        (
            {name: item for name, item in content().items() if name != "epsilon"},
            "EvaluateSpec: expected the fields epsilon, finetune, limit, recipe, got {",
        ),
        (content(finetune=3), "FinetuneSpec: expected the fields epsilon, limit, pretrain, recipe, target, got 3"),
        (
            content(finetune=None),
            "FinetuneSpec: expected the fields epsilon, limit, pretrain, recipe, target, got None",
        ),
        (
            nested(pretrain={}),
            "PretrainSpec: expected the fields encoder, epsilon, limit, recipe, seed, source, weights, got {}",
        ),
        (nested(recipe={"epochs": 3}), "Finetuning: expected the fields attack, batch_size, epochs, "),
        (content(epsilon=-1), "EvaluateSpec.epsilon: expected a finite number of at least 0, got -1"),
        (content(epsilon=math.nan), "EvaluateSpec.epsilon: expected a finite number of at least 0, got nan"),
        (content(epsilon=10**309), "EvaluateSpec.epsilon: expected a finite number of at least 0, got 1000"),
        (content(epsilon="1"), "EvaluateSpec.epsilon: expected a finite number of at least 0, got '1'"),
        (content(epsilon=None), "EvaluateSpec.epsilon: expected a finite number of at least 0, got None"),
        (content(limit=1.5), "EvaluateSpec.limit: expected a whole number, got 1.5"),
        (nested(target=None), "FinetuneSpec.target: expected str, got None"),
    ],
)
def test_what_is_no_such_value_is_refused_in_one_line(wrong, message):
    with pytest.raises(InvalidValue) as raised:
        build(EvaluateSpec, wrong)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_name_that_is_none_of_those_allowed_is_refused():
    attack = dataclasses.asdict(Attack()) | {"norm": "L3"}
    with pytest.raises(UnknownName, match=r"unknown Attack\.norm 'L3'"):
        build(Attack, attack)


ADDED = {
    "batch_norm": "per-rank",
    "precision": "bfloat16",
    "channels_last": True,
    "attacked": "correct",
    "step_unit": "epsilon",
    "restarts": 2,
    "trained": "full",
}
"""Fields that came after the first records, with a value that is not their default."""


def test_nothing_is_filled_in_but_what_was_added_later():
    """A default that changes later must not change what was stored."""
    for cls in (Attack, Augmentation, Pretraining, Finetuning, Evaluation, Recipe):
        whole = dataclasses.asdict(cls())
        assert build(cls, whole) == cls()
        assert build(cls, {name: item for name, item in whole.items() if name not in ADDED}) == cls()
        for name in set(whole) - set(ADDED):
            with pytest.raises(InvalidValue, match=f"{cls.__name__}: expected the fields"):
                build(cls, {other: item for other, item in whole.items() if other != name})


@pytest.mark.parametrize(
    ("given_", "kept"), [(None, None), ([0, 1], (0.0, 1.0)), ((0.5,), (0.5,)), ([1], (1.0,))], ids=str
)
def test_an_optional_list_is_none_or_a_tuple_of_floats(given_, kept):
    found = Scenario("x", "digits", "digits", finetune_epsilons=given_).finetune_epsilons
    assert found == kept
    assert found is None or all(type(item) is float for item in found)


@pytest.mark.parametrize("wrong", [0, "0", [None], ["0"], [True], [math.inf], [-1], {0: 1}])
def test_what_is_no_optional_list_is_refused(wrong):
    with pytest.raises(InvalidValue, match=r"Scenario\.finetune_epsilons: expected a (list|finite number)"):
        Scenario("x", "digits", "digits", finetune_epsilons=wrong)


@pytest.mark.parametrize("value", [Pretraining(), Evaluation(), Recipe()])
def test_settled_leaves_out_what_was_added_and_is_as_before(value):
    assert not set(ADDED) & {name.split(".")[-1] for name in flatten(settled(value))}
    assert set(flatten(value)) - set(flatten(settled(value))) <= {
        f"{stage}{attack}{name}"
        for name in ADDED
        for stage in ("", "pretraining.", "finetuning.", "evaluation.")
        for attack in ("", "attack.")
    }


@pytest.mark.parametrize(("name", "item"), ADDED.items())
def test_settled_names_what_was_added_and_differs(name, item):
    (cls,) = [cls for cls in (Attack, Pretraining, Finetuning, Evaluation) if name in cls.__dataclass_fields__]
    value = cls(**{name: item})
    assert settled(value)[name] == item


def test_a_value_and_its_dictionary_are_flattened_alike():
    assert flatten(Recipe()) == flatten(dataclasses.asdict(Recipe()))
    assert flatten(Recipe())["pretraining.attack.steps"] == 3


@given(st.data())
def test_whatever_json_is_in_the_place_of_a_part_is_right_or_refused_in_one_line(data):
    spec = data.draw(ALL_SPECS)
    whole = part = dataclasses.asdict(spec)
    name = data.draw(st.sampled_from(sorted(part)))
    while isinstance(part[name], dict) and data.draw(st.booleans()):
        part = part[name]
        name = data.draw(st.sampled_from(sorted(part)))
    part[name] = data.draw(JSON)
    refusal(build, type(spec), whole)
