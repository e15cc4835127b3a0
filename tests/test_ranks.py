"""One pretraining on several processes, against the same on one. Gloo, on the CPU, with a thread each.

Attacks and Adam's first steps make much of little: two ways to round a sum are far apart after a few steps. What is
compared after some is therefore computed in double precision, where nothing but rounding may differ.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import tiny
from lightly.loss import NTXentLoss

from rossbench.config.recipes import Attack
from rossbench.data import datasets
from rossbench.models import simclr
from rossbench.models.encoders import BatchNorm2d, synchronised
from rossbench.models.simclr import SimCLR
from rossbench.runner import run as runner
from rossbench.stages import pretrain
from rossbench.stages.augment import two_views
from rossbench.stages.train_loop import Hooks
from rossbench.store.store import read_json
from rossbench.util import distributed
from rossbench.util.errors import InvalidValue, RankError
from rossbench.util.signals import Interrupted, listening

ROOT = Path(__file__).parent.parent
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rossbench.stages.pretrain", "sklearn.datasets", "torch.nn.parallel"])


def on_ranks(size, folder, job, *arguments, codes=None):
    """What a job gives on each of several ranks; None if they are to end with other exit codes than 0."""
    if size == 1:
        return [job(*arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        started.append(PROCESSES.Process(target=work, args=(rank, size, port, folder / f"{rank}.pt", job, arguments)))
        started[-1].start()
    for process in started:
        process.join(40)
        process.kill()
    assert [process.exitcode for process in started] == (codes or [0] * size)
    return None if codes else [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def work(rank, size, port, path, job, arguments):
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    try:
        with distributed.together() as leads:
            for _ in [None] if leads else distributed.called():
                with distributed.joined():
                    found = job(*arguments)
    except RankError as error:
        path.with_suffix(".txt").write_text(str(error))
        raise
    torch.save(found, path)


def spec(epsilon, **changes):
    one = tiny(train_epsilons=(epsilon,)).cells[epsilon, epsilon, 0].finetune.pretrain
    return dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, **changes))


def train(one, double=True, resume=None, stop_at=None):
    """Losses of the epochs, adversarial views of the steps, weights and statistics; in double precision on request.

    ``stop_at``: after so many steps a signal comes, to the last rank alone.
    """
    steps, ticks, real = [], [], simclr.adversarial_views

    def recorded(*given):
        steps.append(real(*given))
        return steps[-1]

    def tick(news):
        ticks.append(news)
        if len(ticks) == stop_at and distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    hooks = Hooks(tick, resume if distributed.rank() == 0 else None)
    patches = [mock.patch.object(pretrain, "adversarial_views", recorded)]
    if double:
        build = pretrain.build_simclr
        patches += [
            mock.patch.object(pretrain, "build_simclr", lambda spec: build(spec).double()),
            mock.patch.object(pretrain, "two_views", lambda *given: two_views(*given).double()),
            mock.patch.object(SimCLR, "project", lambda self, views: self.head(self.encoder(views))),
        ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(listening())
        try:
            model, history = pretrain.pretrain(one, datasets.load("digits", "train", 60).images, hooks)
        except Interrupted as signalled:
            return {"interrupted": signalled.number, "steps": len(steps)}
    found = {"losses": torch.tensor([[entry[name] for name in ("loss", "top1", "top5")] for entry in history])}
    views = torch.stack([views for views, _ in steps])
    return {**found, "views": views, "state": dict(model.state_dict()), "ranks": list(hooks.ranks)}


def close(found, expected, within=1e-4):
    torch.testing.assert_close(found, expected, atol=within, rtol=0)


@pytest.mark.parametrize(("size", "epsilon"), [(2, 0.0), (2, 1.0), (3, 1.0)])
def test_several_ranks_are_one_process(tmp_path, size, epsilon):
    """20 steps of one global batch each: loss, adversarial views, weights, BatchNorm's statistics on every rank."""
    one = spec(epsilon, epochs=20, batch_size=60, projection_batch_norm=size == 3)
    (whole,), parts = (on_ranks(count, tmp_path, train, one) for count in (1, size))
    together = [part["views"].unflatten(1, (2, -1)) for part in parts]
    close(torch.cat(together, 2).flatten(1, 2), whole["views"])
    for part in parts:
        assert part["ranks"] == [size]
        assert len(part["losses"]) == 20
        close(part["losses"], whole["losses"])
        close(part["state"], whole["state"])


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_several_ranks_are_one_process_in_single_precision(tmp_path, norm):
    """As they are run: the first two steps, and without an attack, at the study's learning rate, 20."""
    attack = Attack(norm=norm, steps=3, step_size=1.0 if norm == "L2" else 0.01)
    plain = spec(0.0, epochs=20, batch_size=60, learning_rate=2e-4)
    attacked = spec(1.0 if norm == "L2" else 0.03, epochs=1, batch_size=60, attack=attack)
    for one in (plain, attacked) if norm == "L2" else (attacked,):
        (whole,), (part, _) = (on_ranks(count, tmp_path, train, one, False) for count in (1, 2))
        close(part["losses"][:, 0], whole["losses"][:, 0])
        close(part["views"][0], whole["views"][0].unflatten(0, (2, -1))[:, :30].flatten(0, 1), 1e-4)


