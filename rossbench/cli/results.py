"""report and compare: from records in the store to tables and pages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from .. import registry
from ..report import audits, formats, kind_tables, tables, zoo
from ..report import published as comparing
from ..report import ranking as rankings
from ..store import results
from ..store.lookup import are_of_models, find_model
from ..store.several import load_several
from ..store.store import Store
from ..util.errors import InvalidValue, NotComparable
from . import options, types
from .terminal import Console, now

EXIT_FAILED_AUDIT = 3


@click.command()
@options.some_names
@options.metric
@click.option(
    "--format",
    "form",
    type=types.Choice(["table", *formats.TEXTS, *formats.DATA]),
    default="table",
    show_default=True,
)
@click.option("--intervals", is_flag=True, help="Show 95 % Wilson intervals; one seed only.")
@click.option(
    "--sort", callback=options.epsilon, metavar="EPSILON", help="Best model at this evaluation epsilon first."
)
@click.option("--ranking", is_flag=True, help="Rank all encoders by mean robust accuracy over epsilons and targets.")
@click.option("--threats", is_flag=True, help="Each model under each attack and kind, and under the worst of them.")
@click.option("--no-audit-column", is_flag=True, help="Tables without the column of audits, as for a paper.")
@options.file_option("html", "Write an HTML report with all figures to this file.")
@options.protocol
@options.stores
@options.data_dir
@options.device
@options.scenario_file
@options.debug_option
def report(
    names: tuple[str, ...],
    metric: str | None,
    form: str,
    intervals: bool,
    sort: float | None,
    ranking: bool,
    threats: bool,
    no_audit_column: bool,
    save: Path | None,
    protocol: str | None,
    stores: tuple[Path, ...],
    data_dir: Path | None,
    device: str,
) -> None:
    """Print result tables: one row per model, one column per evaluation epsilon; or a ranking.

    Several --store are read together; where they contradict each other, a note says so.
    """
    if save is not None and len(stores) > 1:
        raise click.UsageError(f"--html: expected one --store, from which figures are drawn, got {len(stores)}")
    matrices = load_several(list(map(Store, stores)), names, protocol)
    if ranking and (save, intervals, sort) != (None, False, None):
        raise click.UsageError("--ranking: expected no --html, --intervals or --sort: it has intervals and an order")
    if threats and (ranking, save, metric, intervals, sort) != (False, None, None, False, None):
        raise click.UsageError("--threats: expected no --ranking, --html, --metric, --intervals or --sort")
    if threats and (form in formats.DATA or len(stores) > 1):
        raise click.UsageError("--threats: expected one --store, as a table, markdown or latex")
    if save is not None and (form, metric, intervals, sort) != ("table", None, False, None):
        raise click.UsageError("--html: expected no --format, --metric, --intervals or --sort: a page has its own")
    if no_audit_column and (save is not None or threats or form in formats.DATA):
        raise click.UsageError("--no-audit-column: expected a table, markdown or latex, without --threats")
    if sort is not None and form in formats.DATA:
        raise click.UsageError(f"--sort: expected a table, markdown or latex, got {form}, which is by scenario")
    if intervals and form in formats.DATA:
        raise click.UsageError(f"--intervals: expected a table, markdown or latex, got {form}, which has the counts")
    if save is not None:
        _write_page(save, names, matrices, stores[0], data_dir, device)
    elif threats:
        _print([_threats(Store(stores[0]), matrices)], form)
    elif ranking and form in rankings.DATA:
        click.echo(rankings.DATA[form](rankings.rankings(matrices, metric)), nl=False)
    elif form in formats.DATA:
        click.echo(formats.DATA[form](matrices, metric), nl=False)
    else:
        shown = list(map(rankings.to_table, rankings.rankings(matrices, metric))) if ranking else None
        shown = shown or kind_tables.tables(matrices, metric, intervals, sort)
        _print(list(map(tables.without_audits, shown)) if no_audit_column else shown, form)


def _threats(store: Store, matrices: list[results.ResultMatrix]) -> tables.Table:
    with Console(stderr=True).status("loading torch"):
        from ..report import threats
    return threats.table(store, matrices)


def _write_page(
    path: Path,
    names: Sequence[str],
    matrices: list[results.ResultMatrix],
    store: Path,
    data_dir: Path | None,
    device: str,
) -> None:
    console = Console()
    with console.status("loading torch") as status:
        from ..report.figure_data import FigureData
        from ..report.page import render
        from ..report.page_figures import page_figures

        data = FigureData(store, data_dir, device)
        drawn = page_figures(data, matrices, lambda caption: status.update(escape(caption)))
    options.save(path, render(names, matrices, drawn, now()).encode())


def _print(shown: Sequence[tables.Table], form: str) -> None:
    if form in formats.TEXTS:
        click.echo("\n".join(map(formats.TEXTS[form], shown)), nl=False)
    else:
        console = Console()
        for table in shown:
            console.print(formats.to_rich(table, console.width))


@click.command()
@options.some_names
@options.protocol
@options.store
@options.data_dir
@options.device
@options.scenario_file
@options.debug_option
def audit(names: tuple[str, ...], protocol: str | None, store: Path, data_dir: Path | None, device: str) -> None:
    """Audit every evaluated classifier for signs of unreliable robustness; exit code 3 if one fails."""
    console = Console()
    results.load(Store(store), names, protocol)  # what is not there is said before torch is loaded
    with console.status("loading torch") if console.is_terminal else contextlib.nullcontext():
        from ..runner import display, run
    with display.showing(console) as observe:
        found = run.audit(names, store=store, data_dir=data_dir, device=device, protocol=protocol, observe=observe)
    for matrix in results.load(Store(store), names, protocol):
        console.print(audits.to_rich(matrix))
    if any(one.verdict == "fail" for one in found.values()):
        raise click.exceptions.Exit(EXIT_FAILED_AUDIT)


@click.command()
@options.some_names
@click.option(
    "--tolerance", type=types.Number(min=0), default=2.0, show_default=True, help="Tolerance in percentage points."
)
@click.option("--show-reduced", is_flag=True, help="Include runs under other protocols, labelled as not comparable.")
@click.option("--format", "form", type=types.Choice(["table", *formats.TEXTS]), default="table", show_default=True)
@options.protocol
@options.store
@options.scenario_file
@options.debug_option
def compare(
    names: tuple[str, ...], tolerance: float, show_reduced: bool, form: str, protocol: str | None, store: Path
) -> None:
    """Compare results with the published numbers, under the same protocol; or two models.

    Two models are NAME@MODEL, such as digits@0 digits@1, digits-low-to-low-finetuning@1:0 or digits@mine-v3, or plainly
    MODEL where one scenario alone has it: McNemar's test on the same test images says at each epsilon whether their
    difference is more than noise.
    """
    if any("@" in name for name in names) or (names and are_of_models(Store(store), names)):
        _print([_compare_models(names, Store(store), protocol)], form)
        return
    matrices = _named(names, Store(store), protocol)
    known = zoo.compare(matrices)
    try:
        study = comparing.compare([one for one in matrices if not one.zoo])
    except InvalidValue:
        if not known:
            raise
        study = []
    shown = [comparing.comparison_table(one, tolerance) for one in study if show_reduced or not one.refusal]
    shown += [zoo.table(one, tolerance, show_reduced) for one in known if show_reduced or not one.refusal]
    refused = [*comparing.refusals(study), *(one.refusal for one in known if one.refusal)]
    reasons = "; ".join(refused)
    if not shown:
        raise NotComparable(f"compare: expected runs under the published protocol, got {reasons}; see --show-reduced")
    _print(shown, form)
    if refused and not show_reduced:
        click.echo(f"rossbench: not compared: {reasons}", err=True)


def _named(names: Sequence[str], store: Store, protocol: str | None) -> list[results.ResultMatrix]:
    """The matrices of some scenarios and suites, and of some known encoders; all without a name."""
    encoders = {one.name for one in registry.encoders()} & {*names}
    scenarios = [name for name in names if name not in encoders]
    found = results.load(store, scenarios, protocol) if scenarios or not encoders else []
    of_zoo = [one for one in results.load(store, (), protocol) if one.zoo in encoders] if encoders else []
    lacking = encoders - {one.zoo for one in of_zoo}
    if lacking:
        raise InvalidValue(f"compare: expected runs with --zoo {min(lacking)} in {store.root}, got none")
    places = {(one.name, one.protocol) for one in found}
    return found + [one for one in of_zoo if (one.name, one.protocol) not in places]


def _compare_models(names: Sequence[str], store: Store, protocol: str | None) -> tables.Table:
    """Two models, each NAME@MODEL or MODEL."""
    if len(names) != 2:
        raise click.UsageError(f"expected two models, such as digits@0 digits@1, got {' '.join(names)}")
    found = [find_model(store, name, protocol) for name in names]
    with Console(stderr=True).status("loading torch"):
        from ..report.figure_data import Model
        from ..report.model_comparison import compare_models
    return compare_models(store, *(Model(*one) for one in found))
