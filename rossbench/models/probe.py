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
from ..util.seeds import seeded
from ..util.signals import Interrupted
from ..util.torch_settings import kept_settings
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
        moved: list[str] = []
        try:
            with kept_settings(moved):
                made = self.backbone((images - self.mean) / self.std)
        except (KeyboardInterrupt, Interrupted, RossbenchError):
            raise
        except BaseException as error:  # a user's own code may raise anything, SystemExit too
            if is_out_of_memory(error):
                raise
            hint = "; where it needs gradients, use torch.enable_grad()" if "not require grad" in str(error) else ""
            expected = f"a module that maps float {list(images.shape)} to features"
            said = f"encoder {self.kind}: expected {expected}, got {error!r:.300}{hint}"
            raise InvalidValue(one_line(said)) from error
        if moved:
            raise InvalidValue(
                f"encoder {self.kind}: expected torch's settings as they were, got other {', '.join(moved)}; "
                "use a context such as torch.no_grad() in forward"
            )
        return self._judged(made, images)

    def _judged(self, made: Any, images: Tensor) -> Tensor:
        """Features in float32 of what the module gave."""
        expected, got, way_out = f"one tensor of features, [{len(images)}, d]", None, ""
        if not isinstance(made, Tensor):
            got, way_out = _contents(made), _choice(made)
        elif made.is_nested or made.layout != torch.strided:
            got = "a nested tensor" if made.is_nested else str(made.layout)
            way_out = "; return one of rows of the same length" if made.is_nested else "; return features.to_dense()"
        elif made.dim() != 2 or not made.shape[1]:
            expected, got = "one vector of features an image", f"shape {tuple(made.shape)}"
            way_out = "; flatten or pool it, such as by features.flatten(1)" if made.dim() > 2 else ""
        elif len(made) != len(images):
            got = f"shape {tuple(made.shape)}"
        elif made.shape[1] != getattr(self, "features", made.shape[1]):
            got, way_out = f"shape {tuple(made.shape)}", f"; d was {self.features} for another number of images"
        elif not made.is_floating_point():
            expected, got = "features of a float type", str(made.dtype).removeprefix("torch.")
            way_out = (
                "; return their real numbers, such as .abs()" if made.is_complex() else "; return features.float()"
            )
        elif made.device != images.device:
            expected, got = f"features on the device of the images, {images.device}", str(made.device)
            way_out = "; move nothing in forward"
        if got is not None:
            raise InvalidValue(one_line(f"encoder {self.kind}: expected {expected}, got {got}{way_out}"))
        features: Tensor = made.float()
        return features


def probe(encoder: OwnEncoder, images: Tensor) -> None:
    """Judge an encoder by what it makes of the images of fingerprint.images: raises InvalidValue, in one line.

    A function of the image alone, finite, in new memory each time. One that is random is left to the audit, as is one
    without a gradient, of which a warning is logged.
    """
    with torch.no_grad(), seeded(0):
        first = encoder(images)
        every = first.clone()
        beside = encoder(torch.cat([images[:1], images[1:].flip(0)]))
        if not torch.equal(first.nan_to_num(), every.nan_to_num()):
            raise InvalidValue(
                f"encoder {encoder.kind}: expected new features from every call, got memory that the next call "
                "overwrites; return features.clone()"
            )
        alone, again = [encoder(images[:n])[:1] for n in (1, 2)], encoder(images)
    for name, features in zip(("a black", "a white"), every, strict=False):
        if not features.isfinite().all():
            raise InvalidValue(f"encoder {encoder.kind}: expected finite features, got NaN or infinity of {name} image")
    if not every.isfinite().all():
        raise InvalidValue(f"encoder {encoder.kind}: expected finite features, got NaN or infinity of noise")
    moved = _distance(beside[:1], every[:1])
    if torch.equal(again, every) and (moved > _BESIDE or max(_distance(one, every[:1]) for one in alone) > _ALONE):
        raise InvalidValue(
            f"encoder {encoder.kind}: expected features of an image that hang on it alone, got others beside other "
            "images; a BatchNorm without running statistics, or another mean over the batch, does that"
        )
    _look_for_gradient(encoder, images)


def _distance(features: Tensor, others: Tensor) -> float:
    """Relative."""
    return float((features - others).norm() / others.norm().clamp(min=1e-12))


def _look_for_gradient(encoder: OwnEncoder, images: Tensor) -> None:
    try:
        with seeded(0):
            weights = torch.linspace(1, 2, encoder.features)  # else features that sum to one number have none
            gradient = input_gradient(lambda leaf: encoder(leaf) * weights, images)
    except RossbenchError:
        raise
    except Exception as error:  # in a backward pass of the user's own, for one
        if is_out_of_memory(error):
            raise
        if "use_reentrant" in str(error) or "torch.utils.checkpoint" in str(error) or "Checkpointing" in str(error):
            raise InvalidValue(
                f"encoder {encoder.kind}: expected gradients at the image, got a reentrant checkpoint, which has none; "
                "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            ) from error
        said = one_line(f"asking for the gradient at the image raises {error!r:.200}")
    else:
        finite = gradient is None or bool(gradient.isfinite().all())
        zero = finite and (gradient is None or not gradient.any())
        said = "no gradient reaches the image" if zero else "" if finite else "gradients are NaN or infinite"
    if said:
        log.warning(
            "encoder %s: %s, so attacks by gradient find nothing there, and the audit will say so; attacks without "
            "gradients, such as attack='square', do not need one",
            encoder.kind,
            said,
        )


def _contents(made: Any) -> str:
    """What came, with the shapes of the tensors in it."""
    items = _items(made)
    if not items:
        return type(made).__name__
    told = (f"{name} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}" for name, part in items)
    return f"{type(made).__name__} of {', '.join(told)}"[:200]


def _choice(made: Any) -> str:
    """How to give the one that is meant."""
    for name, part in _items(made):
        if isinstance(part, Tensor) and part.dim() == 2:
            return f"; return the one that is meant, such as output{name}"
    return "; return torch.from_numpy(...) of it" if type(made).__name__ == "ndarray" else "; return a torch.Tensor"


def _items(made: Any) -> list[tuple[str, Any]]:
    if isinstance(made, Mapping):
        return [(f"[{name!r}]", part) for name, part in made.items()]
    if isinstance(made, (list, tuple)):
        return [(f"[{k}]", part) for k, part in enumerate(made)]
    return [(f".{name}", part) for name, part in getattr(made, "__dict__", {}).items() if isinstance(part, Tensor)]
