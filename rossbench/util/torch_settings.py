"""torch's global settings, and the working folder, which code of a user's own may leave changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .errors import InvalidValue, RossbenchError
from .signals import Interrupted


def _refill(kept: dict[Any, Any], content: dict[Any, Any]) -> None:
    kept.clear()
    kept.update(content)


def _set_inference(on: bool) -> None:
    """For good: what has entered that mode may never leave it, and a guard that is forgotten ends its own."""
    guard = torch.inference_mode(on)
    guard.__enter__()
    _GUARDS.append(guard)


_GUARDS: list[torch.inference_mode] = []
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "working folder": (os.getcwd, os.chdir),  # where relative paths of stores and data begin
    "inference mode": (torch.is_inference_mode_enabled, _set_inference),  # before grad mode, which it changes
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    **{
        f"autocast on {kind}": (partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind))
        for kind in ("cpu", "cuda")
    },
    **{
        f"hooks of all modules ({name.removeprefix('_global_').removesuffix('_hooks')})": (
            partial(dict, hooks),
            partial(_refill, hooks),
        )
        for name, hooks in vars(torch.nn.modules.module).items()
        if name.startswith("_global_") and name.endswith("_hooks")
    },
    **{
        f"{backend}.{flag}": (partial(getattr, module, flag), partial(setattr, module, flag))
        for backend, flags in (("mkldnn", "enabled"), ("cudnn", "enabled benchmark deterministic allow_tf32"))
        for module in [getattr(torch.backends, backend)]
        for flag in flags.split()
    },
}
"""How each is read and written."""


@contextlib.contextmanager
def kept_settings(moved: list[str]) -> Iterator[None]:
    """torch's settings are afterwards as before; the names of those that were not are added to ``moved``."""
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        yield
    finally:
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                moved.append(name)
                write(before[name])


@contextlib.contextmanager
def users_code(moved: list[str], refusal: Callable[[BaseException], RossbenchError | None]) -> Iterator[None]:
    """Code of a user's own, which may raise anything, SystemExit too: that becomes what ``refusal`` makes of it. What
    that makes nothing of passes, as interrupts and errors of rossbench's own do. ``moved``: as of kept_settings."""
    try:
        with kept_settings(moved):
            yield
    except (KeyboardInterrupt, Interrupted, RossbenchError):
        raise
    except BaseException as error:
        refused = refusal(error)
        if refused is None:
            raise
        raise refused from error


_NEEDED = {
    "inference mode": False,
    "grad mode": True,
    "default dtype": torch.float32,
    "default device": torch.device("cpu"),
    "autocast on cpu": False,
    "autocast on cuda": False,
}
"""Without which no run is right."""


def check_settings(put_back: bool = False) -> None:
    """InvalidValue for a setting that no run is right with; ``put_back``: afterwards it is as it has to be."""
    found = {name: _SETTINGS[name][0]() for name in _NEEDED}
    wrong = [name for name, value in found.items() if value != _NEEDED[name]]
    for name in wrong if put_back else ():
        _SETTINGS[name][1](_NEEDED[name])
    if wrong:
        told = ", ".join(f"{name} {_NEEDED[name]}, got {found[name]}" for name in wrong)
        raise InvalidValue(f"expected torch's {told}; use a context such as torch.no_grad() where another is needed")
