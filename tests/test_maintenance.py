import json
import os
import shutil
import time

import pytest
from conftest import tiny

from rossbench.config.scenarios import specs_of
from rossbench.runner import run as runner
from rossbench.store import results
from rossbench.store.maintenance import LEFT_OVER, Holdings, read_spec, verify
from rossbench.store.store import Store, write_atomically


@pytest.fixture
def store(copied):
    return copied


def test_every_artifact_is_listed_with_its_size_and_its_users(store):
    found = Holdings.of(store).artifacts()
    assert [one.spec for one in found if one.spec.stage == "pretrain"] == [
        tiny().cells[row, row, 0].finetune.pretrain for row in (0, 1)
    ]
    assert {one.spec.key for one in found} == {spec.key for spec in specs_of([tiny()])}
    for one in found:
        assert one.size == sum(file.stat().st_size for file in one.path.iterdir())
        assert one.used_by == ("digits",)
        assert 0 <= one.age < 3600
        assert read_spec(one.path) == one.spec


def test_what_several_scenarios_share_is_used_by_all(store):
    runner.run(tiny("digits-low-to-high", train_epsilons=(0,), eval_epsilons=(0,)), store=store, device="cpu")
    runner.run(tiny("digits-low-to-low", train_epsilons=(0,), eval_epsilons=(0,)), store=store, device="cpu")
    users = {str(one.spec): one.used_by for one in Holdings.of(store).artifacts()}
    assert users["pretrain digits-low ε=0"] == ("digits-low-to-high", "digits-low-to-low")
    assert users["pretrain digits ε=0"] == ("digits",)


def test_audits_have_users_while_their_cells_do(store):
    runner.audit(store=store, device="cpu")
    assert {one.used_by for one in Holdings.of(store).artifacts() if one.spec.stage == "audit"} == {("digits",)}
    assert Holdings.of(store).garbage() == {}


def test_garbage_is_what_nobody_needs(store):
    cell, root = tiny().cells[1, 1, 0.5], store.root
    old, new = root / "evaluate" / ".writing-old", root / "evaluate" / ".writing-new"
    for path in (old, new, root / "damaged" / "x"):
        path.mkdir(parents=True)
    os.utime(old, (0, time.time() - LEFT_OVER - 1))
    write_atomically(store.resume_path(cell), b"state of what is done")
    write_atomically(root / "resume" / "0123456789abcdef.pt", b"state of what is not")
    (root / "locks").mkdir(exist_ok=True)
    (root / "locks" / f"{cell.key}.lock").write_text("")
    (root / "locks" / "0123456789abcdef.lock").write_text("")
    assert Holdings.of(store).garbage() == {
        old: "left behind by a process that was killed",
        root / "damaged" / "x": "damaged",
        store.resume_path(cell): "of a stage that is done",
        root / "locks" / f"{cell.key}.lock": "of a stage that is done",
    }


def test_without_its_note_a_run_is_garbage(store):
    for path, _ in store.notes():
        path.unlink()
    assert set(Holdings.of(store).garbage()) == {store.path(spec) for spec in specs_of([tiny()])}


def test_what_an_unfinished_run_may_need_is_kept(store):
    """Its note says which cells it was to make, and they are not there."""
    shutil.rmtree(store.path(tiny().cells[1, 1, 0.5]))
    shutil.rmtree(store.path(tiny().cells[1, 1, 0]))
    assert Holdings.of(store).unfinished
    assert Holdings.of(store).garbage() == {}
    users = {one.spec: one.used_by for one in Holdings.of(store).artifacts()}
    assert users[tiny().cells[1, 1, 0].finetune.pretrain] == ()


def test_a_whole_store_is_verified(store):
    assert verify(store) == (8, 0, [])


@pytest.mark.parametrize("stage", ["pretrain", "evaluate"])
def test_an_artifact_under_another_name_is_damaged(store, stage):
    path = next((store.root / stage).iterdir())
    path.rename(path.with_name("0123456789abcdef"))
    (damage,) = verify(store)[2]
    assert damage.place == path.with_name("0123456789abcdef")
    assert f"got that of {path.name}" in str(damage)


