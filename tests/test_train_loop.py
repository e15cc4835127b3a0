import dataclasses
import itertools
import math
import os
import signal

import pytest
import torch

from rossbench import registry
from rossbench.config.recipes import Finetuning
from rossbench.stages.train_loop import Hooks, Loop, Step, adam, sgd
from rossbench.util.errors import AttackError, Diverged, OutOfMemory
from rossbench.util.signals import Interrupted, listening

SPEC = dataclasses.replace(registry.get("digits").cells[0, 0, 0].finetune, recipe=Finetuning(epochs=4, batch_size=4))


def loop(model, seen, *, loss=lambda calls: 1.0, extremes=lambda calls: torch.tensor([0.0, 0.0, 1.0]), **changes):
    """Moves one weight by the numbers of the images it sees, so that their order shows."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1)

    def step(indices):
        seed = torch.randint(2**40, ()).item()
        seen.append((indices.tolist(), seed))
        optimizer.zero_grad()
        (model.weight * (indices + seed % 7).sum()).sum().backward()
        optimizer.step()
        return Step(torch.tensor([loss(len(seen)) * len(indices), 1.0, 2.0]), len(indices), extremes(len(seen)))

    parts = {
        "spec": SPEC,
        "samples": (torch.arange(10),),
        "drop_last": False,
        "rate": lambda epoch: 0.1 / (epoch + 1),
        "optimizer": optimizer,
        "parts": {"model": model},
        "step": step,
    }
    return Loop(**{**parts, **changes})


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(1, 1, bias=False)


def without_times(history):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in history]


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own():
    seen = []
    loop(model(), seen).run(Hooks())
    epochs = [[i for batch, _ in seen[k : k + 3] for i in batch] for k in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({seed for _, seed in seen}) == 12


def test_an_incomplete_batch_is_dropped_on_request():
    seen = []
    loop(model(), seen, drop_last=True).run(Hooks())
    assert [len(batch) for batch, _ in seen] == [4, 4] * 4


def test_fewer_images_than_a_batch_are_one_batch():
    seen = []
    loop(model(), seen, samples=(torch.arange(3),), drop_last=True).run(Hooks())
    assert [len(batch) for batch, _ in seen] == [3] * 4


def test_history_holds_means_over_samples_and_the_rate():
    history = loop(model(), []).run(Hooks())
    assert without_times(history)[1] == {
        "epoch": 2,
        "loss": 1.0,
        "top1": pytest.approx(0.3),
        "top5": pytest.approx(0.6),
        "learning_rate": 0.05,
    }


def test_ticks_go_from_0_to_1_and_count_images():
    ticks = []
    loop(model(), []).run(Hooks(tick=ticks.append))
    fractions = [tick.fraction for tick in ticks]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert sum(tick.images for tick in ticks) == 40
    assert ticks[-1].position == "epoch 4/4"


class Killed(BaseException):
    """As abrupt as a signal: nothing in the package catches it."""


def killing(at, ticks):
    """A listener that keeps the ticks and stops the training at one of them."""

    def tick(one):
        ticks.append(one)
        if len(ticks) == at:
            raise Killed

    return tick


def told(ticks):
    return [entry for tick in ticks for entry in tick.history]


def test_ticks_tell_of_every_epoch_once_when_it_has_ended():
    ticks = []
    history = loop(model(), []).run(Hooks(tick=ticks.append))
    assert told(ticks) == history
    assert [(tick.position, tick.history[0]["epoch"]) for tick in ticks if tick.history] == [
        ("epoch 1/4", 1),
        ("epoch 2/4", 2),
        ("epoch 3/4", 3),
        ("epoch 4/4", 4),
    ]


@pytest.mark.parametrize("killed_at", [1, 3, 4, 5, 7, 11, 12, 15, 16])
def test_a_resumed_run_is_the_uninterrupted_one_and_first_tells_of_every_earlier_epoch(tmp_path, killed_at):
    """An epoch has three batches, and so four ticks, the last when it is saved."""
    whole, resumed, finished = model(), model(), killed_at // 4
    expected = loop(whole, []).run(Hooks())
    before, after, seen = [], [], []
    with pytest.raises(Killed):
        loop(model(), []).run(Hooks(killing(killed_at, before), tmp_path / "resume.pt"))
    history = loop(resumed, seen).run(Hooks(after.append, tmp_path / "resume.pt"))
    assert without_times(history) == without_times(expected)
    assert torch.equal(resumed.weight, whole.weight)
    assert len(seen) == 12 - 3 * finished  # only the epochs that were not finished
    assert told(after) == history
    assert [tick.resumed for tick in after] == [bool(finished), *[False] * (len(after) - 1)]
    if finished:
        assert after[0].history == tuple(history[:finished])
        assert after[0].position == f"resumed after epoch {finished}/4"
    assert told(before) == history[:finished]


@pytest.mark.parametrize("stopped_at", range(1, 17))
def test_an_interrupted_training_repeats_no_step(tmp_path, stopped_at):
    """A signal is felt in a tick, between two steps; an epoch has three batches, and a tick more at its end."""
    whole, seen, ticks = model(), [], []
    expected = loop(whole, []).run(Hooks())

    def tick(one):
        ticks.append(one)
        if len(ticks) == stopped_at:
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        loop(model(), seen).run(Hooks(tick, tmp_path / "resume.pt"))
    resumed, after = model(), []
    history = loop(resumed, seen).run(Hooks(after.append, tmp_path / "resume.pt"))
    assert without_times(history) == without_times(expected)
    assert torch.equal(resumed.weight, whole.weight)
    assert len(seen) == 12
    epochs, batches = divmod(stopped_at, 4)
    if batches:
        assert after[0].position == f"resumed after epoch {epochs}/4, batch {batches}"
    assert after[0].resumed


def test_a_signal_in_a_step_is_felt_after_it(tmp_path):
    seen = []

    def extremes(calls):
        if calls == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.tensor([0.0, 0.0, 1.0])

    with pytest.raises(Interrupted), listening():
        loop(model(), seen, extremes=extremes).run(Hooks(resume=tmp_path / "resume.pt"))
    assert len(seen) == 5
    loop(model(), seen).run(Hooks(resume=tmp_path / "resume.pt"))
    assert len(seen) == 12


@pytest.mark.parametrize(("fits", "told"), [(3, "2 fit"), (2, "2 fit"), (1, "nor do 2 fit")])
def test_a_step_that_does_not_fit_says_which_would(fits, told):
    real = loop(model(), [])

    def step(indices):
        if len(indices) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real.step(indices)

    with pytest.raises(
        OutOfMemory, match="expected 4 images a batch to fit the memory of cpu, got out of memory"
    ) as raised:
        dataclasses.replace(real, step=step).run(Hooks())
    assert f"{told} (finetuning.batch_size; another size is another protocol)" in str(raised.value)


def test_a_loss_that_is_not_finite_stops_with_the_epoch_and_the_last_finite_one(tmp_path):
    with pytest.raises(Diverged, match=r"got nan in epoch 3 \(last finite loss: 1\); lower the learning rate, 0\.0333"):
        loop(model(), [], loss=lambda calls: math.nan if calls > 6 else 1.0).run(Hooks(resume=tmp_path / "resume.pt"))
    assert len(torch.load(tmp_path / "resume.pt", weights_only=True)["history"]) == 2


@pytest.mark.parametrize(
    ("worst", "message"),
    [
        ([0.1, 0.0, 1.0], "expected L2 distances of at most epsilon, got one that is 0.1 more"),
        ([0.0, 0.2, 1.0], r"expected pixels in \[0, 1\]"),
        ([math.nan, 0.0, 1.0], "expected finite gradients"),
    ],
)
@pytest.mark.parametrize("call", [7, 9])
def test_an_attack_out_of_bounds_in_any_batch_stops_its_epoch(tmp_path, call, worst, message):
    def extremes(calls):
        return torch.tensor(worst if calls == call else [0.0, 0.0, 1.0])

    with pytest.raises(AttackError, match=message):
        loop(model(), [], extremes=extremes).run(Hooks(resume=tmp_path / "resume.pt"))
    assert len(torch.load(tmp_path / "resume.pt", weights_only=True)["history"]) == 2


def test_a_training_that_diverged_is_not_blamed_on_its_attack():
    broken = {"loss": lambda calls: math.nan, "extremes": lambda calls: torch.full((3,), math.nan)}
    with pytest.raises(Diverged):
        loop(model(), [], **broken).run(Hooks())


def test_the_global_generator_is_afterwards_as_before():
    before = torch.get_rng_state()
    loop(model(), []).run(Hooks())
    assert torch.equal(torch.get_rng_state(), before)


def test_adam_follows_the_rate_of_the_epoch():
    one, recipe = model(), Finetuning(epochs=4, batch_size=4, weight_decay=0)
    optimizer, weights = adam(one, recipe), []
    (group,) = optimizer.param_groups
    assert (group["fused"], group["capturable"], group["lr"]) == (True, False, recipe.learning_rate)

    def step(indices):
        one.weight.grad = torch.ones_like(one.weight)
        optimizer.step()
        weights.append(one.weight.item())
        return Step(torch.ones(3), len(indices), torch.zeros(3))

    samples = (torch.arange(4),)
    loop(one, [], optimizer=optimizer, step=step, samples=samples, rate=lambda epoch: 0.1 / 2**epoch).run(Hooks())
    steps = [a - b for a, b in itertools.pairwise(weights)]
    assert steps == pytest.approx([0.05, 0.025, 0.0125], rel=1e-5)  # of equal gradients Adam's step is the rate


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"momentum": 0.0, "weight_decay": 0.1}, {"weight_decay": 0.0}])
def test_sgd_is_torchs_and_follows_the_rate_of_the_epoch(settings):
    recipe = Finetuning(epochs=4, batch_size=4, learning_rate=0.5, **settings)
    one, other = model(), model()
    ours = sgd(one, recipe)
    theirs = torch.optim.SGD(other.parameters(), 0.5, recipe.momentum, weight_decay=recipe.weight_decay, foreach=False)

    def step(indices):
        for layer, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            (layer.weight.square() * (indices + 1).sum() / 20).sum().backward()
            theirs.param_groups[0]["lr"] = ours.param_groups[0]["lr"]
            optimizer.step()
        assert one.weight.item() == pytest.approx(other.weight.item(), rel=1e-5, abs=1e-7)
        return Step(torch.ones(3), len(indices), torch.zeros(3))

    start = one.weight.item()
    history = loop(one, [], optimizer=ours, step=step).run(Hooks())
    assert ours.param_groups[0]["lr"] == history[-1]["learning_rate"] == 0.025
    assert one.weight.item() != start
