"""The command line: options in, tables out. torch is imported by ``run`` alone."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from . import registry
from .epsilons import EPS, format_epsilon, parse_epsilons
from .errors import RossbenchError
from .report import tables
from .scenario import Scenario
from .store import Store
from .values import flatten

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Errors are one line on stderr and exit code 2; --debug shows where they come from."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(given, prog_name="rossbench", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in given:
            traceback.print_exc()
        message, code = _explain(error)
        click.echo("rossbench: " + " ".join(message.split()), err=True)
        sys.exit(code)


def _explain(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, click.ClickException):
        return error.format_message(), EXIT_USAGE
    if isinstance(error, RossbenchError):
        return str(error), EXIT_USAGE
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted; the same command goes on from the last finished epoch", EXIT_INTERRUPTED
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", EXIT_UNEXPECTED


# --- options -----------------------------------------------------------------------------------------------


def _epsilons(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    return None if value is None else parse_epsilons(value)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda, cuda:N or mps, got {value!r}", ctx, param)
    return value


def _load_scenario_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        registry.load_file(value)


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _together(*decorators: _Decorator) -> _Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback with an error.")
_scenario_file = click.option(
    "--scenario-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_scenario_file,
    help="Python file that registers scenarios of your own.",
)
_store = click.option(
    "--out",
    "--store",
    "store",
    type=click.Path(file_okay=False, path_type=Path),
    default="rossbench-store",
    show_default=True,
    help="Folder of artifacts and records.",
)
_count = click.IntRange(min=1)
_overrides = _together(
    click.option("--train-eps", "train_epsilons", callback=_epsilons, help="Rows, such as 0,1 or 0:1:0.2 or 8/255."),
    click.option("--eval-eps", "eval_epsilons", callback=_epsilons, help="Columns, written the same way."),
    click.option("--epochs", type=_count, help="Of pretraining."),
    click.option("--finetune-epochs", type=_count, help="Of finetuning."),
    click.option("--train-limit", type=_count, help="Use that many training images, class-balanced."),
    click.option("--test-limit", type=_count, help="Use that many test images, class-balanced."),
    click.option("--seed", type=click.IntRange(0, 2**62), help="Of weights, order, views and attacks."),
    click.option("--encoder", help="conv3, a timm model, or a timm ResNet with :cifar appended."),
)


def _scenario(name: str, changed: dict[str, Any]) -> Scenario:
    """The registered scenario with the options that were given."""
    scenario = registry.get(name)
    fields = ("train_epsilons", "eval_epsilons", "train_limit", "test_limit", "seed", "encoder")
    top = {field: changed[field] for field in fields if changed[field] is not None}
    recipe = scenario.recipe
    if changed["epochs"] is not None:
        pretraining = dataclasses.replace(recipe.pretraining, epochs=changed["epochs"])
        recipe = dataclasses.replace(recipe, pretraining=pretraining)
    if changed["finetune_epochs"] is not None:
        finetuning = dataclasses.replace(recipe.finetuning, epochs=changed["finetune_epochs"])
        recipe = dataclasses.replace(recipe, finetuning=finetuning)
    return dataclasses.replace(scenario, recipe=recipe, **top)


# --- commands ----------------------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="rossbench")
@_debug_option
def cli() -> None:
    """How robust are self-supervised encoders, and how does their robustness transfer?"""


@cli.command("list")
@_scenario_file
@_debug_option
def list_() -> None:
    """Registered scenarios."""
    table = Table(show_edge=False)
    for title in ("scenario", "source", "target", "encoder", "recipe", "matrix"):
        table.add_column(title, no_wrap=title == "scenario")
    for name in registry.names():
        one = registry.get(name)
        size = f"{len(one.train_epsilons)} x {len(one.eval_epsilons)}"
        cells = (one.name, one.source, one.target, one.encoder, one.recipe.name, size)
        table.add_row(*map(escape, cells))
    Console().print(table)


@cli.command()
@click.argument("name")
@_overrides
@_scenario_file
@_debug_option
def show(name: str, **changed: Any) -> None:
    """Matrix, recipe and cost of a scenario, under the same options as run."""
    scenario = _scenario(name, changed)
    registered = registry.get(name)
    console = Console()
    console.print(f"[bold]{escape(scenario.name)}[/]  RoSS {scenario.source} → {scenario.target}")
    if scenario.description:
        console.print(escape(scenario.description))
    console.print(f"\nrows     model {EPS}       ", ", ".join(map(format_epsilon, scenario.train_epsilons)))
    console.print(f"columns  evaluation {EPS}  ", ", ".join(map(format_epsilon, scenario.eval_epsilons)))
    work = scenario.passes()
    counts = collections.Counter(spec.stage for spec in scenario.specs())
    console.print("\nCost, in passes of one image through the encoder")
    cost = Table(show_edge=False)
    cost.add_column("stage")
    cost.add_column("artifacts", justify="right")
    cost.add_column("million passes", justify="right")
    for stage, passes in work.items():
        cost.add_row(stage, str(counts[stage]), f"{passes / 1e6:,.2f}")
    cost.add_row("all", str(sum(counts.values())), f"{sum(work.values()) / 1e6:,.2f}", style="bold")
    console.print(cost)
    console.print("[dim]forward 1; backward to the input 1, to input and weights 2[/]")
    changes = scenario.deviations(registered)
    console.print(f"\nRecipe {escape(scenario.recipe.name)}")
    recipe = Table(show_edge=False)
    recipe.add_column("field")
    recipe.add_column("value")
    shown = ("encoder", "train_limit", "test_limit", "seed")
    for field, value in flatten(scenario).items():
        if field in shown or (field.startswith("recipe.") and field != "recipe.name"):
            was = f"  [yellow](registered: {escape(str(changes[field][1]))})[/]" if field in changes else ""
            recipe.add_row(field.removeprefix("recipe."), escape(str(value)) + was)
    console.print(recipe)


@cli.command()
@click.argument("name")
@_overrides
@click.option("--device", callback=_device, default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data sets.  [default: ROSSBENCH_DATA or ~/.cache/rossbench/data]",
)
@_store
@_scenario_file
@_debug_option
def run(name: str, device: str, data_dir: Path | None, store: Path, **changed: Any) -> None:
    """Pretrain, finetune and attack whatever the store lacks of a scenario's matrix."""
    scenario = _scenario(name, changed)
    console = Console()
    with console.status("loading torch") if console.is_terminal else contextlib.nullcontext():
        from . import display, runner
    with display.showing(console) as observe:
        runner.run(scenario, store=store, data_dir=data_dir, device=device, observe=observe)
    for matrix in tables.load(Store(store), [scenario.name], scenario.protocol):
        console.print(tables.to_rich(matrix, "top1", console.width))
    console.print(Text(f"Stored in {store}; see it again: rossbench report {scenario.name}"), soft_wrap=True)


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--metric", type=click.Choice(list(tables.METRICS)), default="top1", show_default=True)
@click.option("--format", "form", type=click.Choice(["table", *tables.FORMATS]), default="table", show_default=True)
@_store
@_debug_option
def report(names: tuple[str, ...], metric: str, form: str, store: Path) -> None:
    """The matrices in the store: rows are the models' epsilons, columns those of the evaluation."""
    matrices = tables.load(Store(store), names)
    if form != "table":
        click.echo(tables.FORMATS[form](matrices, metric), nl=False)
        return
    console = Console()
    for matrix in matrices:
        console.print(tables.to_rich(matrix, metric, console.width))
