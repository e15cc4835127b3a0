"""Values that check themselves: the base of recipes, specs and scenarios.

Every class derived from Value is a frozen dataclass that checks its fields when it is made and turns whole numbers into
floats and lists into tuples where its annotations say so, so that equal values have equal keys.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import InvalidValue, one_line, unknown


def within(default: Any, low: float, high: float = math.inf, added: bool = False) -> Any:
    """A dataclass field whose numbers lie in [low, high]; ``added``: see settled."""
    return field(default=default, metadata={"range": (low, high), "added": added})


def one_of(default: str, *values: str, added: bool = False) -> Any:
    """A dataclass field that is one of ``values``; ``added``: see settled."""
    return field(default=default, metadata={"values": values, "added": added})


def added(default: Any) -> Any:
    """A dataclass field that came later; see settled."""
    return field(default=default, metadata={"added": True})


POSITIVE = 1e-12  # the least learning rate, temperature or sigma: a bound that leaves zero out


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


class Value:
    """Base of frozen dataclasses: checks and normalises the fields of a new instance."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # mypy takes a class's hash for its instances'
        for spec in fields(self):  # type: ignore[arg-type]
            name = f"{type(self).__name__}.{spec.name}"
            value = _checked(name, getattr(self, spec.name), hints[spec.name], spec.metadata)
            object.__setattr__(self, spec.name, value)


def _checked(name: str, value: Any, hint: Any, metadata: Any) -> Any:
    low, high = metadata.get("range", (-math.inf, math.inf))
    bounds = f" in [{low:g}, {high:g}]" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
    kinds = get_args(hint)
    if type(None) in kinds:
        return None if value is None else _checked(name, value, kinds[0], metadata)
    if hint is Any:
        return value
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise InvalidValue(f"{name}: expected an object, got {value!r:.200}")
        return {key: _checked(f"{name}.{one_line(key)}", item, kinds[1], metadata) for key, item in value.items()}
    if get_origin(hint) in (tuple, list):
        if not isinstance(value, (tuple, list)):
            raise InvalidValue(f"{name}: expected a list, got {value!r:.200}")
        every = kinds if get_origin(hint) is tuple and kinds[-1] is not Ellipsis else kinds[:1] * len(value)
        if len(value) != len(every):
            what = "numbers" if set(kinds) == {float} else "items"
            raise InvalidValue(f"{name}: expected {len(kinds)} {what}, got {value!r:.200}")
        return tuple(_checked(name, item, kind, metadata) for item, kind in zip(value, every, strict=True))
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is int and not (whole and low <= value <= min(high, 2**63 - 1)):  # as far as torch counts
        raise InvalidValue(f"{name}: expected a whole number{bounds}, got {value!r}")
    if hint is float:
        if not (whole or isinstance(value, float)) or not abs(value) <= sys.float_info.max or not low <= value <= high:
            raise InvalidValue(f"{name}: expected a finite number{bounds}, got {value!r}")
        return float(value) + 0.0  # -0.0 is 0.0, in keys too
    if isinstance(hint, type) and not isinstance(value, hint):
        raise InvalidValue(f"{name}: expected {hint.__name__}, got {value!r}")
    if value not in metadata.get("values", (value,)):
        raise unknown(name, value, metadata["values"])
    return value


def expect(content: Mapping[str, Any], hints: Mapping[str, Any], **ranges: tuple[float, float]) -> None:
    """InvalidValue unless items of a file's content are of these types and in these ranges, and all that is in them."""
    for name, hint in hints.items():
        _checked(name, content[name], hint, {"range": ranges[name]} if name in ranges else {})


V = TypeVar("V")


def build(cls: type[V], content: Mapping[str, Any]) -> V:
    """The value that ``dataclasses.asdict`` took apart. InvalidValue if it holds other fields than ``cls``.

    What was written before a field was added has its default.
    """
    names = {spec.name for spec in fields(cls)}  # type: ignore[arg-type]
    later = {spec.name for spec in fields(cls) if spec.metadata.get("added")}  # type: ignore[arg-type]
    if not isinstance(content, Mapping) or not names - later <= set(content) <= names:
        raise InvalidValue(f"{cls.__name__}: expected the fields {', '.join(sorted(names))}, got {content!r:.200}")
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy takes a class's hash for its instances'
    parts = {name: build(hints[name], item) if is_dataclass(hints[name]) else item for name, item in content.items()}
    return cls(**parts)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value, or its dictionary, as one dictionary, such as {"recipe.pretraining.epochs": 500}."""
    flat: dict[str, Any] = {}
    for name, item in (value if isinstance(value, dict) else asdict(value)).items():
        flat.update(flatten(item, f"{prefix}{name}.") if isinstance(item, dict) else {prefix + name: item})
    return flat


def settled(value: Any) -> dict[str, Any]:
    """``dataclasses.asdict`` without added fields that have their default: what keys and hashes are made of.

    So what was named before a field was added keeps its name. The default has to be what was done before.
    """
    items = {spec: getattr(value, spec.name) for spec in fields(value)}
    return {
        spec.name: settled(item) if is_dataclass(item) else item
        for spec, item in items.items()
        if not (spec.metadata.get("added") and item == spec.default)
    }
