import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import tamper, tiny

from rossbench import registry
from rossbench.config.scenarios import Scenario, Suite
from rossbench.config.specs import EvaluateSpec
from rossbench.runner import progress, scheduler
from rossbench.runner import run as runner
from rossbench.stages import metrics
from rossbench.store import artifacts
from rossbench.store.records import read_notes
from rossbench.store.store import Store
from rossbench.util.devices import resolve_device
from rossbench.util.errors import InvalidValue, StoreError, UnknownName

TIMES = ("seconds", "created")


@pytest.fixture
def own_suite(own_registry):
    """Two registered scenarios that share a pretraining, and one of them a head, and a suite of both."""
    base = tiny("digits-low-to-low", train_epsilons=(1,), eval_epsilons=(0,))
    first = registry.register(dataclasses.replace(base, name="robust", eval_epsilons=(0, 0.5)))
    second = registry.register(dataclasses.replace(base, name="heads", finetune_epsilons=(0, 1)))
    registry.register(Suite("both", ("robust", "heads")))
    return first, second


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
    assert set(found) == {(0, 0, 0), (0, 0, 0.5), (1, 1, 0), (1, 1, 0.5)}
    assert steps == []


def test_two_runs_with_one_seed_give_the_same_records(finished, tmp_path):
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    for place, cell in tiny().cells.items():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in (tmp_path, finished))
        assert torch.equal(ours, theirs), place


def test_another_seed_gives_other_weights(finished, tmp_path):
    cells = [tiny(seed=seed).cells[0.0, 0.0, 0.0] for seed in (0, 1)]
    run(tiny(seed=1, train_epsilons=(0,), eval_epsilons=(0,)), tmp_path)
    one = artifacts.load_classifier(Store(finished), cells[0].finetune)
    other = artifacts.load_classifier(Store(tmp_path), cells[1].finetune)
    assert not torch.equal(one.linear.weight, other.linear.weight)


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
    for cell in tiny().cells.values():
        ours, theirs = (artifacts.load_predictions(Store(root), cell)[0] for root in (tmp_path, finished))
        assert torch.equal(ours, theirs)
    assert not list((tmp_path / "resume").glob("*"))


def test_the_kills_above_hit_every_stage_of_both_models(tmp_path):
    steps = []
    run(tiny(), tmp_path, observe=steps.append)
    specs = [steps[k - 1].spec for k in KILLS]
    hit = {(spec.stage, getattr(spec, "finetune", spec).epsilon) for spec in specs}
    assert hit == {(stage, epsilon) for stage in ("pretrain", "finetune", "evaluate") for epsilon in (0.0, 1.0)}


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
    assert built == [wider.cells[0.0, 0.0, 0.7], wider.cells[1.0, 1.0, 0.7]]
    assert len(found) == 6


def attacking(attacked):
    """The tiny scenario with the images that are attacked: all, or correct."""
    recipe = tiny().recipe
    return dataclasses.replace(recipe, evaluation=dataclasses.replace(recipe.evaluation, attacked=attacked))


