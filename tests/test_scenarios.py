import dataclasses
import math

import pytest
from conftest import JSON, refusal, reread, values
from hypothesis import given
from hypothesis import strategies as st

from rossbench.config.recipes import ATTACKS, Attack, Evaluation, Finetuning, Pretraining, Recipe
from rossbench.config.scenarios import Scenario, Suite, specs_of


def scenario(**changes: object) -> Scenario:
    return Scenario(**{"name": "x", "source": "cifar10", "target": "cifar100", **changes})


def attacked(stage: str, name: str = "pgd", restarts: int = 1, **changes: object) -> Scenario:
    part = dataclasses.replace(getattr(Recipe(), stage), attack=Attack(name, restarts=restarts))
    return scenario(recipe=Recipe(**{stage: part}), **changes)


LINF = Recipe(evaluation=Evaluation(attack=Attack(norm="Linf", step_size=0.1)))
ASCENDING = "expected ascending epsilons, at least one"
WRONG = [
    (lambda: scenario(name="../x"), "Scenario.name: expected lower-case letters"),
    (lambda: attacked("evaluation", "apgd"), "unknown attack 'apgd'; did you mean"),
    (lambda: attacked("pretraining", "apgd-ce"), "pretraining attack: expected pgd without restarts, got APGD-CE-L2"),
    (lambda: attacked("finetuning", restarts=2), "finetuning attack: expected pgd without restarts, got PGD-L2"),
    (lambda: attacked("evaluation", "negative", eval_epsilons=(0, 2)), "negative: expected shares of at most 1"),
    (lambda: attacked("evaluation", "pgd", eval_epsilons=(0, 56)), "at most 55.43, the largest L2 distance of two"),
    (lambda: scenario(recipe=LINF, eval_epsilons=(0, 8)), "at most 1, the largest Linf distance of two images in"),
    (lambda: scenario(train_epsilons=(0, 60)), "Scenario.train_epsilons: expected at most 55.43"),
    (lambda: scenario(finetune_epsilons=(0, 60)), "Scenario.finetune_epsilons: expected at most 55.43"),
    (lambda: scenario(train_epsilons=()), f"Scenario.train_epsilons: {ASCENDING}"),
    (lambda: scenario(eval_epsilons=(0, 0)), f"Scenario.eval_epsilons: {ASCENDING}"),
    (lambda: scenario(finetune_epsilons=(1, 0)), f"Scenario.finetune_epsilons: {ASCENDING}"),
    (lambda: scenario(eval_epsilons=(0, math.inf)), "got inf"),
    (lambda: Suite("../x", ("digits",)), "Suite.name: expected lower-case letters"),
    (lambda: Suite("x", ()), "Suite.members: expected names of scenarios, got none for x"),
    (lambda: Suite("x", "digits"), "Suite.members: expected a list, got 'digits'"),
    (lambda: scenario(source="cifar11"), "unknown data set 'cifar11'; did you mean cifar1"),
    (lambda: scenario(target="mnist"), "size, 32 pixels, got mnist's, 28; size=32 (--set size=32) resizes them"),
    (lambda: scenario(size=5000), "Scenario.size: expected a number of at most 4096, got 5000"),
    (lambda: scenario(target="stl10-unlabeled", size=32), "at least 2 classes, got stl10-unlabeled's 0"),
    (lambda: scenario(train_limit=99), "train limit for cifar100: expected 100 (one image a class) to 50000"),
    (lambda: scenario(test_limit=10_001), "test limit for cifar100: expected 100 (one image a class) to 10000"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_a_field_out_of_its_range_is_refused_in_one_line(make, message):
    assert message in refusal(make)


def test_a_limit_that_leaves_nothing_out_is_none():
    assert scenario(train_limit=50_000, test_limit=10_000) == scenario()


def test_a_size_that_changes_nothing_is_none_and_one_that_changes_something_is_in_the_keys():
    own, smaller = scenario(), scenario(size=16)
    assert scenario(size=32) == own
    assert (own.pixels, smaller.pixels) == (32, 16)
    assert own.protocol != smaller.protocol
    for place, cell in own.cells.items():
        assert not {spec.key for spec in cell.chain} & {spec.key for spec in smaller.cells[place].chain}
    assert smaller.deviations(own) == {"size": (16, None)}


def test_a_pretraining_at_its_sources_size_is_the_one_of_every_target():
    other = scenario(target="stl10", size=32)
    for place, cell in scenario().cells.items():
        ours = other.cells[place]
        assert (ours.finetune.pretrain, ours.finetune.pretrain.size) == (cell.finetune.pretrain, None)
        assert ours.finetune.pretrain.pixels == 32
    given = scenario(target="stl10", size=48, weights="0" * 16, train_epsilons=(0,))
    assert given.cells[0, 0, 0].finetune.pretrain.pixels == 48


def test_an_unlabeled_source_is_a_source_alone():
    one = scenario(source="stl10-unlabeled", target="stl10", train_limit=300)
    assert (one.pixels, one.size, one.cells[0, 0, 0].finetune.pretrain.images) == (96, None, 256)


def test_scenarios_share_what_is_the_same():
    same, other = scenario(target="cifar10"), scenario(target="cifar100")
    assert {c.finetune.pretrain.key for c in same.cells.values()} == {
        c.finetune.pretrain.key for c in other.cells.values()
    }
    assert not {c.finetune.key for c in same.cells.values()} & {c.finetune.key for c in other.cells.values()}


ROWS = [
    ({}, [(0, 0), (0.5, 0.5), (1, 1)]),
    ({"finetune_epsilons": None}, [(0, 0), (0.5, 0.5), (1, 1)]),
    ({"finetune_epsilons": (0,)}, [(0, 0), (0.5, 0), (1, 0)]),
    ({"finetune_epsilons": (0, 1)}, [(0, 0), (0, 1), (0.5, 0), (0.5, 1), (1, 0), (1, 1)]),
    ({"finetune_epsilons": [0, 1], "train_epsilons": (1,)}, [(1, 0), (1, 1)]),
    ({"finetune_epsilons": (0.25,), "train_epsilons": (1,)}, [(1, 0.25)]),
]


@pytest.mark.parametrize(("changes", "rows"), ROWS, ids=[str(changes) for changes, _ in ROWS])
def test_rows_are_every_pretraining_with_each_of_its_heads(changes, rows):
    one = scenario(**{"train_epsilons": (0, 0.5, 1), "eval_epsilons": (0, 2), **changes})
    assert one.rows == rows
    assert list(one.cells) == [(*row, column) for row in rows for column in (0, 2)]
    for (first, second, column), cell in one.cells.items():
        assert (cell.finetune.pretrain.epsilon, cell.finetune.epsilon, cell.epsilon) == (first, second, column)


def test_a_head_of_its_own_pretrainings_epsilon_is_the_base_scenarios():
    """What differs has another key; the pretraining is one for all."""
    base = scenario(train_epsilons=(0, 1))
    heads = scenario(train_epsilons=(1,), finetune_epsilons=(0, 1))
    for column in base.eval_epsilons:
        assert heads.cells[1, 1, column].chain == base.cells[1, 1, column].chain
        assert heads.cells[1, 1, column].key == base.cells[1, 1, column].key
    standard, robust = (heads.cells[1, epsilon, 0].finetune for epsilon in (0, 1))
    assert standard.key != robust.key
    assert standard.pretrain.key == robust.pretrain.key
    shared = list(specs_of([base, heads]))
    assert [sum(s.stage == stage for s in shared) for stage in ("pretrain", "finetune", "evaluate")] == [2, 3, 18]
    assert len({spec.key for spec in shared}) == len(shared)


def test_deviations_name_what_differs_and_leave_out_what_only_chooses_cells():
    registered = scenario()
    recipe = dataclasses.replace(registered.recipe, finetuning=Finetuning(epochs=7))
    other = dataclasses.replace(registered, recipe=recipe, train_limit=500, seed=3, eval_epsilons=(0,))
    other = dataclasses.replace(other, train_epsilons=(1,), finetune_epsilons=(0, 1))
    assert other.deviations(registered) == {"recipe.finetuning.epochs": (7, 100), "train_limit": (500, None)}
    assert registered.deviations(registered) == {}


def test_matrices_merge_over_grids_only():
    base = scenario()
    for grids in ({}, {"finetune_epsilons": (0,)}, {"finetune_epsilons": (0, 1)}):
        grids = {"train_epsilons": (0,), "eval_epsilons": (0, 5), **grids}
        same = dataclasses.replace(base, **grids, description="other", name="y")
        assert same.protocol == base.protocol
    for change in ({"seed": 1}, {"train_limit": 500}, {"encoder": "resnet34"}):
        assert dataclasses.replace(base, **change).protocol != base.protocol


def test_a_suite_is_a_value():
    assert Suite("x", ["b", "a"]) == Suite("x", ("b", "a"))
    assert Suite("x", ["b", "a"]).members == ("b", "a")


# --- properties ----------------------------------------------------------------------------------------------

GRIDS = st.lists(st.floats(0, 1) | st.integers(0, 1), min_size=1, max_size=4, unique=True).map(sorted)
PGD = values(Attack, name=st.just("pgd"), restarts=st.just(1))
RECIPES = values(
    Recipe,
    pretraining=values(Pretraining, attack=PGD, epsilon_warmup=st.just(0.0) | st.floats(0, 0.9)),
    finetuning=values(Finetuning, attack=PGD),
    evaluation=values(Evaluation, attack=PGD | st.sampled_from([row.defaults for row in ATTACKS.values()])),
)
SCENARIOS = values(
    Scenario,
    name=st.sampled_from(["x", "y"]),
    encoder_name=st.sampled_from(["", "mine-v3", "resnet 18"]),
    source=st.sampled_from(["cifar10", "cifar100"]),
    target=st.sampled_from(["cifar10", "cifar100"]),
    encoder=st.sampled_from(["conv3", "resnet18:cifar", "vit_tiny_patch16_224.augreg_in21k", "module:Own"]),
    recipe=RECIPES,
    train_epsilons=GRIDS,
    finetune_epsilons=st.none() | GRIDS,
    eval_epsilons=GRIDS,
    train_limit=st.none() | st.integers(100, 50_000),
    test_limit=st.none() | st.integers(100, 10_000),
    weights=st.just(""),
    size=st.none() | st.sampled_from([16, 32, 48]),
)
GIVEN = st.builds(
    lambda scenario, weights: dataclasses.replace(scenario, train_epsilons=(0,), weights=f"{weights:016x}"),
    SCENARIOS,
    st.integers(0, 2**64 - 1),
)


@given(SCENARIOS | GIVEN)
def test_any_scenario_has_a_cell_for_each_row_and_column_with_its_parents_first(scenario):
    assert len(scenario.rows) == len(scenario.train_epsilons) * len(scenario.finetune_epsilons or (0,))
    assert list(scenario.cells) == [(*row, column) for row in scenario.rows for column in scenario.eval_epsilons]
    for place, cell in scenario.cells.items():
        pretrain, finetune, evaluate = cell.chain
        assert evaluate is cell
        assert (evaluate.finetune, finetune.pretrain) == (finetune, pretrain)
        assert (pretrain.epsilon, finetune.epsilon, evaluate.epsilon) == place
        assert {spec.seed for spec in cell.chain} == {scenario.seed}


@given(st.lists(SCENARIOS | GIVEN, max_size=3))
def test_specs_of_any_scenarios_come_once_and_after_what_they_are_made_from(scenarios):
    specs = list(specs_of(scenarios))
    keys = [spec.key for spec in specs]
    assert len(keys) == len(set(keys))
    assert set(specs) == {spec for scenario in scenarios for cell in scenario.cells.values() for spec in cell.chain}
    for k, spec in enumerate(specs):
        parents = [] if spec.stage == "pretrain" else [made.key for made in spec.chain[:-1]]
        assert set(parents) <= set(keys[:k])


@given(SCENARIOS | GIVEN)
def test_any_scenario_survives_json(scenario):
    found = reread(Scenario, dataclasses.asdict(scenario))
    assert found == scenario
    assert (found.protocol, found.family) == (scenario.protocol, scenario.family)


@given(SCENARIOS, st.sampled_from(sorted(Scenario.__dataclass_fields__)), JSON)
def test_whatever_is_in_the_place_of_a_field_is_right_or_refused_in_one_line(scenario, name, item):
    refusal(reread, Scenario, {**dataclasses.asdict(scenario), name: item})
