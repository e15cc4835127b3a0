"""Costs before anything is built, beside what is counted, stored and timed when it is."""

import contextlib
import copy
import dataclasses
import json
import re
import shutil
import time

import pytest
import torch
from conftest import tiny
from torch.utils.flop_counter import FlopCounterMode

from rossbench import registry
from rossbench.cli.costs import duration, scaled
from rossbench.config.recipes import FIELD_FULL, FIELD_LINEAR, Attack
from rossbench.config.scenarios import specs_of
from rossbench.data import datasets
from rossbench.models import encoders
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import build
from rossbench.runner import cost
from rossbench.runner import run as runner
from rossbench.runner.cost import Calibration, Counter
from rossbench.stages.context import split_of
from rossbench.stages.evaluate import evaluate
from rossbench.stages.finetune import finetune
from rossbench.stages.pretrain import pretrain
from rossbench.stages.train_loop import Hooks
from rossbench.store.store import Store

STAGES = ["pretrain", "finetune", "evaluate"]
CPU = torch.device("cpu")


class NoModules(contextlib.nullcontext):
    """In place of the counter's account by module, whose hooks torch.autograd.grad does not take."""

    parents = frozenset({"Global"})


def counted(spec):
    """FLOPs of the same work as the runner's, on random weights."""
    data = datasets.load(*split_of(spec))
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        if spec.stage == "pretrain":
            pretrain(spec, data.images, Hooks())
        elif spec.stage == "finetune":
            encoder, classes = build(spec.pretrain).encoder.eval(), datasets.facts(spec.target).classes
            finetune(spec, encoder, data.images, data.labels, classes, Hooks())
        else:
            classes = datasets.facts(spec.finetune.target).classes
            classifier = Classifier(build(spec.finetune.pretrain).encoder, classes)
            evaluate([spec], classifier, data.images, data.labels, Hooks())
    return counter.get_total_flops()


def full(scenario):
    """With its encoder finetuned too."""
    finetuning = dataclasses.replace(scenario.recipe.finetuning, trained="full")
    return dataclasses.replace(scenario, recipe=dataclasses.replace(scenario.recipe, finetuning=finetuning))


@pytest.mark.parametrize("encoder", ["conv3", "resnet10t"])
@pytest.mark.parametrize("epsilon", [0, 1])
def test_flops_are_those_of_the_real_stages_within_some_percent(encoder, epsilon):
    """Steps, attacks in each stage and evaluations: a pass to input and weights is two, and no more is left out."""
    specs = list(specs_of([tiny(encoder=encoder, train_epsilons=(epsilon,), eval_epsilons=(epsilon,))]))
    specs += [spec for spec in specs_of([full(tiny(encoder=encoder, train_epsilons=(0,)))]) if spec.stage == "finetune"]
    assert [spec.stage for spec in specs] == [*STAGES, "finetune"]
    for spec in specs:
        assert Counter().flops(spec) == pytest.approx(counted(spec), rel=0.06), spec


@pytest.mark.parametrize(("recipe", "epsilon"), [(FIELD_LINEAR, 0), (FIELD_LINEAR, 0.1), (FIELD_FULL, 0.1)])
def test_flops_of_the_fields_finetunings_are_those_of_the_real_ones(recipe, epsilon):
    """Of an image that moves in every epoch, and of TRADES' passes."""
    spec = next(spec for spec in specs_of([tiny()]) if spec.stage == "finetune")
    spec = dataclasses.replace(spec, epsilon=epsilon, recipe=dataclasses.replace(recipe, epochs=2, batch_size=20))
    assert Counter().flops(spec) == pytest.approx(counted(spec), rel=0.06)


def test_an_evaluation_is_counted_by_its_attacks_passes():
    """Those of PGD's steps, and one of the prediction, of 40 images."""
    spec = next(spec for spec in specs_of([tiny()]) if spec.stage == "evaluate" and spec.epsilon)
    stronger = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, attack=Attack(steps=40, step_size=1)))
    counter = Counter()
    assert counter.flops(spec) == 41 * counter.forward(spec.finetune) * 40
    assert counter.flops(stronger) == 81 * counter.forward(spec.finetune) * 40


def test_bytes_are_those_of_the_store(finished, tmp_path):
    store, counter = Store(finished), Counter()
    for spec in specs_of([tiny()]):
        there = sum(path.stat().st_size for path in store.path(spec).iterdir())
        assert counter.bytes(spec) == pytest.approx(there, rel=0.1, abs=1500), spec
    linear, whole = (next(one for one in specs_of([s]) if one.stage == "finetune") for s in (tiny(), full(tiny())))
    assert counter.bytes(whole) > 10 * counter.bytes(linear)
    spec = next(specs_of([tiny()]))
    pretrain(spec, datasets.load("digits", "train", 60).images, Hooks(resume=tmp_path / "state.pt"))
    assert counter.state_bytes(spec) == pytest.approx((tmp_path / "state.pt").stat().st_size, rel=0.05)
    tuned = dataclasses.replace(whole, epsilon=0, recipe=dataclasses.replace(FIELD_FULL, epochs=1, batch_size=60))
    data = datasets.load("digits", "train", 60)
    encoder = counter.encoder(tuned.pretrain)
    finetune(tuned, copy.deepcopy(encoder), data.images, data.labels, 10, Hooks(resume=tmp_path / "tuned.pt"))
    assert counter.state_bytes(tuned) == pytest.approx((tmp_path / "tuned.pt").stat().st_size, rel=0.05)


