"""Small things that many tests need: a scenario of seconds, and a run of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rossbench import cli, recipe, registry, runner
from rossbench.records import Record
from rossbench.scenario import Place, Scenario

FIXTURES = Path(__file__).parent / "fixtures"


def tiny(name: str = "digits", **changes: object) -> Scenario:
    """A registered digits scenario, cut down to seconds: two models, two evaluations, a few images."""
    scenario = registry.get(name)
    recipe = dataclasses.replace(
        scenario.recipe,
        pretraining=dataclasses.replace(scenario.recipe.pretraining, epochs=2, batch_size=20),
        finetuning=dataclasses.replace(scenario.recipe.finetuning, epochs=2, batch_size=20),
    )
    small = {"recipe": recipe, "train_epsilons": (0, 1), "eval_epsilons": (0, 0.5), "train_limit": 60, "test_limit": 40}
    return dataclasses.replace(scenario, **{**small, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the tiny digits run is complete. Tests read it; those that write copy it."""
    root = tmp_path_factory.mktemp("finished")
    runner.run(tiny(), store=root, device="cpu")
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[Place, Record]:
    """The whole digits scenario, as registered: about a minute on two cores."""
    return runner.run("digits", store=tmp_path_factory.mktemp("digits"), device="cpu")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registrations of a test end with it."""
    for name in ("_scenarios", "_suites", "_attacks"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    known = dict(recipe.ATTACKS)
    registry._load_plugins.cache_clear()
    yield
    registry._load_plugins.cache_clear()
    recipe.ATTACKS.clear()
    recipe.ATTACKS.update(known)


@pytest.fixture
def rossbench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_registry: None
) -> Callable[..., tuple[object, str, str]]:
    """Runs a command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> tuple[object, str, str]:
        try:
            cli.main([str(argument) for argument in arguments])
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def cifar() -> Path:
    """The folder of the real CIFAR files."""
    folder = os.environ.get("ROSSBENCH_DATA")
    if not folder or not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("ROSSBENCH_DATA names no folder with cifar-10-batches-py")
    return Path(folder)


class _NoWaiting(TorchDispatchMode):
    """Fails on what a CUDA graph cannot hold: reading a number back, sizes that hang on one, numbers copied there."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        reads = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave", "equal")
        brings = ("lift_fresh",)  # numbers from the host, as torch.tensor does
        name = operation.overloadpacket.__name__.rstrip("_")
        assert name not in (*reads, *brings), operation
        if name in ("index", "index_put"):  # a mask becomes places, and how many is a number
            assert not any(place is not None and place.dtype == torch.bool for place in arguments[1]), operation
        return operation(*arguments, **(options or {}))


@pytest.fixture
def no_waiting() -> TorchDispatchMode:
    return _NoWaiting()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
