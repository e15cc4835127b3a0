"""benchmarks/ross2022/run.sh, at toy length on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import comparable

from rossbench import results
from rossbench.store.results import load

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/ross2022/run.sh"
SCENARIO = "digits-low-to-low"
CUT = "--epochs 40 --finetune-epochs 2 --train-limit 60 --test-limit 40"


def piece(folder, *seconds):
    """The script as a process, with all that it reads and writes in a folder."""
    names = {"ROSSBENCH_STORE": folder / "store", "PARTS": folder / "parts", "PYTHON": sys.executable, "PYTHONPATH": ROOT}
    cut = {"DEVICE": "cpu", "CUT": CUT, "SUITE": SCENARIO, "FIRST": SCENARIO, "OMP_NUM_THREADS": "1", "CHECK": "1"}
    environment = {**os.environ, **cut, **{name: str(value) for name, value in names.items()}}
    return subprocess.Popen([SCRIPT, *map(str, seconds)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
