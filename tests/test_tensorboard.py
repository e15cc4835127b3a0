import itertools
import sys
import types

import pytest
from conftest import tiny

from rossbench.runner import run as runner
from rossbench.runner.tensorboard import logging_to
from rossbench.store import artifacts
from rossbench.store.store import Store
from rossbench.util.errors import InvalidValue

FIELDS = ("loss", "top1", "top5", "learning_rate")


@pytest.fixture
def one():
    """One pretraining and one head of two epochs each."""
    return tiny(train_epsilons=(1,), eval_epsilons=(0,))


class Killed(BaseException):
    """As abrupt as a signal: nothing in the package catches it."""


def logged(folder):
    """What TensorBoard shows of a folder: run -> field -> [(epoch, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for run in sorted(folder.iterdir()):
        events = EventAccumulator(str(run))
        events.Reload()
        tags = events.Tags()["scalars"]
        found[run.name] = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    return found


def expected(store, scenario):
    """The same from the histories in the store."""
    (cell,) = scenario.cells.values()
    found = {}
    for spec in (cell.finetune.pretrain, cell.finetune):
        history = artifacts.load_history(Store(store), spec)
        assert [entry["epoch"] for entry in history] == [1, 2]
        found[spec.key] = {
            field: [(entry["epoch"], pytest.approx(entry[field], rel=1e-6)) for entry in history] for field in FIELDS
        }
    return found


def by_key(found):
    return {name.rsplit("-", 1)[1]: run for name, run in found.items()}


def test_every_training_is_a_run_with_its_epochs(one, tmp_path):
    with logging_to(tmp_path / "logs") as observe:
        runner.run(one, store=tmp_path / "store", device="cpu", observe=observe)
    found = logged(tmp_path / "logs")
    assert by_key(found) == expected(tmp_path / "store", one)
    finetune, pretrain = sorted(found)
    assert finetune.startswith("finetune-digits-digits-ε-1-")
    assert pretrain.startswith("pretrain-digits-ε-1-")


@pytest.mark.parametrize("last", ["epoch 1/2", "epoch 2/2", "resumed after epoch 1/2"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_after_an_interruption_every_epoch_is_there_once(one, tmp_path, monkeypatch, stage, last):
    """Killed when an epoch has ended and before the next has; then, in one of the cases, once more at once."""
    from tensorboard.summary.writer import event_file_writer

    clock = types.SimpleNamespace(time=itertools.count(2_000_000_000).__next__)  # files are ordered by the second
    monkeypatch.setattr(event_file_writer, "time", clock)

    def run_until(stage, position):
        with logging_to(tmp_path / "logs") as observe:

            def kill(progress):
                observe(progress)
                tick = progress.tick
                if progress.spec.stage == stage and tick and tick.history and tick.position == position:
                    raise Killed

            runner.run(one, store=tmp_path / "store", device="cpu", observe=kill)

    stops = ["epoch 1/2", last] if last.startswith("resumed") else [last]
    for stop in stops:
        with pytest.raises(Killed):
            run_until(stage, stop)
    assert logged(tmp_path / "logs")
    run_until(None, None)
    assert by_key(logged(tmp_path / "logs")) == expected(tmp_path / "store", one)


def test_an_epoch_is_on_disk_when_it_has_ended(one, tmp_path):
    """For who watches, and for a process that is killed outright."""
    seen = []
    with logging_to(tmp_path / "logs") as observe:

        def watch(progress):
            observe(progress)
            if progress.tick and progress.tick.history:
                runs = by_key(logged(tmp_path / "logs"))
                seen.append((progress.spec.stage, [epoch for epoch, _ in runs[progress.spec.key]["loss"]]))

        runner.run(one, store=tmp_path / "store", device="cpu", observe=watch)
    assert seen == [("pretrain", [1]), ("pretrain", [1, 2]), ("finetune", [1]), ("finetune", [1, 2])]


def test_a_run_that_has_nothing_to_train_logs_nothing(finished, tmp_path):
    with logging_to(tmp_path / "logs") as observe:
        runner.run(tiny(), store=finished, device="cpu", observe=observe)
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidValue, match=r"tensorboard: expected a folder to write to, got .*file/logs"),
        logging_to(tmp_path / "file" / "logs"),
    ):
        pass


def test_logging_changes_no_result(one, tmp_path):
    with logging_to(tmp_path / "logs") as observe:
        runner.run(one, store=tmp_path / "logged", device="cpu", observe=observe)
    runner.run(one, store=tmp_path / "plain", device="cpu")
    (cell,) = one.cells.values()
    names = [(cell.finetune, "weights.safetensors"), (cell.finetune.pretrain, "weights.safetensors")]
    for spec, name in [*names, (cell, "predictions.safetensors")]:
        assert Store(tmp_path / "logged").read(spec, name) == Store(tmp_path / "plain").read(spec, name)


def test_a_package_that_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InvalidValue) as raised, logging_to(tmp_path / "logs"):
        pytest.fail("nothing to log with")
    assert "pip install 'rossbench[tensorboard]'" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "logs").exists()
