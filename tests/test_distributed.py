"""One pretraining on several processes, against the same on one. Gloo, on the CPU, with a thread each.

Attacks and Adam's first steps make much of little: two ways to round a sum are far apart after a few steps. What is
compared after some is therefore computed in double precision, where nothing but rounding may differ. torch has no
synchronised BatchNorm on the CPU, so encoders have none there, or each rank its own.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import refusal, tiny

import rossbench
from rossbench import Attack
from rossbench.data import datasets
from rossbench.models import encoders, simclr
from rossbench.stages import pretrain
from rossbench.stages.augment import two_views
from rossbench.stages.train_loop import Hooks
from rossbench.store.store import read_json
from rossbench.util import distributed, torchrun
from rossbench.util.errors import RankError
from rossbench.util.signals import Interrupted, listening

ROOT = Path(__file__).parent.parent
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rossbench.stages.pretrain", "sklearn.datasets", "torch.nn.parallel"])


def on_ranks(ranks, folder, job, *arguments, codes=None):
    """What a job gives on each of several ranks; None if they are to end with other exit codes than 0."""
    if ranks == 1:
        return [job(*arguments)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(ranks):
        started.append(PROCESSES.Process(target=work, args=(rank, ranks, port, folder / f"{rank}.pt", job, arguments)))
        started[-1].start()
    for process in started:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in started] == (codes or [0] * ranks)
    return None if codes else [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def work(rank, ranks, port, path, job, arguments):
    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    try:
        with distributed.process_group():
            for told in distributed.received() if rank else ["a spec"]:
                with distributed.on_all_ranks(told):
                    torch.save(job(*arguments), path)
                assert told == "a spec"
    except RankError as error:
        path.with_suffix(".txt").write_text(str(error))
        raise


PLAIN = "test_mambaout"  # has no BatchNorm


def spec(epsilon, encoder=PLAIN, **changes):
    one = tiny(train_epsilons=(epsilon,), encoder=encoder).cells[epsilon, epsilon, 0].finetune.pretrain
    return dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, **changes))


def train(one, double=True, resume=None, stop_at=None, device="cpu"):
    """Losses of the epochs, adversarial views of the steps, weights and statistics; in double precision on request.

    ``stop_at``: after so many steps a signal comes, to the last rank alone.
    """
    steps, ticks = [], []

    def recorded(*given):
        steps.append(simclr.adversarial_views(*given))
        return steps[-1]

    def tick(news):
        ticks.append(news)
        if len(ticks) == stop_at and distributed.rank() == distributed.world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    hooks = Hooks(tick, resume if distributed.rank() == 0 else None)
    if device == "cuda":
        torch.cuda.set_device(distributed.rank())
    images = datasets.load("digits", "train", 60).images.to(device)
    with pytest.MonkeyPatch.context() as patch, listening():
        patch.setattr(pretrain, "adversarial_views", recorded)
        if double:
            patch.setattr(pretrain, "build_simclr", lambda spec: simclr.build(spec).double())
            patch.setattr(pretrain, "two_views", lambda *given: two_views(*given).double())
            patch.setattr(simclr.SimCLR, "project", lambda self, views: self.head(self.encoder(views)))
        try:
            model, history = pretrain.pretrain(one, images, hooks)
        except Interrupted as signalled:
            return {"interrupted": signalled.number, "steps": len(steps)}
    found = {"losses": torch.tensor([[entry[name] for name in ("loss", "top1", "top5")] for entry in history])}
    views = torch.stack([views for views, _ in steps])
    return {**found, "views": views.cpu(), "state": dict(model.cpu().state_dict()), "ranks": list(hooks.ranks)}


def close(found, expected, within=1e-4):
    torch.testing.assert_close(found, expected, atol=within, rtol=0)


L2, LINF = (Attack(norm=norm, steps=3, step_size=size) for norm, size in (("L2", 1.0), ("Linf", 0.01)))
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize(
    ("ranks", "epsilon", "epochs", "attack", "double", "device"),
    [
        (2, 0.0, 20, L2, True, "cpu"),
        (3, 1.0, 20, L2, True, "cpu"),
        pytest.param(2, 1.0, 20, L2, True, "cuda", marks=two_gpus),
        (2, 0.0, 20, L2, False, "cpu"),
        (2, 1.0, 1, L2, False, "cpu"),
        (2, 0.03, 1, LINF, False, "cpu"),
    ],
)
def test_several_ranks_are_one_process(tmp_path, ranks, epsilon, epochs, attack, double, device):
    """Steps of one global batch each: losses, adversarial views, and weights on every rank; on GPUs with BatchNorm.

    In single precision: views of the first step, and without an attack losses at the study's learning rate.
    """
    encoder, rate = "conv3" if device == "cuda" else PLAIN, 2e-3 if double else 2e-4
    one = spec(epsilon, encoder, epochs=epochs, batch_size=60, attack=attack, learning_rate=rate)
    (whole,), parts = (on_ranks(count, tmp_path, train, one, double, None, None, device) for count in (1, ranks))
    compared = slice(None) if double else slice(1)
    if device == "cpu":  # on a GPU one process has its steps recorded
        together = torch.cat([part["views"].unflatten(1, (2, -1)) for part in parts], 2).flatten(1, 2)
        close(together[compared], whole["views"][compared])
    for part in parts:
        assert (part["ranks"], len(part["losses"])) == ([ranks], epochs)
        close(part["losses"][:, compared], whole["losses"][:, compared])
        if double:
            close(part["state"], whole["state"])


def test_several_ranks_warm_up_as_one_process(tmp_path):
    one = spec(1.0, epochs=4, batch_size=60, attack=L2, epsilon_warmup=2)
    (whole,), parts = (on_ranks(count, tmp_path, train, one) for count in (1, 2))
    for part in parts:
        close(part["losses"], whole["losses"])
        close(part["state"], whole["state"])


def test_synchronised_batchnorm_shares_the_model_and_needs_a_gpu():
    model = encoders.build("resnet18", 16, seed=0)
    assert "expected pretraining.batch_norm=per-rank on several CPU ranks" in refusal(encoders.synchronised, model)
    model = model.train().to("meta")
    whole, names = encoders.synchronised(model), model.state_dict(keep_vars=True)
    assert all(names[name] is tensor for name, tensor in whole.state_dict(keep_vars=True).items())
    kinds = [{type(part) for part in one.modules()} for one in (model, whole)]
    assert kinds[0] - kinds[1] == {encoders.BatchNorm2d}
    assert kinds[1] - kinds[0] == {torch.nn.SyncBatchNorm}


def test_batchnorm_per_rank_is_another_training_and_leaves_one_model(tmp_path):
    one, alone = (spec(1.0, "conv3", epochs=3, batch_size=60, batch_norm=b) for b in ("synchronised", "per-rank"))
    assert alone.key != one.key
    whole, same = train(one), train(alone)
    close(same, whole, 0)
    first, second = on_ranks(2, tmp_path, train, alone)
    close(first["losses"], second["losses"], 0)
    close(first["state"], second["state"], 0)
    assert (first["losses"] - whole["losses"]).abs()[:, 0].min() > 1e-3


@pytest.mark.parametrize(("before", "after", "epsilon"), [(2, 1, 1.0), (1, 2, 0.0)])
def test_interrupted_and_resumed_on_another_number_of_ranks(tmp_path, before, after, epsilon):
    """A signal to one of them stops all after the same step."""
    one, resume = spec(epsilon, epochs=4), tmp_path / "resume.pt"
    whole = train(one)
    stopped = on_ranks(before, tmp_path, train, one, True, resume, 6)
    steps = 6 if before == 2 else 5  # a process on its own stops at once, several after the next step
    assert stopped == [{"interrupted": signal.SIGTERM, "steps": steps}] * before
    for rest in on_ranks(after, tmp_path, train, one, True, resume):
        assert rest["ranks"] == [before, after]
        close(rest["losses"], whole["losses"])
        close(rest["state"], whole["state"])


def test_without_torchruns_environment_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert torchrun.place() == (0, 1, 0)
    assert torchrun.is_rank_zero()
    with distributed.process_group(), distributed.on_all_ranks():
        assert (distributed.rank(), distributed.world_size(), distributed.own_part(7)) == (0, 1, slice(0, 7))


def test_a_batch_that_cannot_be_split_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "_waiting_room", "connected")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    said = refusal(lambda: rossbench.run(tiny(), store=tmp_path, device="cpu"))
    assert "expected a number of images a batch that 3 ranks share equally, got 20" in said
    assert not (tmp_path / "pretrain").exists()


def die():
    if distributed.rank() == 1:
        os._exit(3)
    distributed.all_gather(torch.zeros(1))


def test_a_rank_that_dies_ends_the_others_and_rank_zero_says_so(tmp_path):
    on_ranks(3, tmp_path, die, codes=[1, 3, 0])
    assert "expected 3 ranks to the end, lost one" in (tmp_path / "0.txt").read_text()
    assert not (tmp_path / "2.txt").exists()


OWN = """
from dataclasses import replace
from rossbench import get, register
one = get("digits")
for name, rate in {"per-rank": 1e-3, "diverging": 1e30}.items():
    pretraining = replace(one.recipe.pretraining, learning_rate=rate, batch_size=20, batch_norm="per-rank")
    register(replace(one, name=name, recipe=replace(one.recipe, pretraining=pretraining)))