@pytest.mark.parametrize("attacked", ["all", "correct"])
def test_cells_that_are_made_together_are_what_each_would_be_alone(tmp_path, attacked):
    together = tiny(recipe=attacking(attacked), train_epsilons=(1,), eval_epsilons=(0, 0.25, 0.5, 1))
    found, alone = run(together, tmp_path / "together"), {}
    for column in together.eval_epsilons:
        alone |= run(dataclasses.replace(together, eval_epsilons=(column,)), tmp_path / "alone")
    assert comparable(found) == comparable(alone)
    for cell in together.cells.values():
        ours, theirs = (artifacts.load_predictions(Store(tmp_path / one), cell)[0] for one in ("together", "alone"))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("attacked", "works"),
    [("all", [(0, 0.5, 1)]), ("correct", [(0,), (0.5, 1)])],  # at epsilon 0 the recipe has no attack to speak of
)
def test_evaluations_that_differ_in_epsilon_alone_are_one_piece_of_work(tmp_path, monkeypatch, attacked, works):
    """Told by its first, then finished one by one, each with its share of the time, by its passes."""
    seen = []
    clock = SimpleNamespace(perf_counter=lambda: sum(bool(one.tick) for one in seen))
    for module in (scheduler, progress):
        monkeypatch.setattr(module, "time", clock)

    scenario = tiny(recipe=attacking(attacked), train_epsilons=(1,), eval_epsilons=(0, 0.5, 1))
    found = run(scenario, tmp_path, observe=seen.append)
    evaluating = [progress for progress in seen if progress.spec.stage == "evaluate"]
    assert not any(progress.others for progress in seen if progress.spec.stage != "evaluate")
    number = 3  # after pretraining and finetuning
    for epsilons in works:
        ticks = [one for one in evaluating if one.tick and one.spec.epsilon == epsilons[0]]
        assert {(one.others, one.number) for one in ticks} == {(len(epsilons) - 1, number)}
        done = [one for one in evaluating if one.tick is None and one.spec.epsilon in epsilons]
        assert [(one.spec.epsilon, one.others, one.number) for one in done] == [
            (epsilon, 0, number + k) for k, epsilon in enumerate(epsilons)
        ]
        passes = [one.spec.passes for one in done]
        whole = len(ticks)  # the clock above goes on by 1 a tick
        assert [one.seconds for one in done] == pytest.approx([whole * share / sum(passes) for share in passes])
        for one, share in zip(done, passes, strict=True):
            assert found[1, 1, one.spec.epsilon].seconds["evaluate"] == round(whole * share / sum(passes), 3)
        number += len(epsilons)
    assert {one.spec.epsilon for one in evaluating if one.tick} == {epsilons[0] for epsilons in works}
    assert seen[-1].fraction == 1


def test_what_another_run_finished_of_a_row_is_kept_while_the_rest_is_made(finished, tmp_path):
    """Its cell without an attack appears while this run makes both together."""
    theirs = tiny().cells[1.0, 1.0, 0.0]

    def other_run(news):
        if news.spec == theirs and news.tick and theirs not in Store(tmp_path):
            shutil.copytree(Store(finished).path(theirs), Store(tmp_path).path(theirs))

    found = run(tiny(), tmp_path, observe=other_run)
    before, after = (Store(root).record_path(theirs.key).read_bytes() for root in (finished, tmp_path))
    assert before == after
    assert comparable(found) == comparable(run(tiny(), finished))


LITERAL = ("top1_right", "top5_right", "mcc", "precision", "recall", "f1", "right_by_class")


