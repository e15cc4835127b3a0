"""Devices by name."""

from __future__ import annotations

import torch

from . import torchrun
from .errors import InvalidValue


def resolve_device(name: str) -> torch.device:
    """The device of that name, made current; auto takes CUDA, then MPS, then the CPU. InvalidValue if not there."""
    if not isinstance(name, str):
        raise InvalidValue(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r:.200}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in there or (index and not index.isdecimal()):
        raise InvalidValue(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    number = int(index or (torchrun.place().local_rank if kind == "cuda" else 0))  # of several ranks each has its own
    if number >= there[kind]:
        here = [f"{one}:{k}" if one == "cuda" else one for one, count in there.items() for k in range(count)]
        raise InvalidValue(f"device: expected one that is here, {' or '.join(here)}, got {name!r}")
    if kind != "cuda":
        return torch.device(kind)
    device = torch.device(kind, number)
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False  # reported attacks are in full fp32
    return device
