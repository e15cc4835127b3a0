"""What needs a GPU is skipped by name without one; the same code, not replayed, is tested everywhere else."""

import dataclasses

import pytest
import torch
from conftest import tiny

from rossbench.config.recipes import FIELD_FULL, Finetuning
from rossbench.data import datasets
from rossbench.models.simclr import build
from rossbench.stages import train_loop
from rossbench.stages.finetune import finetune
from rossbench.stages.pretrain import pretrain
from rossbench.stages.train_loop import Hooks
from rossbench.util.cuda_graph import WARM_UP, Replayed
from rossbench.util.seeds import seeded

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
RECIPE = Finetuning(learning_rate=0.01, weight_decay=0.1)


def test_off_cuda_every_call_is_the_step():
    seen = []
    step = Replayed(lambda indices: seen.append(indices) or len(indices))
    assert [step(torch.arange(n)) for n in (3, 3, 3, 3, 3, 2)] == [3, 3, 3, 3, 3, 2]
    assert len(seen) == 6
    assert step.graph is None


STAGES = [(stage, epsilon, 0) for stage in ("pretrain", "finetune", "field-aff") for epsilon in (0.0, 1.0)]
STAGES.append(("pretrain", 1.0, 2))


@pytest.mark.parametrize(("stage", "epsilon", "warmup"), STAGES)
def test_a_stages_step_waits_for_nothing(monkeypatch, no_waiting, stage, epsilon, warmup):
    """What is recorded on CUDA, optimizer and counts included, seen on the CPU."""
    steps = []

    def watched(step):
        def call(*batch):
            steps.append(len(batch[0]))
            with no_waiting:
                return step(*batch)

        return call

    monkeypatch.setattr(train_loop, "Replayed", watched)
    histories(stage, epsilon, warmup, torch.device("cpu"))
    assert len(steps) > WARM_UP


def losses(wrap, sizes, optimizer_of):
    """Of a linear model with noise on CUDA, batch after batch; its rate changes on the way."""
    device = torch.device("cuda")
    with seeded(0, device):
        model, data = torch.nn.Linear(8, 1).to(device), torch.randn(64, 8, device=device)
    optimizer = optimizer_of(model, RECIPE)

    def step(indices):
        noise = torch.randn(len(indices), 1, device=device)
        loss = (model(data[indices]) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    wrapped, found = wrap(step), []
    for k, size in enumerate(sizes):
        train_loop._set_rate(optimizer, 0.01 / (1 + k))
        with seeded(k, device):
            found.append(wrapped(torch.arange(k, k + size, device=device)).clone())
    return torch.stack(found)


@needs_cuda
@pytest.mark.parametrize("sizes", [[16] * 9, [16, 16, 5, 16, 16, 16, 5, 16, 16]], ids=["one size", "two sizes"])
@pytest.mark.parametrize("optimizer_of", [train_loop.adam, train_loop.sgd])
def test_a_replayed_step_is_the_step_with_its_random_numbers_and_rate(sizes, optimizer_of):
    assert len(sizes) > WARM_UP + 3
    expected = losses(lambda step: step, sizes, optimizer_of)
    torch.testing.assert_close(losses(Replayed, sizes, optimizer_of), expected, atol=1e-5, rtol=1e-5)


@needs_cuda
def test_a_step_is_recorded_once_and_then_only_replayed():
    calls = []
    made = Replayed(lambda indices: calls.append(1) or indices * 2)
    found = [made(torch.arange(k, k + 4, device="cuda")).tolist() for k in range(WARM_UP + 4)]
    assert found == [[2 * (k + j) for j in range(4)] for k in range(WARM_UP + 4)]
    assert len(calls) == WARM_UP + 1


def histories(stage, epsilon, warmup, device):
    cell = tiny(train_epsilons=(epsilon,)).cells[epsilon, epsilon, 0]
    data = datasets.load("digits", "train", 60).to(device)
    if stage == "pretrain":
        spec = cell.finetune.pretrain
        spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, epochs=4, epsilon_warmup=warmup))
        return pretrain(spec, data.images, Hooks())[1]
    field_aff = dataclasses.replace(FIELD_FULL, learning_rate=1e-3)  # at the field's rate epsilon 1 diverges
    recipe = field_aff if stage == "field-aff" else cell.finetune.recipe
    spec = dataclasses.replace(cell.finetune, recipe=dataclasses.replace(recipe, epochs=4, batch_size=16))
    encoder = build(spec.pretrain).encoder.to(device)
    return finetune(spec, encoder, data.images, data.labels, 10, Hooks())[1]


def same(history, other):
    """But for the seconds, which are measured."""
    for mine, theirs in zip(history, other, strict=True):
        assert mine | {"seconds": 0} == pytest.approx(theirs | {"seconds": 0}, rel=1e-4)


@pytest.fixture
def deterministic(monkeypatch):
    """cuDNN may otherwise sum a weight's gradient in another order every time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@needs_cuda
@pytest.mark.parametrize(("stage", "epsilon", "warmup"), STAGES)
def test_a_stage_is_the_same_replayed(monkeypatch, deterministic, stage, epsilon, warmup):
    device = torch.device("cuda")
    replayed = histories(stage, epsilon, warmup, device)
    monkeypatch.setattr(train_loop, "Replayed", lambda step: step)
    same(replayed, histories(stage, epsilon, warmup, device))


@needs_cuda
def test_a_pretraining_resumed_on_cuda_is_the_uninterrupted_one(tmp_path, deterministic):
    class Killed(BaseException):
        pass

    def kill(tick):
        if tick.position == "epoch 2/4" and not tick.images:
            raise Killed

    cell = tiny(train_epsilons=(1,)).cells[1, 1, 0]
    spec = cell.finetune.pretrain
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, epochs=4))
    images = datasets.load("digits", "train", 60).images.cuda()
    whole = pretrain(spec, images, Hooks())[1]
    with pytest.raises(Killed):
        pretrain(spec, images, Hooks(kill, tmp_path / "resume.pt"))
    resumed = pretrain(spec, images, Hooks(resume=tmp_path / "resume.pt"))[1]
    same(resumed, whole)