"""
SMALL = ["--train-eps=0.5", "--eval-eps=0,0.5", "--epochs=2", "--finetune-epochs=1", "--train-limit=100"]
SMALL += ["--test-limit=40", "--scenario-file=own.py", "--device=cpu", "--out=store"]


def run_by_torchrun(folder, name):
    """Exit code, and each rank's stdout and stderr."""
    (folder / "own.py").write_text(OWN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--redirects", "3", "--log-dir", str(folder / "logs"), "-m", "rossbench", "run", name, *SMALL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=200)
    logs = {path.parent.name: path.parent for path in folder.glob("logs/*/attempt_0/*/stdout.log")}
    return done.returncode, [
        [(logs[rank] / f"{name}.log").read_text() for name in ("stdout", "stderr")] for rank in "01"
    ]


def test_a_run_under_torchrun(tmp_path):
    code, (first, second) = run_by_torchrun(tmp_path, "per-rank")
    assert (code, first[1], second) == (0, "", ["", ""])
    assert "Stored in store" in first[0]
    (stage,) = (tmp_path / "store" / "pretrain").glob("*/stage.json")
    assert read_json(stage)["provenance"]["ranks"] == [2]
    for record in (tmp_path / "store" / "evaluate").glob("*/record.json"):
        stages = json.loads(record.read_text())["provenance"]
        assert [name for name, made in stages.items() if "ranks" in made] == ["pretrain"]


def test_what_fails_on_all_ranks_is_said_once(tmp_path):
    code, (first, second) = run_by_torchrun(tmp_path, "diverging")
    assert code == 1  # torchrun's own
    assert len(first[1].splitlines()) == 1
    assert "expected a finite loss" in first[1]
    assert second == ["", ""]
