"""Devices by name."""

from __future__ import annotations

import torch

from . import torchrun
from .errors import expect


def resolve_device(name: str) -> torch.device:
    """The device of that name, made current; auto takes CUDA, then MPS, then the CPU. InvalidValue if not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":") if isinstance(name, str) else ("", "", "")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    is_name = kind in there and (not index or index.isdecimal())
    expect(is_name, "device", "auto, cpu, cuda, cuda:N or mps", f"{name!r:.200}")
    number = int(index or (torchrun.place().local_rank if kind == "cuda" else 0))  # of several ranks each has its own
    here = [f"{one}:{k}" if one == "cuda" else one for one, count in there.items() for k in range(count)]
    expect(number < there[kind], "device", f"one that is here, {' or '.join(here)}", f"{name!r}")
    if kind != "cuda":
        return torch.device(kind)
    device = torch.device(kind, number)
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False  # reported attacks are in full fp32
    return device
