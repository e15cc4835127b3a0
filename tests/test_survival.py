"""A run as processes that are killed, started twice and given bad disks: what docs/operations.md promises.

Processes come from a server that has loaded torch, so that each starts at once.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import comparable, tiny

from rossbench import cli, registry
from rossbench.config.scenarios import specs_of
from rossbench.runner import run as runner
from rossbench.runner import scheduler
from rossbench.stages import evaluate
from rossbench.store import artifacts
from rossbench.store.maintenance import verify
from rossbench.store.store import SUMS, Store
from rossbench.util.errors import StoreError
from rossbench.util.signals import Interrupted, listening

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rossbench.runner.run", "rossbench.models.checkpoints", "sklearn.datasets"])


def longer():
    """Long enough to be hit in every stage: some seconds."""
    recipe = tiny().recipe
    pretraining = dataclasses.replace(recipe.pretraining, epochs=12)
    recipe = dataclasses.replace(recipe, pretraining=pretraining)
    return tiny(recipe=recipe, train_limit=200, test_limit=100, eval_epsilons=(0, 0.5, 1))


def work(scenario, root, built=None, shard=(1, 1)):
    """A run, in a process of its own; tells the keys of what it has built."""
    scheduler.POLL = 0.05
    torch.set_num_threads(1)  # several such processes share the cores
    keys = []
    runner.run_suite(
        [scenario],
        store=root,
        device="cpu",
        shard=shard,
        observe=lambda news: keys.append(news.spec.key) if news.tick is None and not news.elsewhere else None,
    )
    if built is not None:
        built.put(keys)


def start(*arguments, target=work):
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.fixture
def one_thread():
    """As the processes have: a run that goes on in this one is then the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The longer run, uninterrupted, in a process as the others are."""
    root = tmp_path_factory.mktemp("whole")
    process = start(longer(), root)
    process.join()
    assert process.exitcode == 0
    return root


def assert_equal(ours, theirs, scenario):
    """Two stores hold the same records and predictions, and are whole."""
    found = [comparable(runner.run(scenario, store=root, device="cpu")) for root in (ours, theirs)]
    for record in (record for records in found for record in records.values()):
        for stage in record["provenance"].values():
            del stage["git_commit"], stage["git_dirty"]  # somebody may be at work on the checkout
    assert found[0] == found[1]
    for cell in scenario.cells.values():
        first, second = (artifacts.load_predictions(Store(root), cell)[0] for root in (ours, theirs))
        assert torch.equal(first, second)
    count, without, damaged = verify(Store(ours))
    assert (count, without, damaged) == (len(list(specs_of([scenario]))), 0, [])


def test_twenty_kills_at_random_instants_lose_nothing(whole, tmp_path):
    """SIGKILL; a run that ends before it comes is followed by another."""
    chance, kills, roots = random.Random(0), 0, [tmp_path / "0"]
    while kills < 20:
        process = start(longer(), roots[-1])
        process.join(chance.uniform(0.05, 1.2))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it ended before, or just as the signal was sent
            roots.append(tmp_path / str(len(roots)))
        else:
            assert process.exitcode == -signal.SIGKILL
            kills += 1
    start(longer(), roots[-1]).join()
    for root in roots:
        assert_equal(root, whole, longer())
        assert not list((root / "resume").glob("*.pt"))


def test_four_processes_on_one_store_build_every_artifact_once(whole, tmp_path):
    built = PROCESSES.Queue()
    processes = [start(longer(), tmp_path, built) for _ in range(4)]
    keys = [built.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    counts = collections.Counter(key for found in keys for key in found)
    assert counts == dict.fromkeys((spec.key for spec in specs_of([longer()])), 1)
    assert sum(bool(found) for found in keys) > 1  # they share the work
    assert_equal(tmp_path, whole, longer())
    assert list((tmp_path / "locks").iterdir()) == []


def test_four_shards_are_one_run(tmp_path):
    """Four models and two encoders: the shards that share one wait for each other there."""
    scenario = tiny(train_epsilons=(0, 1), finetune_epsilons=(0, 1), eval_epsilons=(0, 0.5))
    built = PROCESSES.Queue()
    processes = [start(scenario, tmp_path / "shards", built, (k, 4)) for k in (1, 2, 3, 4)]
    keys = [built.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    counts = collections.Counter(key for found in keys for key in found)
    assert counts == dict.fromkeys((spec.key for spec in specs_of([scenario])), 1)
    for found in keys:  # each its own model
        assert sum(cell.key in found for cell in scenario.cells.values()) == 2
    start(scenario, tmp_path / "one").join()
    assert_equal(tmp_path / "shards", tmp_path / "one", scenario)


def test_what_a_killed_process_was_building_is_taken_over_by_those_that_wait(whole, tmp_path):
    built = PROCESSES.Queue()
    first = start(longer(), tmp_path)
    while not list(tmp_path.glob("resume/*.pt")):
        time.sleep(0.01)
    others = [start(longer(), tmp_path, built) for _ in range(2)]
    time.sleep(0.5)
    first.kill()
    first.join()
    for _ in others:
        built.get(timeout=300)
    for process in others:
        process.join()
    assert_equal(tmp_path, whole, longer())


def test_a_process_killed_outright_loses_no_finished_epoch(whole, tmp_path, one_thread):
    process, steps = start(longer(), tmp_path), []
    while not list(tmp_path.glob("resume/*.pt")):
        time.sleep(0.01)
    process.kill()
    process.join()
    runner.run(longer(), store=tmp_path, device="cpu", observe=steps.append)
    assert steps[0].tick.resumed
    assert_equal(tmp_path, whole, longer())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_a_line_that_says_how_to_go_on(tmp_path, number, code):
    script = "import sys; from rossbench.cli import main; main(sys.argv[1:])"
    arguments = ["run", "digits", "--device", "cpu", "--train-eps", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("resume/*.pt")):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    line = f"interrupted ({number.name}); all that is done is kept, to go on: rossbench {' '.join(arguments)}"
    assert err == f"rossbench: {line}\n"
    assert list(tmp_path.glob("resume/*.pt"))
    assert list((tmp_path / "locks").iterdir()) == []


@pytest.mark.parametrize("after", [1, 3, 9, 14, 20, 25, 31, 36, 41, 46])
def test_a_signal_at_any_tick_costs_nothing(finished, tmp_path, after):
    """All ticks of both runs together are those of one, and what it resumes with."""

    def run(observe):
        with listening():
            return runner.run(tiny(), store=tmp_path, device="cpu", observe=observe)

    seen = []

    def stop(news):
        seen.append(news)
        if len(seen) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(stop)
    run(seen.append)
    assert_equal(tmp_path, finished, tiny())
    trained = collections.Counter(
        (one.spec.key, one.fraction) for one in seen if one.spec.stage in ("pretrain", "finetune") and one.tick
        and one.tick.images and "epoch" in one.tick.position
    )  # fmt: skip
    assert max(trained.values()) == 1


# --- damage ------------------------------------------------------------------------------------------------


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def files_of(root):
    return sorted(path.relative_to(root) for path in root.glob("*/*/*")) + sorted(
        path.relative_to(root) for path in root.glob("matrices/*")
    )


def test_a_flipped_byte_is_noticed_in_every_file(audited, tmp_path):
    names = files_of(audited)
    assert {name.name for name in names if len(name.parts) == 3} == {
        *("spec.json", "stage.json", "history.jsonl", "weights.safetensors", "record.json", "predictions.safetensors"),
        *("audit.json", SUMS),
    }
    shutil.copytree(audited, tmp_path / "store")
    for name in names:
        path = tmp_path / "store" / name
        for place in (0, path.stat().st_size // 3, -1):
            flip(path, place)
            (damage,) = verify(Store(tmp_path / "store"))[2]
            assert str(damage.place) in (str(path), str(path.parent)), name
            flip(path, place)
        assert verify(Store(tmp_path / "store"))[2] == [], name


WIDER = (0, 0.5, 0.7)


@pytest.fixture(scope="module")
def widest(tmp_path_factory):
    """What a run with one more epsilon gives, from nothing."""
    return comparable(runner.run(tiny(eval_epsilons=WIDER), store=tmp_path_factory.mktemp("widest"), device="cpu"))


READ = ("pretrain/weights.safetensors", "finetune/weights.safetensors", "finetune/stage.json", "evaluate/record.json")


@pytest.mark.parametrize("change", ["flipped", "truncated", "gone"])
@pytest.mark.parametrize("which", READ)
def test_what_is_damaged_is_named_set_aside_and_built_again(copied, widest, caplog, which, change):
    stage, name = which.split("/")
    store, wider = copied, tiny(eval_epsilons=WIDER)
    spec = next(made for made in wider.cells[1, 1, 0.5].chain if made.stage == stage)
    path = store.path(spec) / name
    before = path.read_bytes()
    {"flipped": flip, "truncated": lambda path: path.write_bytes(before[:50]), "gone": lambda path: path.unlink()}[
        change
    ](path)
    found = runner.run(wider, store=store, device="cpu")
    assert str(path) in caplog.text
    assert [aside.name for aside in (store.root / "damaged").glob("*/*")] == [spec.key]
    if name == "weights.safetensors":  # the same weights again, bit for bit
        assert path.read_bytes() == before
    assert comparable(found) == widest
    assert verify(store)[2] == []


def test_a_report_goes_on_without_what_is_damaged_and_names_it(copied, tmp_path, rossbench, caplog):
    path = copied.record_path(tiny().cells[1, 1, 0.5].key)
    flip(path)
    code, out, _ = rossbench("report", "digits")
    assert code == 0
    assert "1 of 4 cells are missing" in out
    assert f"{path.relative_to(tmp_path)}: expected the SHA-256" in caplog.text
    assert not path.exists()


def test_the_same_damage_twice_ends_a_run(copied, monkeypatch):
    """As on a disk that gives back other bytes than it was given."""
    real = evaluate.save_cell
    spec = tiny().cells[1, 1, 0.5]
    flip(copied.record_path(spec.key))

    def worse(context, cell, *arguments, **keywords):
        real(context, cell, *arguments, **keywords)
        flip(context.store.record_path(cell.key))

    monkeypatch.setattr(evaluate, "save_cell", worse)
    with pytest.raises(StoreError, match=f"{spec.key}.*expected the SHA-256"):
        runner.run(tiny(), store=copied, device="cpu")


def test_an_artifact_without_checksums_is_read_as_ever(finished, copied):
    """Those of earlier versions."""
    for path in copied.root.glob(f"*/*/{SUMS}"):
        path.unlink()
    found = runner.run(tiny(), store=copied, device="cpu")
    assert comparable(found) == comparable(runner.run(tiny(), store=finished, device="cpu"))
    assert verify(copied)[1:] == (8, [])


# --- disks -------------------------------------------------------------------------------------------------


def command(root, most=None, user=None):
    """A run by the command line, in a process that may not write large files, or not as another user."""
    with open(root.parent / "said", "w") as said, contextlib.redirect_stderr(said):
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        if user is not None:
            os.setuid(user)
        registry._scenarios["digits"] = tiny(train_epsilons=(0, 0.5, 1))
        cli.main(["run", "digits", "--device", "cpu", "--out", str(root)])


def snapshot(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def said_by(root, **limits):
    process = PROCESSES.Process(target=command, args=(root,), kwargs=limits)
    process.start()
    process.join(120)
    return process.exitcode, (root.parent / "said").read_text()


@pytest.mark.parametrize("most", [100_000, 2_000])
def test_a_disk_that_takes_no_more_gives_one_line_and_what_was_there_is_intact(finished, tmp_path, most):
    """Files beyond a size are refused by the system as those beyond the disk are."""
    shutil.copytree(finished, tmp_path / "store")
    before = snapshot(tmp_path / "store")
    code, said = said_by(tmp_path / "store", most=most)
    assert code == 2
    assert said.startswith("rossbench: store: ")
    assert "File too large" in said
    assert said.count("\n") == 1
    after = snapshot(tmp_path / "store")
    assert {path: after[path] for path in before} == before
    assert verify(Store(tmp_path / "store"))[2] == []
    assert not [path for path in after if path.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_store_that_cannot_be_written_to_is_said_in_one_line_and_still_read(finished, tmp_path):
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents:
        if not os.stat(folder).st_mode & 0o001:
            os.chmod(folder, os.stat(folder).st_mode | 0o001)  # pytest's own are their owner's alone
    shutil.copytree(finished, tmp_path / "store")
    os.chmod(tmp_path / "store", 0o755)
    before = snapshot(tmp_path / "store")
    code, said = said_by(tmp_path / "store", user=65534)
    assert code == 2
    assert "Permission denied" in said
    assert said.count("\n") == 1
    assert snapshot(tmp_path / "store") == before
