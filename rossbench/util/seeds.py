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
    try:
        random.seed(seed)
        np.random.seed(np.array([seed & 0xFFFFFFFF, seed >> 32]))
        with _torch_seeded(seed, device):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextlib.contextmanager
def _torch_seeded(seed: int, device: torch.device | None) -> Iterator[None]:
    if device is None or device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    module = torch.get_device_module(device)
    with torch.random.fork_rng([device], device_type=device.type):
        torch.default_generator.manual_seed(seed)
        with module.device(device) if hasattr(module, "device") else contextlib.nullcontext():
            module.manual_seed(seed)  # of the current device
        yield
