"""figure, layers and features: from artifacts in the store to pictures and arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from ..config.scenarios import Row
from ..data.datasets import count
from ..store import results
from ..store.results import ResultMatrix
from ..store.store import Store
from ..util.epsilons import check_epsilon, check_models
from ..util.errors import InvalidValue
from . import options, types
from .terminal import Console

if TYPE_CHECKING:
    from ..report.figure_data import FigureData, Model

FORMS = ("png", "svg", "pdf")
_names = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=options.complete_names)
_source = options.together(options.protocol, options.store, options.data_dir, options.device, options.always)
_epsilons = click.option("--eval-eps", "epsilons", type=options.EPSILONS, help="Evaluation epsilons.")
_at = click.option("--epsilon", type=options.EPSILON, help="Evaluation epsilon.  [default: the middle one]")
_stage = click.option(
    "--stage", type=types.Choice(["pretrain", "finetune"]), help="Training stage.  [default: pretrain]"
)
_count = click.option("--count", type=types.Whole(1, 8), help="Number of images.  [default: 6]")
_attack = click.option(
    "--epsilon",
    type=types.Number(0, 1000),
    help="Epsilon of the attack on the images.  [default: 0; examples: 5 in L2, 0.3 in Linf]",
)
_limit = click.option("--limit", type=types.Whole(min=1), help="Number of test images, class-balanced.")
_ROWS = "Models by epsilon, such as 0,1,1:0 (pretraining:finetuning)."
_inputs = options.together(
    click.option("--layer", help="Layer name, as listed by rossbench layers.  [default: encoder; together: linear]"),
    click.option("--perplexity", type=types.Number(min=1), help="t-SNE perplexity.  [default: 35; together: 50]"),
    click.option(
        "--iterations", type=types.Whole(250, 10**6), help="t-SNE iterations.  [default: 1500; together: 2500]"
    ),
    _attack,
    _limit,
)


@click.group(cls=types.Group)
@options.debug_option
def figure() -> None:
    """Plot results in the store as PNG, SVG or PDF; nothing is trained."""


def _add(kind: str, default: str, text: str, *choices: options.Decorator) -> None:
    """A command that calls the function of ``report.figures`` of the kind's name, with the options that were given."""

    @figure.command(kind, help=text)
    @_names
    @click.option("--models", "rows", type=options.MODELS, help=f"{_ROWS}  [default: {default}]")
    @options.together(*choices)
    @options.file_option("save", "FILE.png, .svg or .pdf.")
    @_source
    def command(names: tuple[str, ...], save: Path | None, **given: Any) -> None:
        target = options.place(save, f"{'-'.join(names)}-{kind}.png", FORMS)
        data, matrices, rows = _open(names, given)
        from ..report import figures
        from ..report.figure_data import choose, ends
        from ..report.plot_style import to_bytes

        models = choose(matrices, rows) if rows or default == "all" else ends(matrices)
        chosen = {name: value for name, value in given.items() if value is not None}
        with Console(stderr=True).status(f"drawing {kind}"):
            content = to_bytes(getattr(figures, kind.replace("-", "_"))(data, models, **chosen), target.suffix[1:])
        options.save(target, content)
        for matrix in matrices:
            if matrix.deviations:  # which the figure itself does not tell
                click.echo(f"rossbench: {matrix.name}: {matrix.notes()[0]}", err=True)


def _open(names: tuple[str, ...], given: dict[str, Any]) -> tuple[FigureData, list[ResultMatrix], tuple[Row, ...]]:
    """The data of the store, the matrices of these names in it, and the models' rows; takes their options.

    InvalidValue for models, epsilons or a number of images that the store has no evaluation of, before torch is loaded,
    which takes seconds.
    """
    store, protocol, rows = Store(given.pop("store")), given.pop("protocol"), given.pop("rows") or ()
    matrices = results.one_protocol(results.load(store, names, protocol))
    check_models(rows, {row for matrix in matrices for row in matrix.rows})
    known = sorted({column for matrix in matrices for column in matrix.columns})
    for epsilon in given.get("epsilons") or ():
        check_epsilon("--eval-eps: expected an evaluated epsilon", epsilon, known)
    records, limit = [record for matrix in matrices for record in matrix.records], given.get("limit")
    most = min((record.n for record in records), default=0)
    if limit is not None and limit > most:
        raise InvalidValue(f"--limit: expected at most the {most} images of the evaluation, got {limit}")
    for target in sorted({record.spec.finetune.target for record in records}):
        count(target, "test", limit)
    with Console(stderr=True).status("loading torch"):
        from ..report.figure_data import FigureData
    return FigureData(store, given.pop("data_dir"), given.pop("device")), matrices, rows


_add("robustness", "all", "Plot a metric against the evaluation epsilon, one curve per model.", options.metric)
_add("matrix", "all", "Plot the matrix as a heat map.", options.metric)
_add("confusion", "first and last", "Plot confusion matrices; study, figures 5.3 and 5.5.", _epsilons)
_add("per-class", "first and last", "Plot correct predictions per class against epsilon; study, figure 5.6.", _epsilons)
_add("tsne", "first and last", "Plot t-SNE of features, one plot per model; study, figure 5.4.", _inputs)
_add("tsne-together", "first and last", "Plot joint t-SNE of several models' features; study, figure 5.8.", _inputs)
_add("examples", "last", "Plot adversarial examples; study, figure 5.1.", _attack, _count)
_add("training", "all", "Plot loss and accuracy per epoch.", _stage)
_add("distances", "all", "Plot robust accuracy over epsilon as a curve; of run --kind minimal.")
_add("corruptions", "all", "Plot accuracy under each corruption; of run --kind corruptions.")
_add("displacement", "all", "Plot displacement of features against accuracy; of run --kind features.", _at)


_one_model = options.together(
    options.name,
    click.option("--model", "rows", type=options.MODELS, help="Model by epsilon, such as 1 or 1:0.  [default: last]"),
)


def _one(name: str, given: dict[str, Any]) -> tuple[FigureData, Model]:
    """The data of the store, and the model of a scenario that was asked for."""
    data, matrices, rows = _open((name,), given)
    from ..report.figure_data import choose

    models = choose(matrices, rows)
    if len(matrices) > 1 or len(rows) > 1:
        raise InvalidValue(f"model: expected one of one scenario, got {', '.join(model.label for model in models)}")
    return data, models[-1]


@click.command()
@_one_model
@_source
def layers(name: str, **given: Any) -> None:
    """List a model's layers with their output shapes for one image."""
    data, model = _one(name, given)
    table = Table("layer", "shape", show_edge=False)
    for layer, shape in data.layers(model).items():
        table.add_row(escape(layer), " x ".join(map(str, shape)))
    Console().print(table)


@click.command()
@_one_model
@click.option("--layer", default="encoder", show_default=True, help="Layer name, as listed by rossbench layers.")
@_attack
@_limit
@options.file_option("save", "FILE.npz.")
@_source
def features(name: str, layer: str, save: Path | None, **given: Any) -> None:
    """Save a layer's features of clean or attacked test images, and labels, as NumPy arrays."""
    target = options.place(save, f"{name}-{layer}.npz", ("npz",))
    data, model = _one(name, given)
    import numpy as np

    found, labels = data.features(model, layer, given["epsilon"] or 0, given["limit"])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=found.numpy(), labels=labels.numpy())
    options.save(target, buffer.getvalue())


COMMANDS: list[click.Command] = [figure, layers, features]
