"""torch's global settings, which code of a user's own may leave changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    **{
        f"cudnn.{flag}": (partial(getattr, torch.backends.cudnn, flag), partial(setattr, torch.backends.cudnn, flag))
        for flag in ("enabled", "benchmark", "deterministic", "allow_tf32")
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
