"""What is built, in which order, after which interruptions; and what an observer is told meanwhile."""

import dataclasses
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import comparable, tiny

from rossbench import registry
from rossbench.runner import progress, scheduler
from rossbench.runner import run as runner
from rossbench.stages import evaluate
from rossbench.store import artifacts
from rossbench.store.store import Store


def run(scenario, store, **arguments):
    return runner.run(scenario, store=store, device="cpu", **arguments)


def built_by(scenario, store):
    """The specs that a run builds, in their order."""
    seen = []
    run(scenario, store, observe=seen.append)
    return [one.spec for one in seen if one.tick is None]


def assert_same_predictions(scenario, *roots):
    for place, cell in scenario.cells.items():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in roots)
        assert torch.equal(ours, theirs), place


@pytest.fixture
def copy(finished, tmp_path):
    """Of the finished store."""
    return Store(shutil.copytree(finished, tmp_path / "copy"))


# --- interruption --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As abrupt as a signal: nothing in the package catches it."""


def killing(after):
    """An observer that ends the run when it is called for that many times."""
    seen = []

    def kill(progress):
        seen.append(progress)
        if len(seen) == after:
            raise Killed

    return kill


KILLS = (2, 4, 6, 11, 19, 20, 23, 24, 28, 32, 37, 41, 42, 45)


@pytest.mark.parametrize("after", KILLS)
def test_a_killed_run_goes_on_and_gives_the_uninterrupted_records(finished, tmp_path, after):
    """Killed in pretraining, finetuning and evaluation of the plain model (up to 25) and of the attacked one."""
    with pytest.raises(Killed):
        run(tiny(), tmp_path, observe=killing(after))
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    assert_same_predictions(tiny(), tmp_path, finished)
    assert not list((tmp_path / "resume").glob("*"))


def test_progress_counts_artifacts_and_time_and_the_kills_hit_every_stage(tmp_path):
    steps = []
    run(tiny(), tmp_path, observe=steps.append)
    specs = [steps[k - 1].spec for k in KILLS]
    hit = {(spec.stage, getattr(spec, "finetune", spec).epsilon) for spec in specs}
    assert hit == {(stage, epsilon) for stage in ("pretrain", "finetune", "evaluate") for epsilon in (0.0, 1.0)}
    assert [p.number for p in steps if p.tick is None] == list(range(1, 9))
    assert all(p.total == 8 and p.rate > 0 for p in steps)
    fractions = [p.fraction for p in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    left = [p.seconds_left for p in steps]
    assert left[-1] == 0
    assert all(seconds >= 0 for seconds in left[:-1] if seconds is not None)


def test_a_resumed_stage_repeats_no_finished_epoch(tmp_path):
    scenario = tiny(train_epsilons=(0,), eval_epsilons=(0,))

    def kill(progress):
        if progress.tick and progress.tick.position == "epoch 2/2":
            raise Killed

    with pytest.raises(Killed):
        run(scenario, tmp_path, observe=kill)
    resumed = []
    run(scenario, tmp_path, observe=resumed.append)
    assert [p.tick.position for p in resumed[:2]] == ["resumed after epoch 1/2", "epoch 2/2"]
    assert resumed[0].fraction > 0.4
    assert resumed[0].seconds_left is None


def test_a_killed_suite_goes_on_and_gives_the_uninterrupted_records(tmp_path):
    base = tiny("digits-low-to-low", train_epsilons=(1,), eval_epsilons=(0,))
    suite = [dataclasses.replace(base, eval_epsilons=(0, 0.5))]
    suite.append(dataclasses.replace(base, name="heads", finetune_epsilons=(0, 1)))

    def run_suite(name, **arguments):
        found = runner.run_suite(suite, store=tmp_path / name, device="cpu", **arguments)
        return {name: comparable(one) for name, one in found.items()}

    whole = run_suite("whole")
    for after in (5, 15, 25, 33):
        with pytest.raises(Killed):
            run_suite(str(after), observe=killing(after))
        assert run_suite(str(after)) == whole


def test_a_damaged_resume_state_costs_its_stage_only(finished, tmp_path, caplog):
    path = Store(tmp_path).resume_path(tiny().cells[0.0, 0.0, 0.0].finetune.pretrain)
    path.parent.mkdir()
    path.write_bytes(b"PK damaged")
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    assert "cannot be read" in caplog.text


# --- what is missing -----------------------------------------------------------------------------------------


def test_only_what_is_missing_is_built(copy):
    """Nothing; two more cells; nothing where parents are gone and cells are there."""
    assert built_by(tiny(), copy) == []
    wider = tiny(eval_epsilons=(0, 0.5, 0.7))
    assert built_by(wider, copy) == [wider.cells[0.0, 0.0, 0.7], wider.cells[1.0, 1.0, 0.7]]
    shutil.rmtree(copy.root / "pretrain")
    assert set(run(wider, copy)) == {(row, row, column) for row in (0, 1) for column in (0, 0.5, 0.7)}
    assert built_by(wider, copy) == []


def test_a_gap_is_filled_with_all_that_hangs_on_it(copy):
    """A head belongs to the encoder it was trained on, so it is built again with it; finished cells stay."""
    wider = tiny(train_epsilons=(1,), eval_epsilons=(0, 0.7))
    shutil.rmtree(copy.path(wider.cells[1, 1, 0].finetune.pretrain))
    head = copy.path(wider.cells[1, 1, 0].finetune) / "weights.safetensors"
    before = head.stat().st_mtime_ns
    assert [spec.stage for spec in built_by(wider, copy)] == ["pretrain", "finetune", "evaluate"]
    assert head.stat().st_mtime_ns > before


def test_an_audit_builds_a_cell_whose_predictions_are_damaged_as_whose_it_was(copy):
    cell = tiny().cells[1, 1, 0.5]
    path = copy.path(cell) / "predictions.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = run(tiny(), copy)
    runner.audit(store=copy, device="cpu")
    assert [aside.name for aside in (copy.root / "damaged").glob("*/*")] == [cell.key]
    assert comparable(run(tiny(), copy)) == comparable(before)


# --- evaluations together ------------------------------------------------------------------------------------


def attacking(attacked):
    """The tiny recipe with the images that are attacked: all, or correct."""
    recipe = tiny().recipe
    return dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, attacked=attacked))


