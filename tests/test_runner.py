import dataclasses
import json
import shutil

import pytest
import torch
from conftest import tiny

from rossbench import artifacts, metrics, runner
from rossbench.errors import InvalidValue
from rossbench.scenario import EvaluateSpec, Scenario
from rossbench.store import Store

TIMES = ("seconds", "created")


def comparable(found):
    """Records without their times."""
    return {
        place: {name: value for name, value in dataclasses.asdict(record).items() if name not in TIMES}
        for place, record in found.items()
    }


def run(scenario, store, **arguments):
    return runner.run(scenario, store=store, device="cpu", **arguments)


def test_every_cell_is_there_and_a_second_run_does_nothing(finished):
    steps = []
    found = run(tiny(), finished, observe=steps.append)
    assert set(found) == {(0, 0), (0, 0.5), (1, 0), (1, 0.5)}
    assert steps == []


def test_two_runs_with_one_seed_give_the_same_records(finished, tmp_path):
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    for place, cell in tiny().cells.items():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in (tmp_path, finished))
        assert torch.equal(ours, theirs), place


def test_another_seed_gives_other_weights(finished, tmp_path):
    cells = [tiny(seed=seed).cells[0.0, 0.0] for seed in (0, 1)]
    run(tiny(seed=1, train_epsilons=(0,), eval_epsilons=(0,)), tmp_path)
    one = artifacts.load_classifier(Store(finished), cells[0].finetune)
    other = artifacts.load_classifier(Store(tmp_path), cells[1].finetune)
    assert not torch.equal(one.linear.weight, other.linear.weight)


class Killed(BaseException):
    """As abrupt as a signal: nothing in the package catches it."""


@pytest.mark.parametrize("after", [2, 5, 8, 13, 16, 20])
def test_a_killed_run_goes_on_and_gives_the_uninterrupted_records(finished, tmp_path, after):
    """Killed in either pretraining, in finetuning, and between evaluations: see the progress of ``after``."""
    seen = []

    def kill(progress):
        seen.append(progress)
        if len(seen) == after:
            raise Killed

    with pytest.raises(Killed):
        run(tiny(), tmp_path, observe=kill)
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    for cell in tiny().cells.values():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in (tmp_path, finished))
        assert torch.equal(ours, theirs)
    assert not list((tmp_path / "resume").glob("*"))


def test_a_resumed_stage_repeats_no_finished_epoch(tmp_path):
    scenario = tiny(train_epsilons=(0,), eval_epsilons=(0,))
    seen = []

    def kill(progress):
        seen.append(progress.tick)
        if progress.tick and progress.tick.position == "epoch 2/2":
            raise Killed

    with pytest.raises(Killed):
        run(scenario, tmp_path, observe=kill)
    resumed = []
    run(scenario, tmp_path, observe=resumed.append)
    assert [p.tick.position for p in resumed[:2]] == ["resumed after epoch 1/2", "epoch 2/2"]
    assert resumed[0].fraction > 0.4
    assert resumed[0].seconds_left is None