@pytest.mark.parametrize("sums", [True, False])
def test_an_artifact_that_is_not_whole_is_damaged(store, sums):
    path = store.path(tiny().cells[1, 1, 0.5])
    (path / "predictions.safetensors").unlink()
    if not sums:
        (path / "SHA256SUMS").unlink()
    (damage,) = verify(store)[2]
    assert damage.place == path


def test_nothing_is_a_whole_store(tmp_path):
    assert verify(Store(tmp_path / "nowhere")) == (0, 0, [])
    assert Holdings.of(Store(tmp_path / "nowhere")).artifacts() == []


# --- the command line ----------------------------------------------------------------------------------------


def test_list_fits_a_terminal_of_80_columns(store, rossbench):
    code, out, err = rossbench("store", "list")
    assert (code, err) == (0, "")
    assert "pretrain digits ε=1" in out
    assert "8 artifacts, " in out
    assert max(map(len, out.splitlines())) <= 80


def test_verify_sets_aside_what_is_damaged_and_says_so(store, rossbench, caplog):
    assert rossbench("store", "verify") == (0, "8 artifacts read, 0 files or artifacts damaged\n", "")
    path = store.record_path(tiny().cells[1, 1, 0.5].key)
    path.write_text(path.read_text() + " ")
    code, out, _ = rossbench("store", "verify")
    assert (code, out) == (3, "8 artifacts read, 1 files or artifacts damaged\n")
    assert "record.json: expected the SHA-256" in caplog.text
    assert rossbench("store", "verify")[1] == "7 artifacts read, 0 files or artifacts damaged\n"


def test_gc_says_what_would_go_and_then_deletes_it(store, rossbench):
    cell = tiny().cells[1, 1, 0.5]
    note = json.loads(next(path for path, _ in store.notes()).read_text())
    kept = [place for place in note["cells"] if place[-1] != cell.key]
    for path, _ in store.notes():
        path.unlink()
    store.write_note(note["name"], note["protocol"], json.dumps({**note, "cells": kept}).encode())
    code, out, err = rossbench("store", "gc", "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith(f"rossbench-store/evaluate/{cell.key}: of no run\n1 would go, ")
    assert cell in store
    assert rossbench("store", "gc")[1].splitlines()[-1].startswith("1 deleted, ")
    assert cell not in store
    assert rossbench("store", "gc")[1] == "0 deleted, 0 bytes\n"


def test_rm_deletes_a_run_and_what_no_other_needs(store, rossbench):
    """Two protocols share the encoders; a third try stopped before it had anything to show."""
    kept = {spec.key for spec in specs_of([tiny()])}
    other = tiny(test_limit=50, train_epsilons=(1,))
    for scenario in (other, tiny(test_limit=60, train_limit=50)):
        store.write_note(scenario.name, scenario.protocol, runner.note_of(scenario).encoded())
    assert len(results.load(store)) == len(results.load(store, ["digits"])) == 1  # no matrix of dashes
    runner.run(other, store=store, device="cpu")
    assert len(results.load(store)) == 2
    code, out, err = rossbench("store", "rm", "digits", "--protocol", other.protocol, "--dry-run")
    assert (code, err) == (0, "")
    assert f"-{other.protocol}-" in out
    assert "3 would go, " in out  # its note and its two cells: the encoder and the head are another run's too
    assert rossbench("store", "rm", "digits", "--protocol", other.protocol)[1].splitlines()[-1].startswith("3 deleted")
    assert {one.spec.key for one in Holdings.of(store).artifacts()} == kept
    assert "unknown scenario in rossbench-store 'digitz'; did you mean digits?" in rossbench("store", "rm", "digitz")[2]
    assert "unknown protocol of digits 'abc'" in rossbench("store", "rm", "digits", "--protocol", "abc")[2]
    write_atomically(store.resume_path(other.cells[1, 1, 0.5]), b"of nobody then")
    assert rossbench("store", "rm", "digits")[0] == 0
    assert [path for path in store.root.rglob("*") if path.is_file()] == [store.root / "FORMAT"]