def test_batchnorm_per_rank_is_another_training_and_leaves_one_model(tmp_path):
    one = spec(1.0, epochs=3, batch_size=60)
    alone = spec(1.0, epochs=3, batch_size=60, batch_norm="per-rank")
    assert alone.key != one.key
    (whole,), (same,) = (on_ranks(1, tmp_path, train, spec) for spec in (one, alone))
    close(same, whole, 0)
    first, second = on_ranks(2, tmp_path, train, alone)
    close(first["losses"], second["losses"], 0)
    close(first["state"], second["state"], 0)
    assert (first["losses"] - whole["losses"]).abs()[:, 0].min() > 1e-3


def losses_and_gradients():
    projections = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    mine = distributed.share(12)
    found = []
    for ours in (True, False):
        own = projections.view(2, 12, 8)[:, mine].flatten(0, 1).requires_grad_()
        if ours:
            loss = torch.nn.functional.cross_entropy(
                simclr.similarities(own, 0.3), simclr.partners(len(own), own.device)
            )
        else:
            loss = NTXentLoss(0.3, gather_distributed=distributed.size() > 1)(*own.chunk(2))
        found += [loss.detach(), *torch.autograd.grad(loss, own)]
    return found


def test_the_gathered_loss_is_lightlys_and_that_of_one_process(tmp_path):
    (whole,), parts = (on_ranks(size, tmp_path, losses_and_gradients) for size in (1, 2))
    for loss, gradient, theirs, their_gradient in parts:
        close(loss, theirs, 1e-6)
        close(gradient, their_gradient, 1e-6)
    close((parts[0][0] + parts[1][0]) / 2, whole[0], 1e-6)
    gradients = [part[1].unflatten(0, (2, -1)) for part in parts]
    close(torch.cat(gradients, 1).flatten(0, 1) / 2, whole[1], 1e-6)  # of the sum of two losses, each a mean


def test_interrupted_on_two_ranks_and_resumed_on_one(tmp_path):
    """A signal to one of them stops both after the same step."""
    one, resume = spec(1.0, epochs=4), tmp_path / "resume.pt"
    (whole,) = on_ranks(1, tmp_path, train, one)
    stopped = on_ranks(2, tmp_path, train, one, True, resume, 6)
    assert stopped == [{"interrupted": signal.SIGTERM, "steps": 6}] * 2
    (rest,) = on_ranks(1, tmp_path, train, one, True, resume)
    assert rest["ranks"] == [2, 1]
    assert len(rest["views"]) == 6
    close(rest["losses"], whole["losses"])
    close(rest["state"], whole["state"])


