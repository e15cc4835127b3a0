"""A run's missing artifacts as tasks on a Ray cluster, whose nodes need no folder in common. The home of Ray.

The submitting machine has the store. It sends a task the artifacts that it needs and writes down what comes back, so
what was once finished is not lost with the node that made it.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..config.scenarios import Scenario
from ..config.specs import AnySpec, PretrainSpec
from ..data.datasets import Data
from ..stages.train_loop import Tick
from ..store.store import SUMS, Store
from ..util.devices import resolve_device
from ..util.errors import InvalidValue, RossbenchError
from ..util.signals import handlers_kept
from .progress import Making
from .scheduler import Crew, Job

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as missing:
    raise InvalidValue("ray: expected the package to be installed, got none; pip install 'rossbench[ray]'") from missing

RETRIES = 3
"""Of a task whose worker or node was lost."""
TELL_EVERY = 0.5
"""Seconds between two signs of life of a task."""
SENT = 4 * 2**30
"""Bytes of a data set's images that are sent; those of a larger one nodes load themselves, from the same path."""
Files = Mapping[str, bytes]
Place = tuple[str, str, int | None]


@contextlib.contextmanager
def hiring(address: str, cpus: float = 1.0, gpus: float = 0.0, device: str = "auto") -> Iterator[Callable[[Job], Crew]]:
    """What ``run_suite`` takes as ``hire``, while connected to a cluster.

    ``address``: of the cluster, "auto" for the one that this machine is in, "local" for one that is started here.
    ``cpus``, ``gpus``: of each task, also fractions. ``device``: of the tasks, as for ``rossbench.run``. InvalidValue
    if there is no such cluster, or no node of it can ever run such a task.
    """
    crews: list[_OnRay] = []

    def hire(job: Job) -> Crew:
        crews.append(_OnRay(job, {"num_cpus": cpus, "num_gpus": gpus}, device))
        return crews[-1]

    try:
        _check_address(address)
        ours = {"include_dashboard": False} if address == "local" else {}
        with handlers_kept():  # Ray would end the process on SIGTERM
            ray.init(address, log_to_driver=False, configure_logging=False, **ours)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"ray {address}: expected a cluster, got {error}") from error
    try:
        _check_room(cpus, gpus)
        yield hire
    finally:
        for crew in crews:
            crew.give_up()
        ray.shutdown()


def _check_address(address: str) -> None:
    """OSError or ValueError where nobody answers, for which Ray would wait for minutes."""
    if address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _check_room(cpus: float, gpus: float) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise InvalidValue(f"ray: expected a node with {cpus:g} CPUs and {gpus:g} GPUs for a task, got {most}")


@dataclass
class _Task:
    specs: list[AnySpec]
    making: Making


class _OnRay:
    """Tasks of a job."""

    def __init__(self, job: Job, resources: Mapping[str, float], device: str) -> None:
        self.job, self.device = job, device
        self.resources = {**resources, "max_retries": RETRIES}
        self.running: dict[Any, _Task] = {}
        self.failed: list[str] = []
        self.sent: dict[str, Any] = {}
        """By key, the files of artifacts that tasks were sent, in Ray's memory; and data sets, by place."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(num_cpus=0, scheduling_strategy=here)(
            _Board
        ).remote()  # no other node's loss is its own

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def build(self, specs: list[AnySpec], making: Making) -> None:
        spec = specs[0]
        if isinstance(spec, PretrainSpec) and spec.weights:  # is here already
            self.job.build(specs, making.tick)
            self._end(_Task(specs, making), made=True)
            return
        parents = {parent: self._files(parent) for parent in spec.parents}
        place, data = self._data(spec)
        work = ray.remote(**self.resources)(_work)
        state = self.job.store.resume_path(spec)
        reference = work.remote(
            ([_plain(one) for one in self.job.scenarios], *registry.own()),
            specs,
            list(parents),
            list(parents.values()),
            place,
            data,
            state.read_bytes() if state.exists() else None,
            self.device,
            self.board,
        )
        self.running[reference] = _Task(specs, making)

    def collect(self) -> None:
        done, _ = ray.wait(list(self.running), timeout=TELL_EVERY)
        for number, tick in ray.get(self.board.take.remote()):
            for task in self.running.values():
                if task.specs[0].key == number:
                    task.making.tick(tick)
        for reference in done:
            self._receive(reference)

    def check(self) -> None:
        if self.failed:
            raise RossbenchError(f"{len(self.failed)} could not be built, all else is stored: {'; '.join(self.failed)}")

    def give_up(self) -> None:
        """Let go of what is under way; its locks are free again."""
        for task in self.running.values():
            self.job.release(task.specs)
        self.running.clear()

    def _receive(self, reference: Any) -> None:
        task = self.running.pop(reference)
        try:
            made: dict[str, dict[str, bytes]] | str = ray.get(reference)
        except ray.exceptions.RayError as error:
            made = f"{task.specs[0]}: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if isinstance(made, str):
            self.failed.append(made)
        else:
            for spec in task.specs:
                self.job.store.write(spec, made[spec.key])
        self._end(task, made=not isinstance(made, str))

    def _end(self, task: _Task, made: bool) -> None:
        self.job.release(task.specs)
        if made:
            task.making.finish()
        else:
            task.making.leave()

    def _files(self, spec: AnySpec) -> Any:
        """An artifact in Ray's memory, from where every node gets it once."""
        if spec.key not in self.sent:
            self.sent[spec.key] = ray.put(_read(self.job.store, spec))
        return self.sent[spec.key]

    def _data(self, spec: AnySpec) -> tuple[Place, Any]:
        place, data = self.job.data_of(spec)
        if data.images.nbytes > SENT:
            return place, self.job.data_dir.absolute()
        if str(place) not in self.sent:
            content = data.images.cpu().numpy(), data.labels.cpu().numpy(), data.fingerprint
            self.sent[str(place)] = ray.put(content)
        return place, self.sent[str(place)]


