"""Values that check themselves: recipes, specs, scenarios and records. The home of pydantic.

A value is a frozen dataclass that pydantic checks when it is made, and when it is read from a file. Types are strict
but for two conveniences: whole numbers become floats and lists become tuples, so that equal values have equal keys.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from .epsilons import fraction
from .errors import InvalidValue, RossbenchError, check_known, one_line, unknown

V = TypeVar("V")
Item = TypeVar("Item")

Real = Annotated[float, AfterValidator(lambda number: number + 0.0)]
"""Finite; -0.0 is 0.0, in keys too."""
Whole = Annotated[int, Field(le=2**63 - 1)]
"""As far as torch counts."""
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
"""Height and width of an image."""
Seed = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Many = Annotated[tuple[Item, ...], Field(strict=False)]
Pair = Annotated[tuple[Item, Item], Field(strict=False)]
Epsilons = Many[NotNegative]

_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def checked(is_right: Callable[[Any], object], expected: str) -> AfterValidator:
    """For a field: what is not right, or cannot be told by a ValueError, is refused with what was expected in words."""

    def check(item: V) -> V:
        with contextlib.suppress(ValueError):
            if is_right(item):
                return item
        raise ValueError(expected)

    return AfterValidator(check)


def matches(pattern: str, expected: str) -> AfterValidator:
    """For a field: text that matches as a whole."""
    return checked(re.compile(pattern).fullmatch, expected)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def value(cls: type[V]) -> type[V]:
    """Class decorator: a frozen dataclass whose fields are checked. What is wrong with them is an InvalidValue."""
    by_content = cls.__eq__ is object.__eq__  # a base may say what makes two values equal
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, eq=by_content, config=_CONFIG)
    check = made.__init__

    @functools.wraps(check)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            check(self, *arguments, **named)
        except ValidationError as error:
            raise explain(cls, error) from None

    made.__init__ = init
    return cast(type[V], made)


def read(cls: type[V], content: bytes | str) -> V:
    """A value from the JSON that ``encode`` made. Raises InvalidValue, or UnknownName."""
    try:
        return cast(V, cls.__pydantic_validator__.validate_json(content))  # type: ignore[attr-defined]
    except ValidationError as error:
        raise explain(cls, error) from None


def encode(content: Any) -> bytes:
    """JSON of a value, or of plain data, for a file."""
    plain = asdict(content) if is_dataclass(content) and not isinstance(content, type) else content
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse(cls: type, field: str, text: str) -> Any:
    """The value of a field as a person writes it: a word, JSON, a fraction such as 8/255, a list such as 0.1,2.

    Raises InvalidValue, or UnknownName.
    """
    hint = cls.__pydantic_fields__[field].rebuild_annotation()  # type: ignore[attr-defined]
    plain, refused = _plain(text), []
    for given, strict in ((plain, True), ([plain], True), (text, False)):  # a list of one; a number as text
        try:
            return TypeAdapter(hint, config=ConfigDict(strict=strict, allow_inf_nan=False)).validate_python(given)
        except ValidationError as error:
            refused.append(error)
    raise explain(cls, refused[0], field)


def parse_settings(cls: type, what: str, texts: Iterable[str]) -> dict[str, Any]:
    """Fields of a class, all but its name, and their values, of texts such as ``steps=100``; see parse.

    what: such a setting is called in an UnknownName.
    """
    found, known = {}, [field for field in cls.__pydantic_fields__ if field != "name"]  # type: ignore[attr-defined]
    for text in texts:
        field, _, written = text.partition("=")
        check_known(what, field, known)
        found[field] = parse(cls, field, written)
    return found


def _plain(text: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    if "," in text:
        return [_plain(part) for part in text.split(",")]
    with contextlib.suppress(ValueError, ArithmeticError):
        return float(fraction(text))
    return text


def explain(cls: type, error: ValidationError, *field: str) -> RossbenchError:
    """The first of the errors, in one line: which field, what was expected, what came."""
    first = error.errors(include_url=False)[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, RossbenchError):  # raised by a value's own check
        return own
    names = [known.name for known in fields(cls)]
    parts = [*field, *first["loc"]]
    if parts and isinstance(parts[0], int):  # an argument without its name
        parts[0] = names[parts[0]]
    kind, place = first["type"], ".".join(one_line(str(part)) for part in (cls.__name__, *parts))
    if kind in ("missing", "missing_argument"):
        return InvalidValue(f"{place}: expected a value, got none")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown("field", place, names) if len(parts) == 1 else InvalidValue(f"unknown field {place!r:.200}")
    context, got = first.get("ctx", {}), one_line(f"{first['input']!r:.200}")
    if kind == "literal_error":
        return unknown(place, got.strip("'"), context["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    said = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = _EXPECTED.get(kind, said[:1].lower() + said[1:]).format_map(context)
    return InvalidValue(f"{place}: expected {expected}, got {got}")


_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a finite number"),
    "greater_than_equal": "a number of at least {ge:g}",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "a number of at most {le:g}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    "string_pattern_mismatch": "text of the form {pattern}",
    "tuple_type": "a list",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "dict_type": "an object",
    **dict.fromkeys(("dataclass_type", "dataclass_exact_type"), "the fields of {class_name}"),
}
"""What pydantic expected, by the type of its error, in fewer words."""


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value, or its dictionary, as one dictionary, such as {"recipe.pretraining.epochs": 500}."""
    flat: dict[str, Any] = {}
    for name, item in (content if isinstance(content, Mapping) else asdict(content)).items():
        flat.update(flatten(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {prefix + name: item})
    return flat


def with_fields(content: V, changes: Mapping[str, Any]) -> V:
    """A nested value with other fields, by their names in ``flatten``; each part of it is made, and checked, once."""
    own = {name: item for name, item in changes.items() if "." not in name}
    nested: dict[str, dict[str, Any]] = {}
    for path, item in changes.items():
        part, dot, name = path.partition(".")
        if dot:
            nested.setdefault(part, {})[name] = item
    for part, inner in nested.items():
        own[part] = with_fields(own.get(part, getattr(content, part)), inner)
    return replace(content, **own)  # type: ignore[type-var]


def distinct(content: Any) -> dict[str, Any]:
    """The fields of a value that differ from their defaults: what keys and hashes are made of.

    So what was named before a field was added keeps its name, if the default is what was done before.
    """
    items = {field: getattr(content, field.name) for field in fields(content)}
    return {
        field.name: distinct(item) if is_dataclass(item) else item
        for field, item in items.items()
        if item != field.default
    }
