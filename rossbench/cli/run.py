"""list, show and run: from what is registered to records in the store."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .. import registry
from ..config.scenarios import Scenario, specs_of
from ..config.specs import passes
from ..data.datasets import default_data_dir, facts
from ..report import formats, tables
from ..store import results
from ..store.store import Store
from ..util import torchrun
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.values import flatten
from . import costs, options

if TYPE_CHECKING:
    from ..models.checkpoints import PretrainedEncoder


@click.command("list")
@options.scenario_file
@options.debug_option
def list_() -> None:
    """Registered scenarios and suites of them."""
    console = Console()
    scenarios = Table(show_edge=False)
    for title in ("scenario", "encoder", "recipe", "matrix"):
        scenarios.add_column(title, no_wrap=title == "scenario")
    for name in registry.names():
        one = registry.get(name)
        size = f"{len(one.rows)} x {len(one.eval_epsilons)}"
        scenarios.add_row(*map(escape, (one.name, one.encoder, one.recipe.name, size)))
    console.print(scenarios, "")
    suites = Table(show_edge=False)
    for title in ("suite", "of"):
        suites.add_column(title, no_wrap=title == "suite")
    for suite in registry.suites():
        suites.add_row(escape(suite.name), escape(suite.description or ", ".join(suite.members)))
    console.print(suites)


@click.command()
@click.argument("name")
@options.overrides
@options.costs
@options.device
@options.store
@options.scenario_file
@options.debug_option
def show(name: str, cost: bool, rate: float | None, calibrate: bool, device: str, store: Path, **changed: Any) -> None:
    """Matrix, recipe and cost of a scenario or suite, under the same options as run."""
    if rate is not None and calibrate:
        raise click.UsageError("expected --rate or --calibrate, got both")
    scenarios = options.changed_scenarios(name, changed)
    options.check_source(changed["encoder_weights"])
    scenarios, given = _given(scenarios, changed)
    console = Console()
    for one in given:
        console.print(escape(str(one)), "")
    if cost:
        encoders = {one.weights: one.encoder for one in given}
        costs.show(console, scenarios, Store(store), encoders, rate, device if calibrate else None)
        return
    if name not in registry.names():
        console.print(f"[bold]{escape(name)}[/]  {len(scenarios)} scenarios\n")
    for scenario in {one.name: one for one in scenarios}.values():  # of several seeds once
        console.print(f"[bold]{escape(scenario.name)}[/]  RoSS {scenario.source} → {scenario.target}")
        if scenario.description:
            console.print(escape(scenario.description))
        console.print(f"rows     model {EPS}       ", ", ".join(format_model(*row) for row in scenario.rows))
        console.print(f"columns  evaluation {EPS}  ", ", ".join(map(format_epsilon, scenario.eval_epsilons)), "\n")
    console.print("Cost, in passes of one image through the encoder")
    console.print(_cost(scenarios))
    console.print("[dim]forward 1; backward to the input 1, to input and weights 2[/]")
    shown: list[dict[str, str]] = []
    for scenario in scenarios:
        settings = _settings(scenario)
        if settings not in shown:  # those of a suite's scenarios are mostly the same
            shown.append(settings)
            table = Table("field", "value", show_edge=False)
            for field, value in settings.items():
                table.add_row(field, value)
            console.print(f"\nRecipe {escape(scenario.recipe.name)}")
            console.print(table)


def _given(scenarios: list[Scenario], changed: dict[str, Any]) -> tuple[list[Scenario], list[PretrainedEncoder]]:
    """The scenarios with the encoder of --encoder-weights, and that encoder, once for each architecture and size."""
    source: str | None = changed["encoder_weights"]
    if source is None:
        return scenarios, []
    from ..models import checkpoints

    normalization = changed["encoder_normalization"] or checkpoints.NONE
    found: dict[tuple[str, int], PretrainedEncoder] = {}
    made = []
    for scenario in scenarios:
        place = scenario.encoder, facts(scenario.source).size
        if place not in found:
            found[place] = checkpoints.read(source, *place, normalization)
        one = found[place]
        made.append(dataclasses.replace(scenario, encoder=one.name, weights=one.weights))
    return made, list(found.values())


def _cost(scenarios: Sequence[Scenario]) -> Table:
    specs = list(specs_of(scenarios))
    work, counts = passes(specs), collections.Counter(spec.stage for spec in specs)
    table = Table(show_edge=False)
    table.add_column("stage")
    table.add_column("artifacts", justify="right")
    table.add_column("million passes", justify="right")
    for stage, number in work.items():
        table.add_row(stage, str(counts[stage]), f"{number / 1e6:,.2f}")
    table.add_row("all", str(len(specs)), f"{sum(work.values()) / 1e6:,.2f}", style="bold")
    return table


def _settings(scenario: Scenario) -> dict[str, str]:
    """Fields of the protocol with their values, and those of the registered scenario where they differ."""
    changes = scenario.deviations(registry.get(scenario.name))
    return {
        field.removeprefix("recipe."): escape(str(value))
        + (f"  [yellow](registered: {escape(str(changes[field][1]))})[/]" if field in changes else "")
        for field, value in flatten(scenario).items()
        if field in ("encoder", "train_limit", "test_limit", "seed")
        or (field == "weights" and scenario.weights)
        or (field.startswith("recipe.") and field != "recipe.name")
        if not (scenario.weights and field.startswith("recipe.pretraining."))
    }


@click.command()
@click.argument("name")
@options.overrides
@options.device
@options.data_dir
@options.store_to_write
@options.tensorboard
@options.workers
@options.scenario_file
@options.debug_option
def run(
    name: str,
    device: str,
    data_dir: Path | None,
    store: Path,
    tensorboard: Path | None,
    shard: tuple[int, int],
    ray: str | None,
    cpus: float | None,
    gpus: float | None,
    **changed: Any,
) -> None:
    """Pretrain, finetune and attack whatever the store lacks of a scenario or suite."""
    options.check_workers(ray, cpus, gpus)
    scenarios = options.changed_scenarios(name, changed)
    options.check_source(changed["encoder_weights"])
    console = Console(quiet=not torchrun.is_rank_zero())
    with console.status("loading torch") if console.is_terminal else contextlib.nullcontext():
        from ..runner import display, progress, run
        from ..stages import pretrain
        from ..util import distributed
        from ..util.devices import resolve_device
    scenarios, given = _given(scenarios, changed)
    for one in given:
        console.print(escape(str(one)), soft_wrap=True)
    if not torchrun.is_rank_zero():
        with distributed.process_group():
            pretrain.serve(resolve_device(device), data_dir or default_data_dir())
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.process_group())
        observers = []
        if tensorboard is not None:
            from ..runner import tensorboard as board

            observers.append(stack.enter_context(board.logging_to(tensorboard)))
        observers.append(stack.enter_context(display.showing(console)))

        def observe(news: progress.Progress) -> None:
            for observer in observers:
                observer(news)

        where: dict[str, Any] = {"store": store, "data_dir": data_dir, "device": device, "observe": observe}
        if ray is not None:
            from ..runner import cluster

            where["executor"] = stack.enter_context(cluster.connected(ray, cpus or 1.0, gpus or 0.0, device))
        run.run_suite(scenarios, encoders=given, shard=shard, **where)
        for scenario in scenarios:
            (matrix,) = results.load(Store(store), [scenario.name], scenario.protocol)
            if shard == (1, 1) or len(matrix.records) == len(matrix.cells):  # the last shard audits all
                run.audit([scenario.name], protocol=scenario.protocol, **where)
    stored = [one for scenario in scenarios for one in results.load(Store(store), [scenario.name], scenario.protocol)]
    for family in tables.families(stored):
        console.print(formats.to_rich(tables.over_seeds(family, family[0].metric), console.width))
    again = f"rossbench report {name}" + ("" if str(store) == options.STORE else f" --out {shlex.quote(str(store))}")
    if name not in {scenario.name for scenario in scenarios} and options.FILE in (
        meta := click.get_current_context().meta
    ):
        again += f" --scenario-file {shlex.quote(str(meta[options.FILE]))}"  # the store does not know suites
    console.print(Text(f"Stored in {store}; see it again: {again}"), soft_wrap=True)
