"""report and compare: from records in the store to tables and pages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from .. import registry
from ..report import formats, kind_tables, tables, zoo
from ..report import ranking as rankings
from ..report.model import Model
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
    "--format", "form", type=types.Choice(["table", *formats.TEXTS, *formats.DATA]), default="table", show_default=True
)
@click.option("--intervals", is_flag=True, help="Show 95 % Wilson intervals; one seed only.")
@click.option("--sort", type=options.EPSILON, metavar="EPSILON", help="Best model at this evaluation epsilon first.")
@click.option("--ranking", is_flag=True, help="Rank all encoders by mean robust accuracy over epsilons and targets.")
@click.option("--threats", is_flag=True, help="Each model under each attack and kind, and under the worst of them.")
@click.option("--no-audit-column", is_flag=True, help="Tables without the column of audits, as for a paper.")
@options.file_option("html", "Write an HTML report with all figures to this file.")
@options.protocol
@options.stores
@options.data_dir
@options.device
@options.always
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
    given = {"--ranking": ranking, "--threats": threats, "--intervals": intervals, "--no-audit-column": no_audit_column}
    given |= {"--html": save is not None, "--metric": metric is not None, "--sort": sort is not None}
    given |= {"--format": form != "table", "data": form in formats.DATA, "--stores": len(stores) > 1}
    for option, others, expected in _APART:
        if given[option] and any(given[other] for other in others.split()):
            raise click.UsageError(f"{option}: expected {expected.format(form=form, stores=len(stores))}")
    matrices = load_several(list(map(Store, stores)), names, protocol)
    if save is not None:
        _write_page(save, names, matrices, stores[0], data_dir, device)
    elif threats:
        with Console(stderr=True).status("loading torch"):
            from ..report import per_image
        _print([per_image.threats(Store(stores[0]), matrices)], form)
    elif ranking and form in rankings.DATA:
        click.echo(rankings.DATA[form](rankings.rankings(matrices, metric)), nl=False)
    elif form in formats.DATA:
        click.echo(formats.DATA[form](matrices, metric), nl=False)
    else:
        shown = list(map(rankings.to_table, rankings.rankings(matrices, metric))) if ranking else None
        shown = shown or kind_tables.tables(matrices, metric, intervals, sort)
        _print(list(map(tables.without_audits, shown)) if no_audit_column else shown, form)


_SHOWN = "--metric --intervals --sort"
_APART = (
    ("--html", "--stores", "one --store, from which figures are drawn, got {stores}"),
    ("--ranking", "--html --intervals --sort", "no --html, --intervals or --sort: it has intervals and an order"),
    ("--threats", f"--ranking --html {_SHOWN}", "no --ranking, --html, --metric, --intervals or --sort"),
    ("--threats", "data --stores", "one --store, as a table, markdown or latex"),
    ("--html", f"--format {_SHOWN}", "no --format, --metric, --intervals or --sort: a page has its own"),
    ("--no-audit-column", "--html --threats data", "a table, markdown or latex, without --threats"),
    ("--sort", "data", "a table, markdown or latex, got {form}, which is by scenario"),
    ("--intervals", "data", "a table, markdown or latex, got {form}, which has the counts"),
)
"""Options of report, those that do not go with each, and what is expected."""


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
@options.always
def audit(names: tuple[str, ...], protocol: str | None, store: Path, data_dir: Path | None, device: str) -> None:
    """Audit every evaluated classifier for signs of unreliable robustness; exit code 3 if one fails."""
    console = Console()
    results.load(Store(store), names, protocol)  # what is not there is said before torch is loaded
    with console.status("loading torch") if console.is_terminal else contextlib.nullcontext():
        from ..runner import display, run
    with display.showing(console) as observe:
        found = run.audit(names, store=store, data_dir=data_dir, device=device, protocol=protocol, observe=observe)
    for matrix in results.load(Store(store), names, protocol):
        console.print(formats.audits_to_rich(matrix))
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
@options.always
def compare(
    names: tuple[str, ...], tolerance: float, show_reduced: bool, form: str, protocol: str | None, store: Path
) -> None:
    """Compare results with the published numbers, under the same protocol; or two models.

    Two models are NAME@MODEL, such as digits@0 digits@1, digits-low-to-low-finetuning@1:0 or digits@mine-v3, or plainly
    MODEL where one scenario alone has it: McNemar's test on the same test images says at each epsilon whether their
    difference is more than noise.
    """
    if any("@" in name for name in names) or (names and are_of_models(Store(store), names)):
        if len(names) != 2:
            raise click.UsageError(f"expected two models, such as digits@0 digits@1, got {' '.join(names)}")
        models = [Model(*find_model(Store(store), name, protocol)) for name in names]
        with Console(stderr=True).status("loading torch"):
            from ..report.per_image import compare_models
        _print([compare_models(Store(store), *models)], form)
        return
    shown, refused = zoo.beside_published(_named(names, Store(store), protocol), tolerance, show_reduced)
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
