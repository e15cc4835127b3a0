"""Independent random streams from one seed, so that a resumed or reordered run draws the same numbers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, such as ``derive(0, "pretrain", epoch)``.

    Each epoch and batch has a stream of its own, so no generator state has to be saved to resume.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """torch's global generators start from a seed inside, and are afterwards as before: the CPU's and one device's.

    Not torch.manual_seed: it seeds every device there is, and they would stay so.
    """
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
