"""What tells one module of a user's own from another: its parts, its code, and what it makes of a few images.

Parts and code alone would take a function that reads a changed global, or a file, for the same; features alone would
take two for the same that differ on other images. A key that moves without need costs a computation, and no number.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ..util.seeds import seeded

_DEEPEST = 6
"""Levels of attributes in attributes that are looked at."""
_OF_TORCH = frozenset(vars(nn.Module()))
_FINE, _COARSE = 1e-6, 1e-2
"""Of the size of the features: how far they are rounded in float64, and in float32."""


def images(size: int) -> Tensor:
    """The probe: float [7, 3, size, size] in [0, 1], black, white, dark, bright and three of noise. Exact anywhere."""
    noise = torch.randint(0, 256, (7, 3, size, size), generator=torch.Generator().manual_seed(0)).float() / 255
    noise[0], noise[1] = 0.0, 1.0
    noise[2], noise[3] = noise[2] / 16, 1 - noise[3] / 16
    return noise


def describe(module: nn.Module) -> str:
    """64 hex digits of a SHA-256 of a module's tensors, all buffers among them, attributes, hooks and code.

    Made of a module that has not computed yet, since one may keep in an attribute what it has seen.
    """
    digest = hashlib.sha256()
    _add(digest.update, module)
    return digest.hexdigest()


def behaviour(module: nn.Module, inputs: Tensor) -> str:
    """The rounded features of the probe, as text. ``inputs``: float [n, 3, size, size], normalised.

    In float64, where rounding differs between processors and thread counts by 1e-13 and almost never crosses the
    border of a step of 1e-6; a module that cannot compute so, in float32 with steps of 1e-2, where two runs may differ,
    rarely. The module is used up: it is in float64 afterwards.
    """
    with torch.no_grad(), seeded(0):
        coarse = _rounded(module(inputs), _COARSE)
    try:
        with torch.no_grad(), seeded(0):
            made = module.double()(inputs.double())
            return _rounded(made, _FINE) if made.dtype == torch.float64 else coarse
    except Exception:  # of the user's code: tensors of its own in float32, for one
        return coarse


def _rounded(features: Tensor, step: float) -> str:
    """Eight sums with random signs an image, as multiples of a step of their root mean square, and that size itself."""
    values = features.double()
    signs = torch.randint(0, 2, (values.shape[1], 8), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    sums = values @ signs
    size = float(sums.square().mean().sqrt())
    if not size:
        return f"{list(values.shape)} of 0"
    whole = (sums / size / step).round().long().flatten().tolist()
    return f"{list(values.shape)} {round(torch.tensor(size).log().item() / step)} {whole}"


def _add(update: Callable[[bytes], None], item: Any, around: tuple[int, ...] = ()) -> None:
    """Add an item of any kind: its kind, and what is in it. ``around``: the items that this one is in."""
    update(f"\n{len(around)} {type(item).__qualname__} ".encode())
    if isinstance(item, Tensor):
        dense = item.detach().cpu().to_dense() if item.layout != torch.strided else item.detach().cpu()
        update(f"{list(item.shape)} {item.dtype} ".encode())
        update(dense.resolve_conj().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(item, numpy.ndarray) and item.dtype != object:
        update(f"{item.shape} {item.dtype} ".encode() + item.tobytes())
    elif item is None or isinstance(item, _PLAIN):
        update(repr(item).encode())
    elif len(around) < _DEEPEST and id(item) not in around:
        for part in _parts(item):
            _add(update, part, (*around, id(item)))


_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, numpy.generic)


def _parts(item: Any) -> Iterable[Any]:
    """What an item is made of, in an order that is always the same."""
    if isinstance(item, torch.jit.ScriptModule):
        return item.code, dict(item.named_parameters()), dict(item.named_buffers())
    if isinstance(item, nn.Module):
        return [
            part for name, module in item.named_modules() for part in (name, type(module).__qualname__, *_own(module))
        ]
    if isinstance(item, Mapping):
        return [part for key in item for part in (key, item[key])]
    if isinstance(item, (list, tuple)):
        return item
    if isinstance(item, (set, frozenset)):
        return sorted(map(repr, item))
    if isinstance(item, functools.partial):
        return item.func, item.args, item.keywords
    if isinstance(item, types.MethodType):
        return (item.__func__,)
    if isinstance(item, types.FunctionType):
        cells = zip(item.__code__.co_freevars, item.__closure__ or (), strict=True)
        values = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}  # but for empty ones
        return item.__code__, item.__defaults__, item.__kwdefaults__, values
    if isinstance(item, types.CodeType):
        return item.co_code, item.co_names, item.co_consts
    if isinstance(item, (type, types.ModuleType, types.BuiltinFunctionType)):
        return (item.__name__,)
    return (dict(sorted(getattr(item, "__dict__", {}).items())),)


def _own(module: nn.Module) -> Iterable[Any]:
    """Of one module, without those in it: attributes, hooks, and what its classes, torch's left out, define."""
    classes = [one for one in type(module).__mro__ if not one.__module__.startswith("torch.")]
    defined = [{name: part for name, part in vars(one).items() if isinstance(part, _DEFINED)} for one in classes]
    hooks = [list(getattr(module, name).values()) for name in ("_forward_hooks", "_forward_pre_hooks")]
    attributes = {name: part for name, part in sorted(vars(module).items()) if name not in _OF_TORCH}
    return attributes, module._parameters, module._buffers, hooks, defined


_DEFINED = (*_PLAIN, tuple, list, dict, Tensor, types.FunctionType)
