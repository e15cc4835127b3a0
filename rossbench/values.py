"""Values that check themselves: the base of recipes, specs and scenarios.

Every class derived from Value is a frozen dataclass that checks its fields when it is made and turns whole numbers into
floats and lists into tuples where its annotations say so, so that equal values have equal keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, field, fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import InvalidValue, unknown


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
    if get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise InvalidValue(f"{name}: expected a list, got {value!r}")
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise InvalidValue(f"{name}: expected {len(kinds)} numbers, got {value!r}")
        return tuple(_checked(name, item, kinds[0], metadata) for item in value)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63  # as torch counts
    if hint is int and not (whole and low <= value <= high):
        raise InvalidValue(f"{name}: expected a whole number{bounds}, got {value!r}")
    if hint is float:
        if not (whole or isinstance(value, float)) or not math.isfinite(value) or not low <= value <= high:
            raise InvalidValue(f"{name}: expected a finite number{bounds}, got {value!r}")
        return float(value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise InvalidValue(f"{name}: expected {hint.__name__}, got {value!r}")
    if value not in metadata.get("values", (value,)):
        raise unknown(name, value, metadata["values"])
    return value


def fits(content: Any, hint: Any) -> bool:
    """Whether what was read from JSON is of an annotation, whose tuples are lists there and numbers finite."""
    kinds, origin = get_args(hint), get_origin(hint)
    if origin is UnionType:
        return any(fits(content, kind) for kind in kinds)
    if origin is tuple:
        return isinstance(content, list) and len(content) == len(kinds) and all(map(fits, content, kinds))
    if origin is list:
        return isinstance(content, list) and all(fits(item, kinds[0]) for item in content)
    if origin is dict:
        return isinstance(content, dict) and all(fits(item, kinds[1]) for item in content.values())
    if hint is float:
        return fits(content, int) or (isinstance(content, float) and math.isfinite(content))
    if hint is int:
        return isinstance(content, int) and not isinstance(content, bool) and abs(content) < 2**63
    return hint is Any or isinstance(content, hint)


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
