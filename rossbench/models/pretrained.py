"""Encoders that were trained elsewhere, ready for use: a module of one's own is one, and a checkpoint becomes one."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from ..config.recipes import MODULE
from ..util.errors import InvalidValue, one_line
from ..util.seeds import seeded
from . import fingerprint
from .encoders import Encoder
from .probe import OwnEncoder, probe

RGB = tuple[float, float, float]
Normalization = tuple[RGB, RGB]
"""Means and deviations of the channels, of images in [0, 1]."""
NONE: Normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
UNUSED = "num_batches_tracked"  # BatchNorm counts in it while it trains, and reads it never


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder that was trained elsewhere: on the CPU, in eval mode, frozen."""

    name: str
    """Of the architecture, as ``Scenario.encoder``; ``module:ClassName`` for a module of the caller's own."""
    encoder: Encoder
    account: dict[str, Any]
    """Where it is from, what of it was used and what not, mean and std: for the provenance."""
    weights: str
    """16 hex digits of a SHA-256 of all that makes it what it is, as ``Scenario.weights``."""

    def __str__(self) -> str:
        dropped = ", ".join(self.account["dropped"]) or "nothing"
        prefix = f" under {self.account['prefix']!r}" if self.account["prefix"] else ""
        matched = f"all {self.account['matched']} tensors of the encoder matched{prefix}"
        said = [f"encoder {self.name} from {self.account['from']}: {matched}", *self.account.get("notes", ())]
        return "; ".join([*said, f"dropped: {dropped}"])


@seeded(0)
def of_module(module: nn.Module, size: int, normalization: tuple[RGB | float, RGB | float] = NONE) -> PretrainedEncoder:
    """The encoder that a module is, copied: float [n, 3, size, size] -> features [n, d].

    Raises InvalidValue for one that is none: see models.probe.
    """
    if not isinstance(module, nn.Module):
        files = "; a file or its state dict goes by --encoder-weights, or into a module by load_state_dict"
        hint = files if isinstance(module, (str, PurePath, Mapping)) else ""
        raise InvalidValue(one_line(f"encoder: expected a torch.nn.Module, got {module!r:.200}") + hint)
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    kind = type(module).__name__
    mean, std = (_channels(kind, name, item) for name, item in zip(("mean", "std"), normalization, strict=True))
    if any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers()))):
        raise InvalidValue(f"encoder {kind}: expected weights, got a lazy module without; call it on an image first")
    try:
        with torch.no_grad():  # else a copy of TorchScript has a gradient to the original
            copied = copy.deepcopy(module).cpu().float()
        others = [name for name, value in copied.state_dict().items() if not isinstance(value, Tensor)]
        if others:
            raise InvalidValue(f"encoder {kind}: expected a state dict of tensors, got others, such as {others[0]}")
        said = re.sub(r" at 0x[0-9a-f]+", "", repr(module)) + fingerprint.describe(copied)
        trial = OwnEncoder(copy.deepcopy(copied), size)
        encoder = OwnEncoder(copied, size)
    except InvalidValue:
        raise
    except Exception as error:  # torch and a user's own code have many words for what cannot be copied
        raise InvalidValue(
            one_line(f"encoder {kind}: expected a module that copy.deepcopy and .cpu() can copy, got {error!r:.200}")
        ) from error
    account = {"from": f"Python module {kind}", "prefix": "", "dropped": []}
    images = fingerprint.images(size)
    given(MODULE + kind, trial, (mean, std), account)
    probe(trial, images)
    said += fingerprint.behaviour(trial.backbone, (images - trial.mean) / trial.std)
    return given(MODULE + kind, encoder, (mean, std), account, said)


def _channels(kind: str, name: str, item: Any) -> RGB:
    """A mean or a deviation of three channels, of three numbers or one."""
    try:
        values = torch.as_tensor(item, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        values = []
    if len(values) not in (1, 3):
        raise InvalidValue(f"encoder {kind}: expected as {name} a number or those of three channels, got {item!r:.200}")
    red, green, blue = values if len(values) == 3 else values * 3
    return red, green, blue


def given(
    name: str, encoder: Encoder, normalization: Normalization, account: dict[str, Any], said: str = ""
) -> PretrainedEncoder:
    for buffer, values in zip((encoder.mean, encoder.std), normalization, strict=True):
        buffer.copy_(torch.tensor(values)[:, None, None])
    state = {key: tensor for key, tensor in encoder.state_dict().items() if not key.endswith(UNUSED)}
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken or not (encoder.std > 0).all():
        where = f"NaN or infinity in {broken[0]} ({len(broken)} in all)" if broken else f"a std of {normalization[1]}"
        raise InvalidValue(f"{account['from']}: expected finite weights and a std above 0, got {where}")
    digest = hashlib.sha256(said.encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    mean, std = map(list, normalization)
    account = {**account, "matched": len(state) - 2, "mean": mean, "std": std}
    return PretrainedEncoder(name, encoder.eval().requires_grad_(False), account, digest.hexdigest()[:16])
