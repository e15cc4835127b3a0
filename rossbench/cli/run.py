"""list, show and run: from what is registered to records in the store."""

from __future__ import annotations

import collections
import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .. import registry
from ..config.kinds import ATTACK
from ..config.scenarios import VERSION, Scenario, specs_of
from ..config.specs import passes
from ..data.datasets import DATASETS, default_data_dir
from ..report import formats, kind_tables
from ..runner.overrides import changed_scenarios, choices_of_file
from ..store import results
from ..store.store import Store
from ..util import torchrun
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.values import encode, flatten
from . import costs, options
from .terminal import Console, table

if TYPE_CHECKING:
    from ..models.pretrained import PretrainedEncoder


@click.command("list")
@options.json_option
@options.always
def list_(as_json: bool) -> None:
    """List registered scenarios and suites, and the data sets that they can name."""
    found = [registry.get(name) for name in registry.names()]
    facts = {
        name: {"classes": one.classes, "size": one.size, "train": one.train, "test": one.test}
        for name, one in DATASETS.items()
    }
    if as_json:
        known = {"scenarios": list(map(asdict, found)), "suites": list(map(asdict, registry.suites()))}
        _print_json({**known, "data_sets": facts, "kinds": [ATTACK, *(row.defaults.name for row in registry.kinds())]})
        return
    scenarios = [
        (one.name, one.encoder, str(one.pixels), one.recipe.name, f"{len(one.rows)} x {len(one.eval_epsilons)}")
        for one in found
    ]
    suites = [(one.name, one.description or ", ".join(one.members)) for one in registry.suites()]
    kinds = [(ATTACK, "Accuracy under attack, of every model; with an audit", f"evaluation {EPS}")]
    kinds += [(row.defaults.name, row.title, row.over) for row in registry.kinds()]
    sets = [(name, *(f"{number:,}" for number in numbers.values())) for name, numbers in facts.items()]
    Console().print(
        *(table(("scenario", "encoder", "px", "recipe", "matrix"), (), scenarios), ""),
        *(table(("suite", "of"), (), suites), ""),
        *(table(("evaluation kind", "what it measures", "over"), (), kinds), ""),
        table(("data set",), ("classes", "px", "train", "test"), sets),
        sep="\n",
    )


@click.command()
@options.name_or_zoo
@options.overrides
@options.costs
@options.device
@options.store
@options.json_option
@options.always
def show(
    name: str | None,
    cost: bool,
    rate: float | None,
    calibrate: bool,
    device: str,
    store: Path,
    as_json: bool,
    **changed: Any,
) -> None:
    """Show matrix, recipe and cost of a scenario or suite; takes the options of run that change it."""
    if (calibrate or rate is not None) and not cost:
        raise click.UsageError(f"--{'calibrate' if rate is None else 'rate'} needs --cost")
    if calibrate and rate is not None:
        raise click.UsageError("--rate and --calibrate are mutually exclusive")
    if cost and as_json:
        raise click.UsageError("--cost and --json are mutually exclusive")
    scenarios, given = _given(changed_scenarios(name, changed), changed)
    name = name or scenarios[0].name
    work = _passes(scenarios)
    if as_json:
        passes = {stage: {"artifacts": count, "passes": number} for stage, count, number in work}
        _print_json({"scenarios": list(map(_facts, scenarios)), "passes": passes})
        return
    console = Console()
    for encoder in given:
        console.print(escape(str(encoder)), "")
    if cost:
        encoders = {one.weights: one.encoder for one in given}
        costs.show(console, scenarios, Store(store), encoders, rate, device if calibrate else None)
        return
    if name not in registry.names():
        console.print(f"[bold]{escape(name)}[/]  {len(scenarios)} scenarios\n")
    for scenario in {one.name: one for one in scenarios}.values():  # once for all seeds
        _print_matrix(console, scenario)
    stages = [(stage, str(count), f"{number / 1e6:,.2f}") for stage, count, number in work]
    shown = table(("stage",), ("artifacts", "million passes"), stages)
    shown.rows[-1].style = "bold"
    console.print("Cost, in passes of one image through the encoder", shown, sep="\n")
    console.print("[dim]forward 1; backward to the input 1, to input and weights 2[/]")
    for recipe, settings in dict.fromkeys((one.recipe.name, tuple(_settings(one).items())) for one in scenarios):
        fields = Table("field", "value", show_edge=False)
        for row in settings:
            fields.add_row(*row)
        console.print(f"\nRecipe {escape(recipe)}", fields, sep="\n")


def _print_matrix(console: Console, scenario: Scenario) -> None:
    console.print(
        f"[bold]{escape(scenario.name)}[/]  RoSS {scenario.source} → {scenario.target}, {scenario.pixels} pixels"
    )
    if scenario.description:
        console.print(escape(scenario.description))
    console.print(f"rows     model {EPS}       ", ", ".join(format_model(*row) for row in scenario.rows))
    console.print(f"columns  evaluation {EPS}  ", ", ".join(map(format_epsilon, scenario.eval_epsilons)), "\n")