def test_what_the_store_lacks_is_what_a_run_would_make(finished, tmp_path):
    """A head whose encoder is gone is to be made again, too."""
    store = Store(shutil.copytree(finished, tmp_path / "store"))
    cells = list(tiny().cells.values())
    assert store.missing(cells) == []
    store.discard(cells[-1])
    assert store.missing(cells) == [cells[-1]]
    store.discard(cells[-1].finetune.pretrain)
    assert store.missing(cells) == list(cells[-1].chain)


def rows(out):
    return re.findall(r"^ (\w+) +│ +(\d+) │ +([^│]*?) │ +([^│]*?)(?: │ +([^│]*?))? *$", out, re.MULTILINE)


def test_show_tells_what_all_costs_and_what_is_lacking(rossbench, tmp_path):
    code, out, err = rossbench("show", "digits", "--cost", "--rate", "1e9", "--out", "none")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    found = rows(out)
    assert [row[0] for row in found] == 2 * [*STAGES, "all"]
    assert found[:4] == found[4:]  # the store is empty
    assert found[3][1:3] == ("21", "1.55 T")
    assert found[3][4] == "25.8 min"  # 1.55e12 at 1e9 a second
    assert "conv3 and its projection head: 1.95 MFLOP" in out
    assert list(tmp_path.iterdir()) == []


def test_without_a_rate_no_time_is_told(rossbench):
    code, out, _ = rossbench("show", "ross2022", "--cost")
    assert code == 0
    assert "time" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert [row[1] for row in rows(out)[:4]] == ["12", "28", "168", "208"]


def test_what_is_there_costs_nothing_more(rossbench, finished):
    registry.register(dataclasses.replace(tiny(), name="small"))
    code, out, _ = rossbench("show", "small", "--cost", "--rate", "1e9", "--out", finished)
    assert code == 0
    found = rows(out)
    assert [row[1] for row in found] == ["2", "2", "4", "8", *"0000"]
    assert {row[2:] for row in found[4:]} == {("0", "0 B", "0 s")}


@pytest.fixture
def briefly(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.05)


def test_a_given_encoder_costs_its_bytes_and_no_pretraining(briefly):
    one = tiny(weights="0" * 16, train_epsilons=(0,), finetune_epsilons=(0, 1))
    specs = list(specs_of([one]))
    counter = Counter({one.weights: (encoder := encoders.build("conv3", 16, seed=0))})
    calibration = Calibration(specs, counter, CPU)
    first, *heads = (spec for spec in specs if spec.stage != "evaluate")
    assert (counter.flops(first), calibration.seconds(first)) == (0, 0)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in encoder.state_dict().values())
    assert weights < counter.bytes(first) < weights + 5000
    assert all(calibration.seconds(head) > 0 for head in heads)


def test_a_calibration_knows_every_kind_of_work(briefly):
    specs = list(specs_of([tiny(), tiny("digits-low-to-high"), full(tiny())]))
    calibration = Calibration(specs, Counter(), CPU)
    assert all(calibration.seconds(spec) > 0 for spec in specs)


@pytest.mark.slow
def test_a_calibrated_estimate_is_near_what_a_run_takes(tmp_path):
    """Within a factor of 2, stage by stage; 10 seconds and as long as the run."""
    scenario = tiny(train_limit=None, test_limit=None)
    specs = list(specs_of([scenario]))
    calibration = Calibration(specs, Counter(), CPU)
    expected = {stage: sum(calibration.seconds(one) for one in specs if one.stage == stage) for stage in STAGES}
    began = time.perf_counter()
    runner.run(scenario, store=tmp_path, device="cpu")
    taken = time.perf_counter() - began
    assert 0.5 < sum(expected.values()) / taken < 2
    for stage in STAGES[:2]:
        notes = [json.loads((path / "stage.json").read_text()) for path in (tmp_path / stage).iterdir()]
        assert 0.5 < expected[stage] / sum(note["seconds"] for note in notes) < 2


@pytest.mark.parametrize(
    ("say", "number", "said"),
    [
        *((scaled, *case) for case in [(0, "0 "), (999, "999 "), (999.6, "1 k"), (1.2345e13, "12.3 T")]),
        (scaled, 5e20, "500 E"),
        *((duration, *case) for case in [(0.0, "0 s"), (45.04, "45 s"), (100, "1.67 min"), (7200, "2.0 h")]),
        (duration, 3.6e7, "10,000 h"),
    ],
)
def test_numbers_and_durations_are_told_in_their_unit(say, number, said):
    assert say(number) == said
