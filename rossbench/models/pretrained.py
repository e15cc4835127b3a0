"""Encoders that were trained elsewhere, ready for use: a module of one's own is one, and a checkpoint becomes one."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config.recipes import MODULE
from ..util.errors import InvalidValue
from . import encoders
from .encoders import Encoder

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


def of_module(module: nn.Module, size: int, normalization: Normalization = NONE) -> PretrainedEncoder:
    """The encoder that a module is, copied: float [n, 3, size, size] -> features [n, d]. Raises InvalidValue."""
    if not isinstance(module, nn.Module):
        raise InvalidValue(f"encoder: expected a torch.nn.Module, got {module!r:.200}")
    kind = type(module).__name__
    try:
        encoder = encoders.wrap(copy.deepcopy(module).cpu().float(), size)
    except InvalidValue:
        raise
    except Exception as error:  # a module of the user's own may raise anything
        shape = f"[1, 3, {size}, {size}]"
        raise InvalidValue(f"encoder {kind}: expected a module that maps float {shape}, got {error!r:.200}") from error
    others = [name for name, value in encoder.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise InvalidValue(f"encoder {kind}: expected a state dict of tensors, got others, such as {others[0]}")
    account = {"from": f"Python module {kind}", "prefix": "", "dropped": []}
    said = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # where functions lie differs from run to run
    return given(MODULE + kind, encoder, normalization, account, said)


def given(
    name: str, encoder: Encoder, normalization: Normalization, account: dict[str, Any], said: str = ""
) -> PretrainedEncoder:
    for buffer, values in zip((encoder.mean, encoder.std), normalization, strict=True):
        if len(values) != 3:
            raise InvalidValue(f"encoder {name}: expected a mean and a std of three channels, got {normalization}")
        buffer.copy_(torch.tensor(values)[:, None, None])
    state = {key: tensor for key, tensor in encoder.state_dict().items() if not key.endswith(UNUSED)}
    broken = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken or not (encoder.std > 0).all():
        where = f"NaN or infinity in {broken[0]} ({len(broken)} in all)" if broken else f"a std of {normalization[1]}"
        raise InvalidValue(f"{account['from']}: expected finite weights and a std above 0, got {where}")
    mean, std = map(list, normalization)
    account = {**account, "matched": len(state) - 2, "mean": mean, "std": std}
    return PretrainedEncoder(name, encoder.eval().requires_grad_(False), account, _digest(state, said))


def _digest(state: Mapping[str, Tensor], said: str) -> str:
    digest = hashlib.sha256(said.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