def test_what_attacks_only_correct_images_gives_robust_accuracy_alone(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    found, every = run(tiny(recipe=attacking("correct")), tmp_path / "copy"), run(tiny(), finished)
    for place, record in found.items():
        assert record.robust_right == every[place].robust_right
        assert record.metric("robust") == record.robust_right / 40
        if place[2] == 0:  # nothing is attacked: the same cell
            assert record == every[place]
        else:
            assert record.deviations["recipe.evaluation.attacked"] == ["correct", "all"]
            assert {name: getattr(record, name) for name in LITERAL} == dict.fromkeys(LITERAL)
            assert {record.metric(name) for name in ("top1", "top5", "mcc", "precision", "recall", "f1")} == {None}
    assert any(record.robust_right for place, record in found.items() if place[2] > 0)


def test_the_precision_of_a_pretraining_is_in_its_provenance(tmp_path):
    pretraining = dataclasses.replace(tiny().recipe.pretraining, precision="bfloat16", epochs=1)
    scenario = tiny(
        recipe=dataclasses.replace(tiny().recipe, pretraining=pretraining), train_epsilons=(0,), eval_epsilons=(0,)
    )
    (record,) = run(scenario, tmp_path).values()
    stages = {name: stage["dtype"] for name, stage in record.provenance.items()}
    assert stages == {"pretrain": "bfloat16", "finetune": "float32", "evaluate": "float32"}


def test_scenarios_share_their_pretrainings(tmp_path):
    first = tiny(train_epsilons=(0,), eval_epsilons=(0,))
    second = dataclasses.replace(first, name="again", eval_epsilons=(0, 1))
    built = []
    for scenario in (first, second):
        run(scenario, tmp_path, observe=lambda p: built.append(p.spec.stage) if p.tick is None else None)
    assert built == ["pretrain", "finetune", "evaluate", "evaluate"]


def test_a_suites_shared_artifacts_are_built_once(own_suite, tmp_path):
    """One encoder and two heads; the robust head's cell without an attack belongs to both."""
    first, second = own_suite
    built, totals = [], set()

    def observe(progress):
        totals.add(progress.total)
        if progress.tick is None:
            built.append(progress.spec)

    found = runner.run_suite([first, second], store=tmp_path, device="cpu", observe=observe)
    assert [spec.stage for spec in built] == ["pretrain", "finetune", *["evaluate"] * 2, "finetune", "evaluate"]
    assert len({spec.key for spec in built}) == 6
    assert totals == {6}
    assert {name: list(records) for name, records in found.items()} == {
        "robust": [(1, 1, 0), (1, 1, 0.5)],
        "heads": [(1, 0, 0), (1, 1, 0)],
    }
    assert found["heads"][1, 1, 0] == found["robust"][1, 1, 0]
    assert found["heads"][1, 1, 0].scenario == "robust"
    assert found["heads"][1, 0, 0].scenario == "heads"
    assert found["heads"][1, 0, 0].key == second.cells[1, 0, 0].key != found["heads"][1, 1, 0].key


def test_a_suite_runs_by_its_name_and_gives_what_its_scenarios_give_alone(own_suite, tmp_path):
    found = runner.run_suite("both", store=tmp_path / "suite", device="cpu")
    for one in own_suite:
        alone = comparable(run(one, tmp_path / "alone"))
        ours = comparable(found[one.name])
        for place in alone:
            del alone[place]["scenario"], ours[place]["scenario"]  # whose it was first
        assert ours == alone
    assert list(found) == ["robust", "heads"]


def test_a_name_of_one_scenario_runs_it_too(own_suite, tmp_path):
    found = runner.run_suite("robust", store=tmp_path, device="cpu")
    assert found == {"robust": run("robust", tmp_path)}


def test_a_suite_that_is_there_is_not_built_again(own_suite, tmp_path):
    steps = []
    first = runner.run_suite("both", store=tmp_path, device="cpu")
    assert runner.run_suite("both", store=tmp_path, device="cpu", observe=steps.append) == first
    assert steps == []


def test_a_suite_notes_every_scenario_of_it(own_suite, tmp_path):
    runner.run_suite("both", store=tmp_path, device="cpu")
    notes = {note.name: note for note in read_notes(Store(tmp_path))}
    assert set(notes) == {"robust", "heads"}
    for one in own_suite:
        assert notes[one.name].cells == tuple((*place, cell.key) for place, cell in one.cells.items())
        assert notes[one.name].registered_rows == tuple(one.rows)
        assert notes[one.name].deviations == {}


def test_a_killed_suite_goes_on_and_gives_the_uninterrupted_records(own_suite, tmp_path):
    whole = runner.run_suite("both", store=tmp_path / "whole", device="cpu")
    for after in (5, 15, 25, 33):
        with pytest.raises(Killed):
            runner.run_suite("both", store=tmp_path / str(after), device="cpu", observe=killing(after))
        found = runner.run_suite("both", store=tmp_path / str(after), device="cpu")
        assert {name: comparable(one) for name, one in found.items()} == {
            name: comparable(one) for name, one in whole.items()
        }


def test_two_scenarios_of_one_name_and_seed_are_refused(tmp_path):
    with pytest.raises(
        InvalidValue, match=r"expected scenarios of different names or seeds, got \['digits', 'digits'\]"
    ):
        runner.run_suite([tiny(), tiny(train_limit=40)], store=tmp_path / "store", device="cpu")
    assert not (tmp_path / "store").exists()


def test_an_unknown_suite_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown scenario or suite 'ross2023'; did you mean ross2022"):
        runner.run_suite("ross2023", store=tmp_path / "store", device="cpu")
    assert not (tmp_path / "store").exists()


def test_a_parent_is_not_built_again_for_cells_that_are_there(finished, tmp_path):
    store = tmp_path / "copy"
    shutil.copytree(finished, store)
    shutil.rmtree(store / "pretrain")
    steps = []
    run(tiny(), store, observe=steps.append)
    assert steps == []


def test_a_gap_is_filled_with_all_that_hangs_on_it(finished, tmp_path):
    """A head belongs to the encoder it was trained on, so it is built again with it; finished cells stay."""
    store, wider = tmp_path / "copy", tiny(train_epsilons=(1,), eval_epsilons=(0, 0.7))
    shutil.copytree(finished, store)
    shutil.rmtree(Store(store).path(wider.cells[1, 1, 0].finetune.pretrain))
    head = Store(store).path(wider.cells[1, 1, 0].finetune) / "weights.safetensors"
    before, built = head.stat().st_mtime_ns, []
    run(wider, store, observe=lambda p: built.append(p.spec.stage) if p.tick is None else None)
    assert built == ["pretrain", "finetune", "evaluate"]
    assert head.stat().st_mtime_ns > before


def test_what_another_run_finished_meanwhile_is_kept_and_not_built_again(finished, tmp_path):
    """The other run's row appears, whole, while this one is in its first epoch."""
    theirs = tiny().cells[1.0, 1.0, 0.5].chain
    built = []

    def other_run(progress):
        if not built:
            for spec in theirs:
                shutil.copytree(Store(finished).path(spec), Store(tmp_path).path(spec), dirs_exist_ok=True)
        built.append(progress.spec if progress.tick else None)

    run(tiny(), tmp_path, observe=other_run)
    assert not set(theirs) & {spec for spec in built if spec}
    for spec in theirs:
        assert Store(tmp_path).read(spec, "spec.json") == Store(finished).read(spec, "spec.json")
    record = (Store(tmp_path).path(theirs[-1]) / "record.json").read_bytes()
    assert record == (Store(finished).path(theirs[-1]) / "record.json").read_bytes()


def test_data_that_is_missing_is_said_before_anything_is_built(tmp_path, monkeypatch):
    from rossbench.data import datasets
    from rossbench.util.errors import DataError

    real = datasets.load

    def load(name, split, *arguments):
        if split == "test":
            raise DataError("digits: not there")
        return real(name, split, *arguments)

    monkeypatch.setattr(datasets, "load", load)
    with pytest.raises(DataError, match="not there"):
        run(tiny(), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_model_that_draws_random_numbers_of_its_own_is_reproducible(tmp_path):
    """Drop-path takes them from torch's global generator."""
    pretrain_only = tiny(train_epsilons=(0,), eval_epsilons=(0,), encoder="tiny_vit_5m_224", train_limit=20)
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        run(pretrain_only, tmp_path / name)
        model = artifacts.load_simclr(Store(tmp_path / name), pretrain_only.cells[0, 0, 0].finetune.pretrain)
        weights.append(model.head.layers[0].weight)
    assert torch.equal(*weights)


def command_line(store, options, **environment):
    """``rossbench run digits`` as a process of its own."""
    code = "import sys; from rossbench.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "run", "digits", "--device", "cpu", "--out", str(store), *options.split()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **environment})


def test_a_process_killed_outright_loses_no_finished_epoch(tmp_path):
    options = "--train-eps 1 --eval-eps 0,0.5 --epochs 40 --train-limit 130 --test-limit 40"
    scenario = tiny(train_epsilons=(1,), train_limit=130)
    recipe = registry.get("digits").recipe
    long = dataclasses.replace(recipe, pretraining=dataclasses.replace(recipe.pretraining, epochs=40))
    scenario = dataclasses.replace(scenario, recipe=long)
    resume = Store(tmp_path / "killed").resume_path(scenario.cells[1, 1, 0].finetune.pretrain)
    process = command_line(tmp_path / "killed", options)
    deadline = time.monotonic() + 120
    while not resume.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert resume.exists()
    steps = []
    found = run(scenario, tmp_path / "killed", observe=steps.append)
    assert steps[0].tick.resumed
    assert comparable(found) == comparable(run(scenario, tmp_path / "whole"))


def test_two_runs_at_once_share_a_store(finished, tmp_path):
    """Each does a row; in the end both are whole, and both are in the table."""
    from rossbench.store import results

    options = "--eval-eps 0,0.5 --epochs 2 --finetune-epochs 2 --train-limit 60 --test-limit 40"
    alone = {"OMP_NUM_THREADS": "1"}  # else the three are in each other's way
    runs = [command_line(tmp_path, f"{options} --train-eps {row}", **alone) for row in (0, 1, 1)]
    assert [one.wait(timeout=300) for one in runs] == [0, 0, 0]
    (matrix,) = results.load(Store(tmp_path))
    assert (matrix.rows, matrix.columns) == ([(0, 0), (1, 1)], [0, 0.5])
    assert len(matrix.records) == 4


def test_a_damaged_resume_state_costs_its_stage_only(finished, tmp_path, caplog):
    path = Store(tmp_path).resume_path(tiny().cells[0.0, 0.0, 0.0].finetune.pretrain)
    path.parent.mkdir()
    path.write_bytes(b"PK damaged")
    assert comparable(run(tiny(), tmp_path)) == comparable(run(tiny(), finished))
    assert "cannot be read" in caplog.text


def test_damaged_weights_are_named(finished, tmp_path):
    store, cell = tmp_path / "copy", tiny().cells[1.0, 1.0, 0.5]
    shutil.copytree(finished, store)
    path = Store(store).path(cell.finetune) / "weights.safetensors"
    tamper(path, path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"weights\.safetensors: expected safetensors, got a damaged file"):
        artifacts.load_classifier(Store(store), cell.finetune)


def test_a_record_counts_its_own_predictions(finished):
    for place, record in run(tiny(), finished).items():
        cell = tiny().cells[place]
        ranked, labels = artifacts.load_predictions(Store(finished), cell)
        assert metrics.counts_right(ranked, labels).tolist() == [record.top1_right, record.top5_right]
        scores = metrics.scores(ranked[:, 0], labels, 10)
        assert {name: record.metric(name) for name in scores} == scores
        assert record.right_by_class == metrics.confusion(ranked[:, 0], labels, 10).diagonal().tolist()
        assert record.right_by_class == [int((ranked[labels == k, 0] == k).sum()) for k in range(10)]
        assert sum(record.right_by_class) == record.top1_right


def test_history_is_one_json_line_an_epoch(finished):
    cell = tiny().cells[1.0, 1.0, 0.0]
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
        resolve_device(name)


def test_auto_finds_a_device():
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


def test_a_large_images_scenario_can_be_declared_without_its_data():
    own = Scenario("stl", source="stl10", target="stl10", encoder="resnet50")
    assert all(isinstance(cell, EvaluateSpec) for cell in own.cells.values())


def test_digits_shows_the_effect(digits):
    """A plain encoder is right without an attack and falls under it; one pretrained under attack stands.

    98 %, 1 % and 86 %, within a point with AVX-512 and AVX2: three, nine and 15 points from what is asked for here.
    """
    accuracy = {place: record.metric("top1") for place, record in digits.items()}
    assert len({row for row, _, _ in accuracy}) == 3
    assert len({column for _, _, column in accuracy}) == 5
    assert accuracy[0, 0, 0] >= 0.95
    assert accuracy[0, 0, 1] < 0.10
    assert accuracy[1, 1, 1] > 0.70
    assert all(record.deviations == {} for record in digits.values())


@pytest.mark.parametrize("name", ["cifar10-to-cifar100"])
def test_real_cifar_goes_through(cifar, tmp_path, name):
    """The main job on real images, cut to a handful: every stage, adversarial and not, with the default encoder."""
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
    assert found[1, 1, 0].spec.finetune.pretrain.encoder == "resnet18"


def test_run_suite_takes_a_name_a_suite_or_any_of_names_and_scenarios(finished, tmp_path, own_registry):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    registry._scenarios["digits"] = tiny()
    suite = registry.register(Suite("mine", ("digits",)))
    expected = run(tiny(), tmp_path)
    for given in ("mine", suite, ["digits"], [tiny()], ["mine"]):
        assert runner.run_suite(given, store=tmp_path, device="cpu") == {"digits": expected}


@pytest.mark.parametrize("total", [1, 2, 3, 5, 12, 100])
@pytest.mark.parametrize("names", [("ross2022",), ("digits-study",), ("digits",)])
def test_parts_are_whole_models_and_together_everything(names, total):
    cells = [c for name in names for one in registry.members(name) for c in one.cells.values()]
    parts = [scheduler._part(cells, k, total) for k in range(1, total + 1)]
    assert sorted(cell.key for part in parts for cell in part) == sorted(cell.key for cell in cells)
    heads = [{cell.finetune.key for cell in part} for part in parts]
    assert sum(map(len, heads)) == len({cell.finetune.key for cell in cells})
    assert max(map(len, heads)) - min(map(len, heads)) <= 1
    encoders = {cell.finetune.pretrain.key for cell in cells}
    made = [key for part in parts for key in {cell.finetune.pretrain.key for cell in part}]
    assert len(made) < len(encoders) + total  # an encoder is in parts that are neighbours


def test_a_shard_gives_its_records_alone(finished):
    found = [runner.run_suite([tiny()], store=finished, device="cpu", shard=(k, 2))["digits"] for k in (1, 2)]
    assert [list(one) for one in found] == [[(0, 0, 0), (0, 0, 0.5)], [(1, 1, 0), (1, 1, 0.5)]]
