"""What a checkpoint's wrapper does to images before the encoder: the mean and std that it keeps among its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..util.errors import InvalidValue
from .candidates import HEAD, not_numbers, shared
from .pretrained import Normalization

_MODULE = re.compile(
    r"((input|image|img|pixel|data|pre)_)?(norm|normali[sz]\w*|preproc\w*|transforms?|standardi[sz]\w*|whiten\w*)"
)
"""What such a module is called."""
_MEAN, _STD = re.compile(r"(?!running)(\w*_)?(mean|mu)s?"), re.compile(r"(?!inv|rec)(\w*_)?(std|sigma|stdev)s?")
_THREE = re.compile(r"running_\w+|weight|bias|(\w*_)?(shift|scale|offset|mean|mu|std|sigma|stdev|var)s?")
"""What a tensor of three numbers before an encoder is called."""
_AN_IMAGE = ((3, 3), (1, 3), (3, 1))
"""How the shape of a tensor begins that meets the three channels of an image, of three dimensions or more."""


def normalizers(found: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Modules with a mean and a std of three channels, or of one for all: name -> mean and std -> name in the file."""
    made: dict[str, dict[str, str]] = {}
    for key, tensor in found.items():
        parent, _, part = key.rpartition(".")
        kind = "mean" if _MEAN.fullmatch(part) else "std" if _STD.fullmatch(part) else ""
        single = tensor.numel() == 1 and bool(_MODULE.fullmatch(parent.rpartition(".")[2]))
        if kind and (tensor.numel() == 3 or single) and not not_numbers(tensor):
            made.setdefault(parent, {})[kind] = key
    return {parent: pair for parent, pair in made.items() if len(pair) == 2}


def is_before(key: str, tensor: Tensor, beside: str = "") -> bool:
    """Whether a tensor that is not the encoder's seems to change what the encoder sees.

    ``beside``: the part of its name in which it differs from the encoder's own names, where that is known.
    """
    *path, part = key.split(".")
    beside = beside or (path or [part])[-1]
    three = tensor.numel() == 3 and bool(_THREE.fullmatch(part))
    image = tensor.dim() > 2 and (tuple(tensor.shape[:2]) in _AN_IMAGE or (tensor.dim() == 3 and len(tensor) == 3))
    named = bool(_MODULE.fullmatch(beside)) and (beside != "norm" or tensor.numel() <= 3)
    return not HEAD.fullmatch(beside) and (named or three or image)


def normalization(
    pairs: Mapping[str, dict[str, str]], found: Mapping[str, Tensor], prefix: str, asked: Normalization | None
) -> tuple[Normalization | None, set[str], list[str]]:
    """The normalisation of the file, or the one asked for; the names of its tensors; what to say of it.

    ``pairs``: of ``normalizers``; ``prefix``: of the encoder's names. Raises InvalidValue where both are there and
    differ, or the file has several and none is asked for.
    """
    values = {parent: _values(pair, found) for parent, pair in pairs.items()}
    if len(set(values.values())) > 1:  # the nearest to the encoder
        near = {parent: shared(f"{parent}.".split("."), prefix.split(".")) for parent in pairs}
        values = {parent: value for parent, value in values.items() if near[parent] == max(near.values())}
    used = {key for parent in values for key in pairs[parent].values()}
    keys = " and ".join(sorted(used))
    if len(set(values.values())) > 1 and asked is None:
        raise InvalidValue(f"expected one normalization, got several that differ: {keys}; give --encoder-normalization")
    if not values or len(set(values.values())) > 1:
        return asked, used, []
    mean, std = next(iter(values.values()))
    if max(mean) > 1 or max(std) > 2:
        mean, std = (tuple(value / 255 for value in part) for part in (mean, std))  # type: ignore[assignment]
        if asked is None:
            raise InvalidValue(
                f"expected mean and std of images in [0, 1], got {keys} of images in [0, 255]; "
                f"give --encoder-normalization {_written((mean, std))}"
            )
    if asked is not None and not np.allclose(asked, (mean, std), rtol=0, atol=1e-3):
        raise InvalidValue(
            f"expected --encoder-normalization as in the file, {_written((mean, std))} ({keys}), got {_written(asked)}"
        )
    return (mean, std), used, [f"normalization {_written((mean, std))} from {keys}"]


def refuse_others(prefix: str, beside: Mapping[str, Tensor]) -> None:
    """InvalidValue for a tensor beside the encoder that changes what the encoder sees, and is no mean or std."""
    path = prefix.split(".")
    for key, tensor in beside.items():
        parts = key.split(".")
        if is_before(key, tensor, parts[min(shared(parts, path), len(parts) - 1)]):
            raise InvalidValue(
                f"expected a mean and a std of three channels before the encoder, got {key} "
                f"{list(tensor.shape)}; give mean and std as --encoder-normalization"
            )


def _values(pair: Mapping[str, str], found: Mapping[str, Tensor]) -> Normalization:
    mean, std = (found[pair[kind]].double().flatten().tolist() for kind in ("mean", "std"))
    return tuple(mean * (3 // len(mean))), tuple(std * (3 // len(std)))


def _written(normalization: Normalization) -> str:
    return "/".join(",".join(f"{value:.4g}" for value in part) for part in normalization)
