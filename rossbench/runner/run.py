"""Runs and audits, as Python and the command line call for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from .. import registry
from ..config.scenarios import Row, Scenario, Suite
from ..data import datasets
from ..models import checkpoints
from ..models.checkpoints import RGB, Given
from ..store import results
from ..store.records import Audit
from ..store.store import Store
from ..util.devices import resolve_device
from ..util.errors import InvalidValue
from .progress import Observer
from .scheduler import Crew, Here, Job, Records


def run(
    scenario: Scenario | str,
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer = lambda progress: None,
) -> Records:
    """Do what is missing of a scenario's matrix, and return all of it: a record for each place in it.

    ``scenario``: one of the registry, by name, or a value of your own; a value that shares its name with a
    registered one and differs from it is recorded as deviating. ``data_dir``: default ROSSBENCH_DATA, then
    ``~/.cache/rossbench/data``. ``device``: auto, cpu, cuda, cuda:N or mps. May be interrupted at any time; the
    next call goes on from the last finished epoch. Several calls at once, from several processes or machines, share
    the work of a store. Raises RossbenchError.
    """
    one = registry.get(scenario) if isinstance(scenario, str) else scenario
    return run_suite([one], store=store, data_dir=data_dir, device=device, observe=observe)[one.name]


def run_suite(
    suite: Suite | str | Sequence[Scenario | str],
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer = lambda progress: None,
    encoders: Sequence[Given] = (),
    shard: tuple[int, int] = (1, 1),
    hire: Callable[[Job], Crew] | None = None,
) -> dict[str, Records]:
    """``run`` for a suite, by its name or as a value, or for any scenarios; what they share is built once.

    Returns the records of each by its name; of one that comes under several seeds, by "NAME seed N". ``encoders``:
    those that scenarios with ``weights`` name, unless the store holds them. ``shard``: (k, n) does the
    k-th of n parts of the models, from 1, and returns their records alone. ``hire``: who builds, if not this process;
    see rossbench.cluster.
    """
    given = [suite] if isinstance(suite, (str, Suite)) else suite
    scenarios = [one for item in given for one in ([item] if isinstance(item, Scenario) else registry.members(item))]
    if len({(scenario.name, scenario.seed) for scenario in scenarios}) < len(scenarios):
        raise InvalidValue(
            f"run: expected scenarios of different names or seeds, got {[one.name for one in scenarios]}"
        )
    given_encoders = {one.weights: one for one in encoders}
    return Job(scenarios, *_surroundings(store, data_dir, device), given_encoders, hire or Here).run(observe, shard)


def audit(
    names: Sequence[str] = (),
    *,
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    protocol: str | None = None,
    observe: Observer = lambda progress: None,
    hire: Callable[[Job], Crew] | None = None,
) -> dict[tuple[str, str, Row], Audit]:
    """Verdicts on every classifier that a store has evaluations of, or on those of some scenarios and suites.

    What was audited before, with the same evaluations, is not again; what an audit needs and the store lacks is built.
    Returns the audits by the scenario's name, its protocol and the model's epsilons. Raises RossbenchError.
    """
    job = Job([], *_surroundings(store, data_dir, device), hire=hire or Here)
    return job.audit(results.load(job.store, names, protocol), observe)


def _surroundings(
    store: Store | Path | str, data_dir: Path | str | None, device: str
) -> tuple[Store, torch.device, Path]:
    return (
        store if isinstance(store, Store) else Store(store),
        resolve_device(device),
        Path(data_dir) if data_dir is not None else datasets.default_data_dir(),
    )


def evaluate_encoder(
    module: nn.Module,
    *,
    mean: RGB = checkpoints.NONE[0],
    std: RGB = checkpoints.NONE[1],
    scenario: Scenario | str = "cifar10-to-cifar100",
    store: Store | Path | str = "rossbench-store",
    data_dir: Path | str | None = None,
    device: str = "auto",
    observe: Observer = lambda progress: None,
) -> Records:
    """``run`` with an encoder that was trained elsewhere in place of pretraining; its pretraining epsilon is 0.

    ``module``: maps float [n, 3, size, size], of the size of the scenario's images, to features [n, d]. It gets images
    in [0, 1] less ``mean``, over ``std``, channel by channel, and is copied, so it stays as it is. What is in the store
    is known by the module's weights, buffers and repr: after a change of its code alone, use another store. It is
    audited too: ``rossbench report`` and ``audit`` show it. Raises RossbenchError.
    """
    one = registry.get(scenario) if isinstance(scenario, str) else scenario
    given = checkpoints.of_module(module, datasets.facts(one.source).size, (mean, std))
    one = dataclasses.replace(one, encoder=given.name, weights=given.weights, train_epsilons=(0.0,))
    job = Job([one], *_surroundings(store, data_dir, device), {given.weights: given})
    found = job.run(observe)[one.name]
    job.audit(results.load(job.store, [one.name], one.protocol), observe)
    return found