@pytest.mark.parametrize("attacked", ["all", "correct"])
def test_cells_that_are_made_together_are_what_each_would_be_alone(tmp_path, attacked):
    together = tiny(recipe=attacking(attacked), train_epsilons=(1,), eval_epsilons=(0, 0.25, 0.5, 1))
    found, alone = run(together, tmp_path / "together"), {}
    for column in together.eval_epsilons:
        alone |= run(dataclasses.replace(together, eval_epsilons=(column,)), tmp_path / "alone")
    assert comparable(found) == comparable(alone)
    assert found[1, 1, 0].top1_right is not None  # without an attack there is nothing that is not known
    assert_same_predictions(together, tmp_path / "together", tmp_path / "alone")


@pytest.mark.parametrize("attacked", ["all", "correct"])
def test_evaluations_that_differ_in_epsilon_alone_are_one_piece_of_work(tmp_path, monkeypatch, attacked):
    """Told by its first, then finished one by one, each with its share of the time, by its passes."""
    seen = []
    clock = SimpleNamespace(perf_counter=lambda: sum(bool(one.tick) for one in seen), monotonic=time.monotonic)
    for module in (evaluate, progress):
        monkeypatch.setattr(module, "time", clock)

    epsilons = (0, 0.5, 1)
    scenario = tiny(recipe=attacking(attacked), train_epsilons=(1,), eval_epsilons=epsilons)
    found = run(scenario, tmp_path, observe=seen.append)
    evaluating = [progress for progress in seen if progress.spec.stage == "evaluate"]
    assert not any(progress.others for progress in seen if progress.spec.stage != "evaluate")
    ticks, done = ([one for one in evaluating if bool(one.tick) == told] for told in (True, False))
    assert {(one.spec.epsilon, one.others, one.number) for one in ticks} == {(0, 2, 3)}  # after the trainings
    assert [(one.spec.epsilon, one.others, one.number) for one in done] == [(0, 0, 3), (0.5, 0, 4), (1, 0, 5)]
    passes = [one.spec.passes for one in done]
    shares = [len(ticks) * share / sum(passes) for share in passes]  # the clock above goes on by 1 a tick
    assert [one.seconds for one in done] == pytest.approx(shares)
    for epsilon, share in zip(epsilons, shares, strict=True):
        assert found[1, 1, epsilon].seconds["evaluate"] == round(share, 3)
    assert seen[-1].fraction == 1


# --- other runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["pretrain", "evaluate"])
def test_what_another_run_finishes_meanwhile_is_kept_and_not_built_again(finished, tmp_path, when):
    """A whole row of it while this run is in its first epoch; or a cell that this run is making with another."""
    row, ours, store = tiny().cells[1.0, 1.0, 0.5].chain, [], Store(tmp_path)
    theirs = row if when == "pretrain" else [tiny().cells[1.0, 1.0, 0.0]]

    def other_run(news):
        if news.tick and not any(spec in store for spec in theirs) and (when == "pretrain" or news.spec in theirs):
            for spec in theirs:
                shutil.copytree(Store(finished).path(spec), store.path(spec), dirs_exist_ok=True)
        elif news.tick and when == "pretrain":
            ours.append(news.spec)

    found = run(tiny(), tmp_path, observe=other_run)
    assert not set(theirs) & set(ours)
    for spec in theirs:
        for path in Store(finished).path(spec).iterdir():
            assert (store.path(spec) / path.name).read_bytes() == path.read_bytes()
    assert comparable(found) == comparable(run(tiny(), finished))


@pytest.mark.parametrize("total", [1, 2, 3, 5, 12, 100])
@pytest.mark.parametrize("name", ["ross2022", "digits-study", "digits"])
def test_shards_are_whole_models_and_together_everything(name, total):
    cells = [cell for one in registry.members(name) for cell in one.cells.values()]
    parts = [scheduler.shard_of(cells, k, total) for k in range(1, total + 1)]
    assert sorted(cell.key for part in parts for cell in part) == sorted(cell.key for cell in cells)
    heads = [{cell.finetune.key for cell in part} for part in parts]
    assert sum(map(len, heads)) == len({cell.finetune.key for cell in cells})
    assert max(map(len, heads)) - min(map(len, heads)) <= 1
    encoders = {cell.finetune.pretrain.key for cell in cells}
    made = [key for part in parts for key in {cell.finetune.pretrain.key for cell in part}]
    assert len(made) < len(encoders) + total  # an encoder is in parts that are neighbours
