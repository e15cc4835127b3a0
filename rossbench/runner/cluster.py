"""Missing artifacts as tasks on a Ray cluster, whose nodes need no folder in common. The home of Ray.

The submitting machine has the store. It sends a task the artifacts that it needs and writes down what comes back, so
what was once finished is not lost with the node that made it.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import registry
from ..config.specs import AnySpec, PretrainSpec
from ..data.datasets import Data
from ..stages.context import Context, Split, split_of
from ..stages.train_loop import Hooks, Tick
from ..store.store import SUMS, Store
from ..util.devices import resolve_device
from ..util.errors import InvalidValue, RossbenchError
from ..util.signals import handlers_kept
from .progress import Task
from .scheduler import Executor, build

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as missing:
    raise InvalidValue("ray is not installed: pip install 'rossbench[ray]'") from missing

RETRIES = 3
"""Of a task whose worker or node was lost."""
TELL_EVERY = 0.5
"""Seconds between two signs of life of a task."""
SENT = 4 * 2**30
"""Bytes of a data set's images that are sent; those of a larger one nodes load themselves, from the same path."""


@contextlib.contextmanager
def connected(address: str, cpus: float = 1.0, gpus: float = 0.0, device: str = "auto") -> Iterator[RayExecutor]:
    """What ``run_suite`` and ``audit`` take as ``executor``, while connected to a cluster.

    ``address``: of the cluster, "auto" for the one that this machine is in, "local" for one that is started here.
    ``cpus``, ``gpus``: of each task, also fractions. ``device``: of the tasks, as for ``rossbench.run``. InvalidValue
    if there is no such cluster, or no node of it can ever run such a task.
    """
    try:
        if address not in ("auto", "local"):  # for an address where nobody answers Ray would wait for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ours = {"include_dashboard": False} if address == "local" else {}
        with handlers_kept():  # Ray would end the process on SIGTERM
            ray.init(address, log_to_driver=False, configure_logging=False, **ours)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidValue(f"ray {address}: expected a cluster, got {error}") from error
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise InvalidValue(f"ray: expected a node with {cpus:g} CPUs and {gpus:g} GPUs for a task, got {most}")
        executor = RayExecutor(cpus, gpus, device)
        stack.callback(executor.give_up)
        yield executor


class RayExecutor(Executor):
    """Has each piece of work built by a task on some node; needs a connection, see ``connected``."""

    def __init__(self, cpus: float, gpus: float, device: str) -> None:
        self.device = device
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_work)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # The board is on this machine: no other node's loss ends it.
        self.board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
        self.running: dict[Any, tuple[Context, Task]] = {}
        self.failed: list[str] = []
        self.sent: dict[tuple[Any, ...], Any] = {}
        """References to what is in Ray's memory: artifacts by store and key, images by folder and split."""

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def submit(self, specs: Sequence[AnySpec], context: Context, task: Task) -> None:
        spec = specs[0]
        if isinstance(spec, PretrainSpec) and spec.weights:  # it is here already
            super().submit(specs, context, task)
            return
        parents = [self._artifact(context, parent) for parent in spec.parents]
        state, origins = context.store.resume_path(spec), {one.key: context.origins.get(one.key) for one in specs}
        reference = self.remote.remote(
            registry.own(),
            specs,
            origins,
            parents,
            context.data_dir.absolute(),
            self._images(context, spec),
            state.read_bytes() if state.exists() else None,
            self.device,
            self.board,
        )
        self.running[reference] = context, task

    def wait(self) -> None:
        done, _ = ray.wait(list(self.running), timeout=TELL_EVERY)
        tasks = {task.specs[0].key: task for _, task in self.running.values()}
        for key, tick in ray.get(self.board.take.remote()):
            if key in tasks:
                tasks[key].update(tick)
        for reference in done:
            self._receive(reference)

    def check(self) -> None:
        failed, self.failed = self.failed, []
        if failed:
            raise RossbenchError(f"{len(failed)} could not be built, all else is stored: {'; '.join(failed)}")

    def give_up(self) -> None:
        """Let go of what is under way; its locks are free again."""
        for context, task in self.running.values():
            _release(context, task)
        self.running.clear()

    def _receive(self, reference: Any) -> None:
        context, task = self.running.pop(reference)
        try:
            made: dict[str, dict[str, bytes]] | str = ray.get(reference)
        except ray.exceptions.RayError as error:
            made = f"{task.specs[0]}: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if isinstance(made, str):
            self.failed.append(made)
            task.give_up()
        else:
            for spec in task.specs:
                context.store.write(spec, made[spec.key])
            task.finish()
        _release(context, task)

    def _artifact(self, context: Context, spec: AnySpec) -> tuple[AnySpec, Any]:
        """A spec, and its files in Ray's memory, from where every node gets them once."""
        place = context.store.root, spec.key
        if place not in self.sent:
            self.sent[place] = ray.put(_read(context.store, spec))
        return spec, self.sent[place]

    def _images(self, context: Context, spec: AnySpec) -> tuple[Split, list[Any]]:
        split, data = split_of(spec), context.data(spec)
        if data.images.nbytes > SENT:
            return split, []
        place = context.data_dir, split
        if place not in self.sent:
            self.sent[place] = ray.put((data.images.cpu().numpy(), data.labels.cpu().numpy(), data.fingerprint))
        return split, [self.sent[place]]  # in a list Ray leaves it a reference


def _release(context: Context, task: Task) -> None:
    for spec in task.specs:
        context.store.locks.give(spec.key)


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
    registered: list[dict[str, Any]],
    specs: list[AnySpec],
    origins: dict[str, Any],
    parents: list[tuple[AnySpec, Any]],
    data_dir: Path,
    images: tuple[Split, list[Any]],
    state: bytes | None,
    device: str,
    board: Any,
) -> dict[str, dict[str, bytes]] | str:
    """In a worker: the files of the artifacts, by key; or in words why they could not be built.

    registered: what was registered where the run is, see registry.own; images: their split, and a reference to them
    if they were sent, else they are in data_dir; state: of an interrupted run, to go on from.
    """
    registry.adopt(registered)
    with tempfile.TemporaryDirectory(prefix="rossbench-") as folder:
        store = Store(folder)
        for parent, files in parents:
            store.write(parent, ray.get(files))
        if state is not None:
            store.resume_path(specs[0]).parent.mkdir()
            store.resume_path(specs[0]).write_bytes(state)
        try:
            context = Context(store, resolve_device(device), data_dir, origins=origins)
            split, sent = images
            for arrays, labels, fingerprint in ray.get(sent):
                context.keep(split, Data(torch.tensor(arrays), torch.tensor(labels), fingerprint))
            hooks = Hooks(_Telling(board, specs[0].key), store.resume_path(specs[0]))
            build(specs, context, hooks)
        except RossbenchError as error:
            return str(error)
        return {spec.key: _read(store, spec) for spec in specs}