def _print_json(content: dict[str, Any]) -> None:
    click.echo(encode(content).decode(), nl=False)


def _facts(scenario: Scenario) -> dict[str, Any]:
    deviations = scenario.deviations(registry.get(scenario.name))
    return {**asdict(scenario), "models": scenario.rows, "protocol": scenario.protocol, "deviations": deviations}


def _given(scenarios: list[Scenario], changed: dict[str, Any]) -> tuple[list[Scenario], list[PretrainedEncoder]]:
    """The scenarios with the encoder of --encoder-weights, and that encoder, once for each architecture and size."""
    source: str | None = changed["encoder_weights"]
    if source is None:
        return scenarios, []
    from ..models import checkpoints

    choices, zoo = choices_of_file(changed), changed["zoo"]
    keys = [(scenario.encoder, scenario.pixels) for scenario in scenarios]
    found = {key: checkpoints.read(source, *key, **choices) for key in dict.fromkeys(keys)}
    if zoo is not None:
        found = {key: replace(one, account={**one.account, "zoo": zoo}) for key, one in found.items()}
    made = [
        replace(scenario, encoder=found[key].name, weights=found[key].weights)
        for scenario, key in zip(scenarios, keys, strict=True)
    ]
    return made, list(found.values())


def _passes(scenarios: Sequence[Scenario]) -> list[tuple[str, int, int]]:
    """(stage, artifacts, passes through the encoder) of each stage and of all."""
    specs = list(specs_of(scenarios))
    counts = collections.Counter(spec.stage for spec in specs)
    work = passes(specs)
    return [*((stage, counts[stage], work[stage]) for stage in work), ("all", len(specs), sum(work.values()))]


def _settings(scenario: Scenario) -> dict[str, str]:
    """What --set can set, with its values, and those of the registered scenario where they differ."""
    changes = scenario.deviations(registry.get(scenario.name))
    return {
        field.removeprefix("recipe."): escape(str(value))
        + (f"  [yellow](registered: {escape(str(changes[field][1]))})[/]" if field in changes else "")
        for field, value in flatten(scenario).items()
        if field in ("encoder", "train_limit", "test_limit", "seed", "size")
        or (field == "weights" and scenario.weights)
        or (field.startswith("recipe.") and field not in ("recipe.name", VERSION))
        if not (scenario.weights and field.startswith("recipe.pretraining."))
    }


@click.command()
@options.name_or_zoo
@options.overrides
@options.device
@options.data_dir
@options.store_to_write
@options.tensorboard
@options.workers
@options.kinds
@options.no_audit
@options.threads
@options.quiet
@options.json_option
@options.always
def run(
    name: str | None,
    device: str,
    data_dir: Path | None,
    store: Path,
    tensorboard: Path | None,
    shard: tuple[int, int],
    ray: str | None,
    cpus: float | None,
    gpus: float | None,
    kinds: tuple[str, ...],
    no_audit: bool,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **changed: Any,
) -> None:
    """Pretrain, finetune, evaluate and audit what the store lacks of a scenario or suite."""
    options.check_workers(ray, cpus, gpus)
    scenarios = changed_scenarios(name, changed)
    name = name or scenarios[0].name
    console = Console(quiet=quiet or not torchrun.is_rank_zero(), stderr=as_json)
    with console.status("loading torch") if console.is_terminal else contextlib.nullcontext():
        import torch

        from ..runner import display, progress, run
        from ..stages import pretrain
        from ..util import distributed
        from ..util.devices import resolve_device
    if threads is not None:
        torch.set_num_threads(threads)
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
        run.run_suite(scenarios, encoders=given, shard=shard, kinds=kinds, **where)
        for scenario in () if no_audit else scenarios:
            (matrix,) = results.load(Store(store), [scenario.name], scenario.protocol)
            if shard == (1, 1) or len(matrix.records) == len(matrix.cells):  # the last shard audits all
                run.audit([scenario.name], protocol=scenario.protocol, **where)
    stored = [one for scenario in scenarios for one in results.load(Store(store), [scenario.name], scenario.protocol)]
    if as_json:
        click.echo(formats.DATA["json"](stored, None), nl=False)
    else:
        for shown in kind_tables.tables(stored):
            Console().print(formats.to_rich(shown, console.width))
    again = f"rossbench report {name}" + (f" --out {shlex.quote(str(store))}" if str(store) != options.STORE else "")
    file = click.get_current_context().meta.get(options.FILE)
    if file is not None and name not in {scenario.name for scenario in scenarios}:  # a store does not know suites
        again += f" --scenario-file {shlex.quote(str(file))}"
    console.print(Text(f"Stored in {store}; see it again: {again}"), soft_wrap=True)
