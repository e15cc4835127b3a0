"""What every value has in common: it is checked, survives JSON, and its key hangs on what differs from the defaults."""

import dataclasses
import math
from typing import Annotated, Literal

import pytest
from conftest import JSON, SPECS, refusal, reread, tiny
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from rossbench import registry
from rossbench.config.recipes import Attack, Evaluation, Finetuning, Pretraining, Recipe
from rossbench.config.scenarios import Scenario, Suite
from rossbench.config.specs import EvaluateSpec
from rossbench.util.errors import InvalidValue
from rossbench.util.values import Count, Epsilons, Positive, distinct, encode, flatten, parse, read, value


@value
class Part:
    steps: Count = 3
    size: Positive = 1.0
    mode: Literal["eval", "train"] = "eval"


@value
class Whole:
    name: str
    part: Part = Part()
    epsilons: Epsilons = (0.0,)
    pair: Annotated[tuple[float, float], Field(strict=False)] | None = None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Whole(), "Whole.name: expected a value, got none"),
        (lambda: Whole(3), "Whole.name: expected text, got 3"),
        (lambda: Whole("x", 3), "Whole.part: expected the fields of Part, got 3"),
        (lambda: Whole("x", extra=1), "unknown field 'Whole.extra'"),
        (lambda: Whole("x", epsilon=1), "did you mean epsilons"),
        (lambda: Whole("x", epsilons=0), "Whole.epsilons: expected a list, got 0"),
        (lambda: Whole("x", epsilons=(0, "1")), "Whole.epsilons.1: expected a finite number, got '1'"),
        (lambda: Whole("x", epsilons=(0, -1)), "Whole.epsilons.1: expected a number of at least 0, got -1"),
        (lambda: Whole("x", pair=(1, 2, 3)), "Whole.pair: expected at most 2 items, got (1, 2, 3)"),
        (lambda: Part(steps=0), "Part.steps: expected a number of at least 1, got 0"),
        (lambda: Part(steps=2.0), "Part.steps: expected a whole number, got 2.0"),
        (lambda: Part(steps=True), "Part.steps: expected a whole number, got True"),
        (lambda: Part(steps=2**63), "Part.steps: expected a number of at most 9.22337e+18, got 9223372036854775808"),
        (lambda: Part(size=0), "Part.size: expected a number above 0, got 0"),
        (lambda: Part(size=math.nan), "Part.size: expected a finite number, got nan"),
        (lambda: Part(size="1"), "Part.size: expected a finite number, got '1'"),
        (lambda: Part(mode="evil"), "unknown Part.mode 'evil'; did you mean eval"),
        (lambda: dataclasses.replace(Part(), steps=0), "Part.steps: expected a number of at least 1, got 0"),
        (lambda: read(Whole, '{"name": "x", "part": {"steps": 0}}'), "Whole.part.steps: expected a number of at least"),
        (lambda: read(Whole, '{"name": "x", "part": {"step": 1}}'), "unknown field 'Whole.part.step'"),
        (lambda: read(Whole, "{"), "Whole: expected"),
        (lambda: parse(Part, "steps", "5.5"), "Part.steps: expected a whole number"),
        (lambda: parse(Part, "mode", "evil"), "unknown Part.mode 'evil'"),
    ],
)
def test_what_is_no_such_value_is_refused_in_one_line(make, message):
    assert message in refusal(make)


def test_whole_numbers_become_floats_and_lists_tuples():
    found = Whole("x", epsilons=[0, -0.0, 1])
    assert found == Whole("x", epsilons=(0.0, 0.0, 1.0))
    assert [math.copysign(1, epsilon) for epsilon in found.epsilons] == [1, 1, 1]
    assert all(type(epsilon) is float for epsilon in found.epsilons)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "y"


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [("steps", "7", 7), ("size", "3", 3.0), ("size", "1e-3", 0.001), ("mode", "train", "train")],
)
def test_a_field_from_text(field, text, expected):
    assert parse(Part, field, text) == expected


def test_what_differs_from_the_defaults_is_what_keys_are_made_of():
    assert distinct(Whole("x")) == {"name": "x"}
    assert distinct(Whole("x", Part(4), (0, 1))) == {"name": "x", "part": {"steps": 4}, "epsilons": (0.0, 1.0)}
    for part in (Pretraining(), Finetuning(), Evaluation(), Recipe(), Attack()):
        assert distinct(part) == {}


def test_a_value_and_its_dictionary_are_flattened_alike():
    assert flatten(Recipe()) == flatten(dataclasses.asdict(Recipe()))
    assert flatten(Recipe())["pretraining.attack.steps"] == 3


@given(SPECS)
def test_a_spec_survives_json(spec):
    found = read(type(spec), encode(spec))
    assert found == spec
    assert found.key == spec.key
    assert dataclasses.asdict(found) == dataclasses.asdict(spec)


@pytest.mark.parametrize("name", registry.names())
def test_every_built_in_scenario_survives_json(name):
    scenario = registry.get(name)
    found = read(Scenario, encode(scenario))
    assert (found, found.protocol) == (scenario, scenario.protocol)
    (suite, *_) = registry.suites()
    assert read(Suite, encode(suite)) == suite


@given(st.data())
def test_whatever_json_is_in_the_place_of_a_part_is_right_or_refused_in_one_line(data):
    spec = data.draw(SPECS)
    whole = part = dataclasses.asdict(spec)
    name = data.draw(st.sampled_from(sorted(part)))
    while isinstance(part[name], dict) and data.draw(st.booleans()):
        part = part[name]
        name = data.draw(st.sampled_from(sorted(part)))
    part[name] = data.draw(JSON)
    refusal(reread, type(spec), whole)


def test_a_part_of_another_kind_is_named_by_its_place():
    content = dataclasses.asdict(tiny().cells[1, 1, 0.5])
    content["finetune"]["pretrain"] = {}
    with pytest.raises(InvalidValue, match=r"EvaluateSpec\.finetune\.pretrain\.source: expected a value, got none"):
        reread(EvaluateSpec, content)
