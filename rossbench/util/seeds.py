"""Independent random streams from one seed, so that a resumed or reordered run draws the same numbers."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, such as ``derive(0, "pretrain", epoch)``.

    Each epoch and batch has a stream of its own, so no generator state has to be saved to resume.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Global generators start from a seed inside, and are afterwards as before: Python's, NumPy's, and torch's of the
    CPU and of one device.

    Not torch.manual_seed: it seeds every device there is, and they would stay so.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    forked: contextlib.AbstractContextManager[None] = torch.random.fork_rng(devices=[])
    current: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if device is not None and device.type != "cpu":
        forked, module = torch.random.fork_rng([device], device_type=device.type), torch.get_device_module(device)
        current = module.device(device) if hasattr(module, "device") else current
    try:
        with forked, current:
            reseed(seed, device)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Inside ``seeded`` with this device: the same generators start from another seed."""
    random.seed(seed)
    np.random.seed(np.array([seed & 0xFFFFFFFF, seed >> 32]))
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)  # of the current device