def test_interrupted_on_one_process_and_resumed_on_two_ranks(tmp_path):
    one, resume = spec(0.0, epochs=4), tmp_path / "resume.pt"
    whole, stopped = train(one), train(one, resume=resume, stop_at=2)
    assert stopped["steps"] == 2
    first, second = on_ranks(2, tmp_path, train, one, True, resume)
    assert first["ranks"] == second["ranks"] == [1, 2]
    close(first["losses"], whole["losses"])
    close(second["state"], whole["state"])


def test_an_encoder_whose_batchnorm_is_not_known_is_refused():
    class Own(BatchNorm2d):
        pass

    with (
        pytest.raises(InvalidValue, match=r"batch_norm: expected per-rank for an encoder with Own"),
        synchronised(torch.nn.Sequential(Own(3))),
    ):
        pass


def test_without_torchruns_environment_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.environment() == (0, 1, 0)
    with distributed.together() as leads, distributed.joined({}):
        assert (leads, distributed.rank(), distributed.size(), distributed.share(7)) == (True, 0, 1, slice(0, 7))


def test_a_batch_that_cannot_be_split_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_company", distributed._Company(0, 3, 0, None))
    with pytest.raises(InvalidValue, match="expected a number of images a batch that 3 ranks share equally, got 20"):
        runner.run(tiny(), store=tmp_path, device="cpu")
    assert not (tmp_path / "pretrain").exists()


def die():
    if distributed.rank() == 1:
        os._exit(3)
    distributed.gathered(torch.zeros(1))


def test_a_rank_that_dies_ends_the_others(tmp_path):
    assert on_ranks(2, tmp_path, die, codes=[1, 3]) is None
    assert "expected 2 ranks to the end, rank 0 lost another" in (tmp_path / "0.txt").read_text()


SMALL = [
    "--train-eps=0.5",
    "--eval-eps=0,0.5",
    "--epochs=2",
    "--finetune-epochs=1",
    "--train-limit=100",
    "--test-limit=40",
]


def torchrun(folder, *arguments):
    """Exit code, and each rank's stdout and stderr."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--redirects", "3", "--log-dir", str(folder / "logs"), "-m", "rossbench"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *arguments], cwd=folder, env=environment, capture_output=True, timeout=100)
    logs = {path.parent.name: path.parent for path in folder.glob("logs/*/attempt_0/*/stdout.log")}
    return done.returncode, [
        [(logs[rank] / f"{name}.log").read_text() for name in ("stdout", "stderr")] for rank in "01"
    ]


def test_a_run_under_torchrun(tmp_path):
    code, (first, second) = torchrun(tmp_path, "run", "digits", *SMALL, "--device", "cpu", "--out", "store")
    assert (code, first[1], second) == (0, "", ["", ""])
    assert "Stored in store" in first[0]
    (stage,) = (tmp_path / "store" / "pretrain").glob("*/stage.json")
    assert read_json(stage)["provenance"]["ranks"] == [2]
    for record in (tmp_path / "store" / "evaluate").glob("*/record.json"):
        stages = json.loads(record.read_text())["provenance"]
        assert [name for name, made in stages.items() if "ranks" in made] == ["pretrain"]


DIVERGING = """
from dataclasses import replace
from rossbench import get, register
one = get("digits")
pretraining = replace(one.recipe.pretraining, learning_rate=1e30, batch_size=20)
register(replace(one, name="diverging", recipe=replace(one.recipe, pretraining=pretraining)))
"""


def test_what_fails_on_all_ranks_is_said_once(tmp_path):
    (tmp_path / "own.py").write_text(DIVERGING)
    code, (first, second) = torchrun(
        tmp_path, "run", "diverging", *SMALL, "--scenario-file", "own.py", "--device", "cpu"
    )
    assert code == 1  # torchrun's own
    assert len(first[1].splitlines()) == 1
    assert "expected a finite loss" in first[1]
    assert second == ["", ""]