def test_one_more_epsilon_costs_one_more_cell(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    built = []
    wider = tiny(eval_epsilons=(0, 0.5, 0.7))
    found = run(wider, store, observe=lambda p: built.append(p.spec) if p.tick is None else None)
    assert built == [wider.cells[0.0, 0.7], wider.cells[1.0, 0.7]]
    assert len(found) == 6


def test_scenarios_share_their_pretrainings(tmp_path):
    first = tiny(train_epsilons=(0,), eval_epsilons=(0,))
    second = dataclasses.replace(first, name="again", eval_epsilons=(0, 1))
    built = []
    for scenario in (first, second):
        run(scenario, tmp_path, observe=lambda p: built.append(p.spec.stage) if p.tick is None else None)
    assert built == ["pretrain", "finetune", "evaluate", "evaluate"]


def test_a_parent_is_not_built_again_for_cells_that_are_there(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    shutil.rmtree(store / "pretrain")
    steps = []
    run(tiny(), store, observe=steps.append)
    assert steps == []


def test_a_record_counts_its_own_predictions(finished):
    for place, record in run(tiny(), finished).items():
        cell = tiny().cells[place]
        ranked, labels = artifacts.load_predictions(Store(finished), cell)
        assert metrics.counts_right(ranked, labels).tolist() == [record.top1_right, record.top5_right]
        assert record.mcc == metrics.matthews(ranked[:, 0], labels, 10)


def test_history_is_one_json_line_an_epoch(finished):
    cell = tiny().cells[1.0, 0.0]
    for spec in (cell.finetune.pretrain, cell.finetune):
        lines = Store(finished).read(spec, "history.jsonl").decode().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_progress_counts_artifacts_and_time(tmp_path):
    steps = []
    run(tiny(), tmp_path, observe=steps.append)
    assert [p.number for p in steps if p.tick is None] == list(range(1, 9))
    assert all(p.total == 8 for p in steps)
    assert all(p.rate > 0 for p in steps)
    fractions = [p.fraction for p in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    left = [p.seconds_left for p in steps]
    assert left[-1] == 0
    assert all(seconds >= 0 for seconds in left[:-1] if seconds is not None)


def test_a_transfer_runs_too(tmp_path):
    found = run(tiny("digits-low-to-high", train_epsilons=(1,), eval_epsilons=(0,)), tmp_path)
    (record,) = found.values()
    assert record.classes == 5
    assert record.top5_right == record.n == 40


def test_a_scenario_of_ones_own_deviates_from_nothing(tmp_path):
    own = dataclasses.replace(tiny(train_epsilons=(0,), eval_epsilons=(0,)), name="my-own")
    (record,) = run(own, tmp_path).values()
    assert record.deviations == {}
    assert record.scenario == "my-own"


@pytest.mark.parametrize("name", ["cpu:1", "tpu", "cuda:", "cuda:99", "", "cuda:x"])
def test_a_device_that_is_not_there_is_refused(name):
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("cuda is there")
    with pytest.raises(InvalidValue, match="device"):
        runner.resolve_device(name)


def test_auto_finds_a_device():
    assert runner.resolve_device("auto").type in ("cpu", "cuda", "mps")


def test_a_large_images_scenario_can_be_declared_without_its_data():
    own = Scenario("stl", source="stl10", target="stl10", encoder="resnet50")
    assert all(isinstance(cell, EvaluateSpec) for cell in own.cells.values())


def test_digits_shows_the_effect(digits):
    """A plain encoder is right without an attack and falls under it; one pretrained under attack stands."""
    accuracy = {place: record.metric("top1") for place, record in digits.items()}
    assert len({row for row, _ in accuracy}) == 3
    assert len({column for _, column in accuracy}) == 5
    assert accuracy[0, 0] >= 0.95
    assert accuracy[0, 1] < 0.10
    assert accuracy[1, 1] > 0.70
    assert all(record.deviations == {} for record in digits.values())


@pytest.mark.parametrize("name", ["cifar10-to-cifar100"])
def test_real_cifar_goes_through(cifar, tmp_path, name):
    """The main job on real images, cut to a handful: every stage, adversarial and not, with the default encoder."""
    from rossbench import registry

    registered = registry.get(name)
    recipe = dataclasses.replace(
        registered.recipe,
        pretraining=dataclasses.replace(registered.recipe.pretraining, epochs=1),
        finetuning=dataclasses.replace(registered.recipe.finetuning, epochs=1),
    )
    small = dataclasses.replace(
        registered,
        recipe=recipe,
        train_limit=200,
        test_limit=100,
        train_epsilons=(0, 1),
        eval_epsilons=(0, 1),
    )
    found = run(small, tmp_path, data_dir=cifar)
    assert [record.n for record in found.values()] == [100] * 4
    assert found[1, 0].spec["finetune"]["pretrain"]["encoder"] == "resnet18"
