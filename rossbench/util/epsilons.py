"""Epsilons as people write and read them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import pairwise

from .errors import InvalidValue, expect, one_line

EPS = "ε"
_NUMBER = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)", re.IGNORECASE)


def fraction(text: str) -> Fraction:
    """A number as people write it, exactly. ValueError or ZeroDivisionError for others, so for 1e999999999 too."""
    if len(text) > 50 or not _NUMBER.fullmatch(text.strip()):
        raise ValueError(text)
    return Fraction(text.strip())


def is_number(text: str) -> bool:
    """Whether a text reads as one epsilon."""
    try:
        return fraction(text) >= 0
    except (ValueError, ZeroDivisionError):
        return False


def parse_epsilons(text: str) -> tuple[float, ...]:
    """Epsilons from ``0,0.5,8/255`` or ``start:stop:step`` (stop included), or both, joined by commas.

    Computed in fractions: ``0:1:0.2`` gives 0.6, not 0.6000000000000001. Raises InvalidValue.
    """
    found: list[Fraction] = []
    for part in text.split(","):
        numbers = [_fraction(piece, text) for piece in part.split(":")]
        if len(numbers) == 1:
            found += numbers
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
            start, stop, step = numbers
            steps = (stop - start) // step
            expect(steps <= 1000, f"epsilons {text!r}", "at most 1000 steps", steps)
            found += [start + i * step for i in range(steps + 1)]
        else:
            raise InvalidValue(f"epsilons {text!r}: expected numbers or start:stop:step, got {part!r}")
    epsilons = tuple(map(float, found))
    ascend = all(a < b for a, b in pairwise(epsilons))
    expect(ascend, f"epsilons {text!r}", "ascending numbers", ", ".join(map(format_epsilon, epsilons)))
    return epsilons


def _fraction(text: str, whole: str) -> Fraction:
    try:
        number = fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InvalidValue(f"epsilons {whole!r}: expected numbers such as 0.5 or 8/255, got {text!r}") from None
    expect(0 <= number <= 1000, f"epsilons {whole!r}", "numbers in [0, 1000]", one_line(text))
    return number


def format_epsilon(epsilon: float) -> str:
    """``0.2``, ``1``, or ``8/255`` where the decimal is long and the fraction is not."""
    short = f"{epsilon:.4g}"
    levels = round(epsilon * 255) if abs(epsilon) <= 1000 else 0
    if not math.isclose(float(short), epsilon) and math.isclose(levels / 255, epsilon):
        return f"{levels}/255"
    return short


def format_model(pretraining: float, finetuning: float) -> str:
    """A model by the epsilons it was trained with: ``1``, or ``1:0`` when the two differ."""
    first, second = format_epsilon(pretraining), format_epsilon(finetuning)
    return first if pretraining == finetuning else f"{first}:{second}"


def parse_models(text: str) -> tuple[tuple[float, float], ...]:
    """Pairs of pretraining and finetuning epsilon from ``0,1,1:0``. Raises InvalidValue."""
    models = []
    for part in text.split(","):
        numbers = [float(_fraction(piece, text)) for piece in part.split(":")]
        expect(len(numbers) <= 2, f"models {text!r}", "such as 1, or 1:0 (pretraining:finetuning)", f"{part!r}")
        models.append((numbers[0], numbers[-1]))
    return tuple(models)


def check_models(wanted: Sequence[tuple[float, float]], known: Collection[tuple[float, float]]) -> None:
    """InvalidValue for a model that is not among the known ones."""
    there = " or ".join(format_model(*one) for one in sorted(known))
    for model in wanted:
        expect(model in known, "models", f"the {EPS} of a model that was run, {there}", format_model(*model))


def check_epsilon(expected: str, wanted: float, known: Collection[float]) -> None:
    """InvalidValue for an epsilon that is not among the known ones; ``expected``: what is said of these."""
    if wanted not in known:
        there = ", ".join(map(format_epsilon, known)) or "none"
        raise InvalidValue(f"{expected}, {there}, got {format_epsilon(wanted)}")
