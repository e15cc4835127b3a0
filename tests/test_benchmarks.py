"""benchmarks/ross2022/run.sh, at toy length on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import comparable

from rossbench.store import results
from rossbench.store.store import Store

ROOT = Path(__file__).parent.parent
SCENARIO = "digits-low-to-low"
CUT = "--epochs 24 --finetune-epochs 1 --train-limit 40 --test-limit 20 --no-audit"
MORE_TO_DO = 143


@pytest.fixture(autouse=True)
def threads():
    """As many afterwards as before a command line in this process set one, which the script's have too."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def piece(tmp_path):
    """Starts the script, on a store that it has to join from the parts of the last piece."""
    folders = {"ROSSBENCH_STORE": tmp_path / "store", "PARTS": tmp_path / "parts", "PYTHONPATH": ROOT}
    settings = {"SUITE": SCENARIO, "FIRST": SCENARIO, "CUT": CUT, "DEVICE": "cpu", "PART_MIB": "1"}
    given = {
        **settings,
        **{name: str(folder) for name, folder in folders.items()},
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }

    def start(seconds, **changes):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        script = [ROOT / "benchmarks/ross2022/run.sh", str(seconds)]
        return subprocess.Popen(script, env={**os.environ, **given, **changes}, stdout=subprocess.DEVNULL)

    return start


def signalled_in_a_pretraining(process, store):
    """Sends SIGTERM once the state of a pretraining is in the store; its key, and the exit code."""
    try:
        while not (found := list(store.glob("resume/*.pt"))):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        return found[0].stem, process.wait(300)
    finally:
        process.terminate()


def test_a_study_in_pieces_is_the_uninterrupted_one(piece, rossbench, tmp_path):
    store, parts = tmp_path / "store", tmp_path / "parts"
    assert piece(1, CHECK="1").wait(300) == MORE_TO_DO  # its time is over before it has begun
    key, code = signalled_in_a_pretraining(piece(600), store)
    assert code == MORE_TO_DO
    assert not (parts / "store/pretrain" / key).exists()
    assert len(list(parts.glob(f"store/resume/{key}.pt.part-??"))) > 1
    assert piece(600).wait(300) == 0
    assert not list(parts.glob("store/resume/*"))
    assert max(path.stat().st_size for path in parts.rglob("*") if path.is_file()) <= 2**20
    assert {path.name for path in (parts / "tables").iterdir()} == {"report.md", "report.html"}

    line = f"run {SCENARIO} {CUT} --device cpu --threads 1 --out"
    assert rossbench(*line.split(), tmp_path / "whole")[0] == 0
    found, whole = (results.load(Store(root), [SCENARIO])[0].cells for root in (store, tmp_path / "whole"))
    assert len(found) == 15
    assert comparable(found) == comparable(whole)


def test_parts_that_were_altered_are_not_joined(piece, tmp_path):
    (tmp_path / "parts/store").mkdir(parents=True)
    (tmp_path / "parts/store/FORMAT").write_text("altered")
    (tmp_path / "parts/SHA256SUMS").write_text(f"{'0' * 64}  store/FORMAT\n")
    assert piece(1).wait(300) == 1
    assert not (tmp_path / "store").exists()
