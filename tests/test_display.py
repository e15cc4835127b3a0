import dataclasses
import io
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import tiny
from rich.console import Console

from rossbench import cli, registry
from rossbench.runner import display
from rossbench.runner.progress import Progress
from rossbench.stages.train_loop import Tick

SPEC = registry.get("digits").cells[1.0, 1.0, 0.0].finetune.pretrain
TICK = Tick(0.35, "epoch 4/10", 64, torch.tensor(4.3119))


def progress(tick, seconds_left=83.0, spec=SPEC):
    return Progress(spec, 3, 21, tick, 12.34, 4120.4, 0.4, seconds_left)


def shown(monkeypatch, steps, **console):
    """What appears when every step is let through, on a console of 80 columns."""
    for name in ("LIVE_EVERY", "PLAIN_EVERY"):
        monkeypatch.setattr(display, name, 0)
    output = Console(file=io.StringIO(), **{"width": 80, **console})
    with display.showing(output) as observe:
        for step in steps:
            observe(step)
    return output.file.getvalue()


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (progress(TICK), "epoch 4/10  loss 4.312  4,120 images/s  1m23s left"),
        (progress(TICK, None), "epoch 4/10  loss 4.312  4,120 images/s"),  # nothing to tell it from, at first
        (progress(None), "done in 12.3s"),
        (dataclasses.replace(progress(None), elsewhere=True), "done by another run"),
        (dataclasses.replace(progress(Tick(0, "waiting for x", 0)), elsewhere=True), "waiting for x  1m23s left"),
    ],
)
def test_plain_lines(monkeypatch, step, line):
    assert shown(monkeypatch, [step]) == f"[ 3/21] pretrain digits ε=1  {line}\n"


def test_what_is_built_together_is_counted(monkeypatch):
    text = shown(monkeypatch, [dataclasses.replace(progress(TICK), others=4)])
    assert text.startswith("[ 3/21] pretrain digits ε=1 and 4 more  epoch 4/10")


def ended(epoch, collapsed, spec=SPEC):
    entry = {"epoch": epoch, "loss": 4.844, "collapsed": collapsed}
    return progress(Tick(0.1, "", 0, history=({"epoch": 1, "loss": 5.0, "collapsed": True}, entry)), spec=spec)


@pytest.mark.parametrize("console", [{}, {"force_terminal": True, "color_system": None}], ids=["plain", "terminal"])
def test_a_collapsed_state_is_said_once_for_each_encoder_with_what_to_do(monkeypatch, console):
    """Not when it is left already, as of an earlier run that is resumed."""
    plain = dataclasses.replace(SPEC, epsilon=0.0, seed=3)
    steps = [ended(2, False), ended(3, True), ended(4, True), ended(2, True, plain)]
    told = [line for line in shown(monkeypatch, steps, **console).splitlines() if "constant features" in line]
    assert len(told) == 2
    assert "pretrain digits ε=1: the loss of epoch 3, 4.844, is that of constant features" in told[0]
    assert "try pretraining.epsilon_warmup, milder augmentation, more epochs or a smaller batch" in told[0]
    assert "pretrain digits ε=0 seed 3: the loss of epoch 2" in told[1]
    assert "try milder augmentation" in told[1]


TERMINAL = {"force_terminal": True, "color_system": None}


def test_a_terminal_keeps_the_finished_lines_and_shows_the_current_one(monkeypatch):
    text = shown(monkeypatch, [progress(TICK), progress(None)], **TERMINAL)
    for part in ("epoch 4/10", "loss 4.312", "4,120 images/s", "1m23s left", "done in 12.3s"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "seed", "there"),
    [
        ("digits-low", 0, "loss 4.312  4,120 images/s"),
        ("digits-low-and-more-of-it", 7, "epoch 4/10  loss 4.312"),
        ("digits-low-and-more-of-it-yet-and-so-on", 7, "seed 7  epoch 4/10"),
        ("d" * 90, 0, "[ 3/21] pretrain  epoch 4/10"),
    ],
)
def test_a_terminal_of_80_columns_lacks_the_last_fields_rather_than_their_ends(monkeypatch, name, seed, there):
    spec = dataclasses.replace(SPEC, seed=seed)
    object.__setattr__(spec, "source", name)
    text = shown(monkeypatch, [progress(TICK, spec=spec)], **TERMINAL)
    lines = re.split(r"\x1b\[[?\d]*\w|[\r\n]", text)  # as codes that move the cursor divide it
    assert any(line.endswith(there) for line in lines)
    assert any(line.endswith("1m23s left") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [1, 8, 24, 30, 44, 79])
