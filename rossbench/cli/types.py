"""Values and commands as click knows them, with errors that say what was expected, what came, and the way out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import click

from .. import registry
from ..util.errors import UnknownName, unknown


def _range(of: click.IntRange | click.FloatRange) -> str:
    low, high = (f"{bound:g}" if abs(bound or 0) < 10**7 else f"{bound}" for bound in (of.min or 0, of.max or 0))
    said = [f"{'above' if of.min_open else 'of at least'} {low}"] * (of.min is not None)
    return " and ".join([*said, *[f"at most {high}"] * (of.max is not None)])


class Number(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"expected a finite number {_range(self)}, got {value!r:.200}", param, ctx)
        return number


class Whole(click.IntRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a whole number {_range(self)}, got {value!r:.200}", param, ctx)


class Text(click.types.StringParamType):
    """Text that a function parses. Where ``expected`` is given, that is said of a ValueError."""

    def __init__(self, parse: Callable[[str], Any], expected: str = "", name: str = "text") -> None:
        self.parse, self.expected, self.name = parse, expected, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.parse(value)
        except ValueError:
            if not self.expected:
                raise
            self.fail(f"expected {self.expected}, got {value!r}", param, ctx)


class Choice(click.Choice[str]):
    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        *some, last = self.choices
        return f"expected {', '.join(some)} or {last}, got {value!r:.200}"


class Path(click.Path):
    """A path, existing or not, that the system can look up; a leading ~ is the home folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = os.path.expanduser(value)
        if str(path).startswith("~"):
            self.fail(
                f"expected a home folder that is known, got {value!r:.200}; ./{value!s:.200} is a name", param, ctx
            )
        try:
            os.lstat(path)
        except FileNotFoundError:
            if not path:
                self.fail("expected a path, got ''", param, ctx)
        except (OSError, ValueError) as error:  # too long, below a file, with a NUL in it
            self.fail(f"expected a path, got {path!r:.200}: {getattr(error, 'strerror', error)}", param, ctx)
        return super().convert(path, param, ctx)


class Group(click.Group):
    """Commands by name; for another name the nearest, or all, or how a scenario of that name is given."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0]
            if name.startswith("-"):
                raise
            scenarios = {*registry.names(), *(suite.name for suite in registry.suites())}
            first = next((command for command in ("run", "matrix") if command in self.commands), "")
            meant = {"help": f"{ctx.command_path} --help"}
            meant |= dict.fromkeys(scenarios if first else (), f"{ctx.command_path} {first} {name}")
            if name in meant:
                raise UnknownName(f"unknown command {name!r}; did you mean {meant[name]}?") from error
            raise unknown("command", name, self.commands) from error


def with_usage(error: click.UsageError) -> str:
    """The message of an error, and of arguments that are too many or missing what there may be."""
    message = error.format_message()
    if error.ctx is None or "argument" not in message or isinstance(error, click.BadOptionUsage):
        return message
    usage = " ".join(error.ctx.get_usage().split()).removeprefix("Usage: ")
    if "unexpected" in message and "NAME" in usage:
        usage += "; values of one option are joined by commas, such as 0,1"
    return f"{message.rstrip('.')}; usage: {usage}"