def _plain(scenario: Scenario) -> Scenario:
    """Without what was computed from it, which is many times as large."""
    return replace(scenario)


def _read(store: Store, spec: AnySpec) -> dict[str, bytes]:
    names = [path.name for path in sorted(store.path(spec).iterdir())]
    return {name: store.read(spec, name) for name in names if name not in (SUMS, "spec.json")}


class _Board:
    """Where tasks leave how far they are."""

    def __init__(self) -> None:
        self.ticks: list[tuple[str, Tick]] = []

    def put(self, key: str, tick: Tick) -> None:
        self.ticks.append((key, tick))

    def take(self) -> list[tuple[str, Tick]]:
        found, self.ticks = self.ticks, []
        return found


class _Telling:
    """Tells the board of a task's ticks, now and then; those in between are summed up."""

    def __init__(self, board: Any, key: str) -> None:
        self.board, self.key, self.last = board, key, 0.0
        self.images, self.history = 0, list[dict[str, float]]()

    def __call__(self, tick: Tick) -> None:
        self.images += tick.images
        self.history += tick.history
        if tick.resumed or time.monotonic() - self.last > TELL_EVERY:
            loss = None if tick.loss is None else torch.as_tensor(tick.loss).cpu()
            whole = replace(tick, images=self.images, history=tuple(self.history), loss=loss)
            self.board.put.remote(self.key, whole)
            self.images, self.history, self.last = 0, [], time.monotonic()


def _work(
    known: tuple[Any, ...],
    specs: list[AnySpec],
    parents: Sequence[AnySpec],
    files: Sequence[Any],
    place: Place,
    data: tuple[Any, Any, str] | Path,
    state: bytes | None,
    device: str,
    board: Any,
) -> dict[str, dict[str, bytes]] | str:
    """In a worker: the files of the artifacts, by key; or in words why they could not be built.

    known: the job's scenarios; and what was registered where the job is, see registry.own. data: images, labels and
    fingerprint, or the folder to load them from.
    """
    scenarios, *theirs = known
    registry.adopt(*theirs)
    with tempfile.TemporaryDirectory(prefix="rossbench-") as folder:
        store = Store(folder)
        for parent, content in zip(parents, ray.get(list(files)), strict=True):
            store.write(parent, content)
        if state is not None:
            store.resume_path(specs[0]).parent.mkdir()
            store.resume_path(specs[0]).write_bytes(state)
        try:
            job = Job(scenarios, store, resolve_device(device), data if isinstance(data, Path) else store.root)
            if not isinstance(data, Path):
                images, labels, fingerprint = data
                job.keep(place, Data(torch.tensor(images), torch.tensor(labels), fingerprint))
            job.build(specs, _Telling(board, specs[0].key))
        except RossbenchError as error:
            return str(error)
        return {spec.key: _read(store, spec) for spec in specs}