def test_a_narrow_terminal_lacks_the_least_of_it(monkeypatch, width):
    step = dataclasses.replace(progress(TICK, spec=dataclasses.replace(SPEC, seed=7)), others=4)
    text = display._line(display._parts(step), "ascii", width).plain
    parts = ["[ 3/21] pretrain", "epoch 4/10", "digits eps=1", "seed 7", "and 4 more", "loss 4.312", "images/s"]
    there = [part in text for part in parts]
    assert there == sorted(there, reverse=True)
    assert len(text) <= max(width, len(parts[0]))  # that part is cut by the terminal
    assert shown(monkeypatch, [step, progress(None)], **TERMINAL | {"width": width})


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    text = shown(monkeypatch, [progress(TICK)], **TERMINAL, _environ={"TERM": "dumb"})
    assert text == shown(monkeypatch, [progress(TICK)])


@pytest.fixture
def one_missing(copied, monkeypatch, own_registry):
    """Runs a scenario that lacks a cell with another stdout: exit code and whether the cell is there then."""
    registry._scenarios["digits"] = tiny(train_epsilons=(1,))
    copied.discard(tiny().cells[1, 1, 0.5])
    monkeypatch.setattr(display, "LIVE_EVERY", 0)

    def run(file):
        monkeypatch.setattr(sys, "stdout", file)
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "digits", "--device", "cpu", "--no-audit", "--out", str(copied.root)])
        return stop.value.code, tiny().cells[1, 1, 0.5] in copied

    return run


@pytest.mark.parametrize(
    ("encoding", "terminal", "task"),
    [("ascii", False, "-> digits eps=1"), ("cp1252", True, "-> digits eps=1"), ("cp1253", False, "-> digits ε=1")],
)
def test_what_the_encoding_of_stdout_lacks_is_spelled(one_missing, monkeypatch, encoding, terminal, task):
    """Of a run that builds a cell, to its table, whose columns stay aligned; cp1253 has an epsilon and no arrow."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(file, "isatty", lambda: terminal)
    assert one_missing(file) == (0, True)
    file.flush()
    text = file.buffer.getvalue().decode(encoding)
    assert f"evaluate digits {task} at 0.5" in text
    assert "done in" in text
    assert "Top-1 accuracy" in text
    plain = re.sub(r"\x1b\[[?\d;]*\w", "", text)
    rule, head = (next(line for line in plain.splitlines() if mark in line) for mark in ("-+-", "=0.5"))
    assert [k for k, c in enumerate(rule) if c == "+"] == [k for k, c in enumerate(head) if c == "|"]


def test_a_full_disk_under_stdout_ends_no_run_and_is_said(one_missing, capsys):
    with open("/dev/full", "w") as file:
        assert one_missing(file) == (2, True)
    assert capsys.readouterr().err == "rossbench: stdout: expected a place to write to, got No space left on device\n"


def test_a_reader_that_goes_away_or_none_ends_no_run(one_missing, capsys):
    end, start = os.pipe()
    os.close(end)
    with open(start, "w") as file:
        assert one_missing(file) == (0, True)
    assert one_missing(None) == (0, True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_backend_that_is_not_there_stops_neither_a_figure_nor_a_run(backend):
    code = "from rossbench import stages; import matplotlib"  # as all do that need it or torchmetrics
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": backend})


def test_no_more_than_one_sign_of_life_in_ten_seconds():
    output = Console(file=io.StringIO(), width=80)
    with display.showing(output) as observe:
        for _ in range(100):
            observe(progress(TICK))
        observe(progress(None))
    assert len(output.file.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (59.4, "59.4s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (1e5, "27h46m")],
)
def test_durations(seconds, text):
    assert display._duration(seconds) == text
