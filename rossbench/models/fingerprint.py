"""What tells one module of a user's own from another: its parts, its code, and what it makes of a few images.

Parts and code alone would take a function that reads a changed global, or a file, for the same; features alone would
take two for the same that differ on other images. A key that moves without need costs a computation, and no number.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ..util.seeds import seeded

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
    _add(digest.update, module, 0, {})
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


def _add(update: Callable[[bytes], None], item: Any, depth: int, seen: dict[int, Any]) -> None:
    """Add an item of any kind: its kind, and what is in it, once. ``seen``: by id, kept so that no id is used twice."""
    update(f"\n{depth} {type(item).__qualname__} ".encode())
    if isinstance(item, Tensor):
        dense = item.detach().cpu().to_dense() if item.layout != torch.strided else item.detach().cpu()
        update(f"{list(item.shape)} {item.dtype} ".encode())
        update(dense.resolve_conj().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(item, numpy.ndarray) and item.dtype != object:
        update(f"{item.shape} {item.dtype} ".encode() + item.tobytes())
    elif item is None or isinstance(item, _PLAIN):
        update(repr(item).encode())
    elif id(item) in seen:
        update(str(seen[id(item)][0]).encode())
    else:
        if not isinstance(item, (tuple, frozenset, types.CodeType)):  # which Python itself may make one of two
            seen[id(item)] = len(seen), item
        for part in _parts(item):
            _add(update, part, depth + 1, seen)


_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, numpy.generic)


def _parts(item: Any) -> Iterable[Any]:
    """What an item is made of, in an order that is always the same."""
    of: Callable[[Any], Iterable[Any]] = next((of for kind, of in _MADE_OF if isinstance(item, kind)), _pickled)
    return of(item)


def _pickled(item: Any) -> Iterable[Any]:
    """What pickle would keep of an item: its class and its state, with slots, and what is in it."""
    try:
        made = item.__reduce_ex__(4)
    except Exception:  # of what cannot be pickled; a class of the user's own may raise anything
        made = ""
    if isinstance(made, str):  # the name of a global, such as a cached function
        return (dict(sorted(getattr(item, "__dict__", {}).items())),)
    function, arguments, state, items, pairs = (*made, None, None, None)[:5]
    return function.__qualname__, arguments, state, list(items or ()), list(pairs or ())


def _own(module: nn.Module) -> Iterable[Any]:
    """Of one module, without those in it: attributes, hooks, and what its classes define."""
    hooks = [list(getattr(module, name).values()) for name in ("_forward_hooks", "_forward_pre_hooks")]
    attributes = {name: part for name, part in sorted(vars(module).items()) if name not in _OF_TORCH}
    return attributes, module._parameters, module._buffers, hooks, _defined(type(module))


def _defined(one: type) -> list[dict[str, Any]]:
    """Attributes and code of a class and of those that it is made of, libraries' left out."""
    classes = [cls for cls in one.__mro__ if cls.__module__.partition(".")[0] not in _LIBRARIES]
    return [
        {name: part for name, part in vars(cls).items() if name[:2] != "__" or isinstance(part, _DEFINED)}
        for cls in classes
    ]


_DEFINED = (*_PLAIN, tuple, list, dict, types.FunctionType)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}


def _of_module(module: nn.Module) -> list[Any]:
    parts = [(name, type(inner).__qualname__, *_own(inner)) for name, inner in module.named_modules()]
    return [part for one in parts for part in one]


def _of_function(function: types.FunctionType) -> tuple[Any, ...]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}  # but for empty ones
    return function.__code__, function.__defaults__, function.__kwdefaults__, values


def _bound_to(function: types.BuiltinFunctionType) -> list[Any]:
    return [] if isinstance(function.__self__, (types.ModuleType, NoneType)) else [function.__self__]


_MADE_OF: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (torch.jit.ScriptModule, lambda item: (item.code, dict(item.named_parameters()), dict(item.named_buffers()))),
    (nn.Module, _of_module),
    (Mapping, lambda item: [part for key in item for part in (key, item[key])]),
    ((list, tuple), iter),
    ((set, frozenset), lambda item: sorted(map(repr, item))),
    (functools.partial, lambda item: (item.func, item.args, item.keywords)),
    (types.MethodType, lambda item: (item.__func__, item.__self__)),
    ((staticmethod, classmethod), lambda item: (item.__func__,)),
    (property, lambda item: (item.fget,)),
    (types.FunctionType, _of_function),
    (types.CodeType, lambda item: (item.co_code, item.co_names, item.co_consts)),
    (type, lambda item: (item.__name__, *_defined(item))),
    (types.BuiltinFunctionType, lambda item: (item.__name__, *_bound_to(item))),
    (types.ModuleType, lambda item: (item.__name__,)),
)
"""Kinds of items, of which the first counts, and their parts."""
