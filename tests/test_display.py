import dataclasses
import io

import pytest
import torch
from rich.console import Console

from rossbench import registry
from rossbench.runner import display
from rossbench.runner.progress import Progress
from rossbench.stages.train_loop import Tick

SPEC = registry.get("digits").cells[1.0, 1.0, 0.0].finetune.pretrain
TICK = Tick(0.35, "epoch 4/10", 64, torch.tensor(4.3119))


def progress(tick, seconds_left=83.0):
    return Progress(SPEC, 3, 21, tick, 12.34, 4120.4, 0.4, seconds_left)


def shown(monkeypatch, steps, **console):
    """What appears when every step is let through, on a console of 80 columns."""
    for name in ("LIVE_EVERY", "PLAIN_EVERY"):
        monkeypatch.setattr(display, name, 0)
    output = Console(file=io.StringIO(), width=80, **console)
    with display.showing(output) as observe:
        for step in steps:
            observe(step)
    return output.file.getvalue()


def test_plain_lines(monkeypatch):
    text = shown(monkeypatch, [progress(TICK), progress(None)])
    assert text.splitlines() == [
        "[ 3/21] pretrain digits ε=1  epoch 4/10  loss 4.312  4,120 images/s  1m23s left",
        "[ 3/21] pretrain digits ε=1  done in 12.3s",
    ]


def test_what_is_made_together_is_counted(monkeypatch):
    text = shown(monkeypatch, [dataclasses.replace(progress(TICK), others=4)])
    assert text.startswith("[ 3/21] pretrain digits ε=1 and 4 more  epoch 4/10")


def test_a_terminal_keeps_the_finished_lines_and_shows_the_current_one(monkeypatch):
    text = shown(monkeypatch, [progress(TICK), progress(None)], force_terminal=True, color_system=None)
    for part in ("epoch 4/10", "loss 4.312", "4,120 images/s", "1m23s left", "done in 12.3s"):
        assert part in text


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


def test_nothing_is_known_of_the_time_left_at_first(monkeypatch):
    assert "left" not in shown(monkeypatch, [progress(TICK, None)])
