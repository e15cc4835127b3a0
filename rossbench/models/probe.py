"""A module of a user's own as an encoder: what it gives is judged in every call, and tried before any work."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..attacks.pgd import input_gradient
from ..util.errors import InvalidValue, RossbenchError, one_line
from ..util.memory import is_out_of_memory
from ..util.torch_settings import users_code
from .encoders import Encoder

log = logging.getLogger(__name__)
_BESIDE, _ALONE = 1e-3, 0.1
"""Of the length of an image's features: how far they may move with other images beside it, and without any."""


class OwnEncoder(Encoder):
    """An encoder of a module of a user's own. Whatever is wrong with what that does is an InvalidValue, one line."""

    @property
    def kind(self) -> str:
        return type(self.backbone).__name__

    def forward(self, images: Tensor) -> Tensor:
        def refusal(error: BaseException) -> InvalidValue | None:
            hint = "where it needs gradients, use torch.enable_grad()" if "not require grad" in str(error) else ""
            expected = f"a module that maps float {list(images.shape)} to features"
            return None if is_out_of_memory(error) else self.refusal(expected, f"{error!r:.300}", hint)

        moved: list[str] = []
        with users_code(moved, refusal):
            made = self.backbone((images - self.mean) / self.std)
        if wrong := self._wrong(made, images, moved):
            raise self.refusal(*wrong)
        features: Tensor = made.float()
        return features

    def refusal(self, expected: str, got: str, way_out: str = "") -> InvalidValue:
        said = f"encoder {self.kind}: expected {expected}, got {got}"
        return InvalidValue(one_line("; ".join(filter(None, (said, way_out)))))

    def _wrong(self, made: Any, images: Tensor, moved: list[str]) -> tuple[str, ...]:
        """What was expected of the module, what came instead, and the way out; nothing where it gave features."""
        if moved:
            way_out = "use a context such as torch.no_grad() in forward"
            return "torch's settings as they were", f"other {', '.join(moved)}", way_out
        one = f"one tensor of features, [{len(images)}, d]"
        if not isinstance(made, Tensor):
            return one, *_other_kind(made)
        if made.is_nested:
            return one, "a nested tensor", "return one of rows of the same length"
        shape = f"shape {tuple(made.shape)}"
        if made.layout != torch.strided:
            return one, str(made.layout), "return features.to_dense()"
        if made.dim() != 2 or not made.shape[1]:
            way_out = "flatten or pool it, such as by features.flatten(1)" if made.dim() > 2 else ""
            return "one vector of features an image", shape, way_out
        if len(made) != len(images):
            return one, shape
        if made.shape[1] != getattr(self, "features", made.shape[1]):
            return one, shape, f"d was {self.features} for another number of images"
        if not made.is_floating_point():
            way_out = "return their real numbers, such as .abs()" if made.is_complex() else "return features.float()"
            return "features of a float type", str(made.dtype).removeprefix("torch."), way_out
        if made.device != images.device:
            return f"features on the device of the images, {images.device}", str(made.device), "move nothing in forward"
        return ()


def probe(encoder: OwnEncoder, images: Tensor) -> None:
    """Judge an encoder by what it makes of the images of fingerprint.images: raises InvalidValue, in one line.

    A function of the image alone, finite, in new memory each time. One that is random is left to the audit, as is one
    without a gradient, of which a warning is logged.
    """
    with torch.no_grad():
        first = encoder(images)
        every = first.clone()
        beside = encoder(torch.cat([images[:1], images[1:].flip(0)]))
        if not torch.equal(first.nan_to_num(), every.nan_to_num()):
            got = "memory that the next call overwrites"
            raise encoder.refusal("new features from every call", got, "return features.clone()")
        alone, again = [encoder(images[:n])[:1] for n in (1, 2)], encoder(images)
    broken = (~every.isfinite().all(1)).nonzero()
    if len(broken):
        name = ("a black image", "a white image", "noise")[min(2, int(broken[0]))]
        raise encoder.refusal("finite features", f"NaN or infinity of {name}")
    moved = _distance(beside[:1], every[:1])
    if torch.equal(again, every) and (moved > _BESIDE or max(_distance(one, every[:1]) for one in alone) > _ALONE):
        reason = "a BatchNorm without running statistics, or another mean over the batch, does that"
        raise encoder.refusal("features of an image that hang on it alone", "others beside other images", reason)
    _look_for_gradient(encoder, images)


def _distance(features: Tensor, others: Tensor) -> float:
    return float((features - others).norm() / others.norm().clamp(min=1e-12))


def _look_for_gradient(encoder: OwnEncoder, images: Tensor) -> None:
    try:
        weights = torch.linspace(1, 2, encoder.features)  # else features that sum to one number have none
        gradient = input_gradient(lambda leaf: encoder(leaf) * weights, images)
    except RossbenchError:
        raise
    except Exception as error:  # in a backward pass of the user's own, for one
        if is_out_of_memory(error):
            raise
        if any(word in str(error) for word in ("use_reentrant", "torch.utils.checkpoint", "Checkpointing")):
            got = "a reentrant checkpoint, which has none"
            way_out = "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            raise encoder.refusal("gradients at the image", got, way_out) from error
        said = one_line(f"asking for the gradient at the image raises {error!r:.200}")
    else:
        said = "no gradient reaches the image" if gradient is None or not gradient.any() else ""
        said = said if gradient is None or gradient.isfinite().all() else "gradients are NaN or infinite"
    if said:
        log.warning(
            "encoder %s: %s, so attacks by gradient find nothing there, and the audit will say so; attacks without "
            "gradients, such as attack='square', do not need one",
            encoder.kind,
            said,
        )


def _other_kind(made: Any) -> tuple[str, str]:
    """What came that is no tensor, with the shapes of the tensors in it; and how to give the one that is meant."""
    items = _items(made)
    parts = [f"{name} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}" for name, part in items]
    kind = type(made).__name__
    got = f"{kind} of {', '.join(parts)}"[:200] if parts else kind
    for name, part in items:
        if isinstance(part, Tensor) and part.dim() == 2:
            return got, f"return the one that is meant, such as output{name}"
    return got, "return torch.from_numpy(...) of it" if kind == "ndarray" else "return a torch.Tensor"


def _items(made: Any) -> list[tuple[str, Any]]:
    if isinstance(made, Mapping):
        return [(f"[{name!r}]", part) for name, part in made.items()]
    if isinstance(made, (list, tuple)):
        return [(f"[{k}]", part) for k, part in enumerate(made)]
    return [(f".{name}", part) for name, part in getattr(made, "__dict__", {}).items() if isinstance(part, Tensor)]
