"""What show --cost prints: of a whole scenario or suite, and of what the store still lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..config.scenarios import Scenario, specs_of
from ..config.specs import AnySpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from ..store.store import Store
from .terminal import Console, table

if TYPE_CHECKING:
    from ..models.encoders import Encoder
    from ..runner.cost import Counter


def show(
    console: Console,
    scenarios: Sequence[Scenario],
    store: Store,
    encoders: Mapping[str, Encoder],
    rate: float | None,
    device: str | None,
) -> None:
    """Tables of costs; with time at a rate, in FLOP/s, or as measured on a device.

    encoders: those that were trained elsewhere, by their ``weights``.
    """
    whole = list(specs_of(scenarios))
    lacking = store.missing([cell for scenario in scenarios for cell in scenario.cells.values()])
    from ..runner import cost
    from ..util.devices import resolve_device

    counter = cost.Counter(encoders)
    columns: dict[str, Callable[[AnySpec], float]] = {"FLOP": counter.flops, "in the store": counter.bytes}
    notes = _notes(whole, counter)
    if device is not None:
        where = resolve_device(device)
        columns["time"] = cost.Calibration(whole, counter, where).seconds
        with console.status(f"calibrating on {where}"):
            taken = sum(map(columns["time"], whole))
        achieved = sum(map(counter.flops, whole)) / taken if taken else 0.0
        notes.append(f"Time as calibrated on {where}, where all of it achieves {scaled(achieved)}FLOP/s")
    elif rate is not None:
        columns["time"] = lambda spec: counter.flops(spec) / rate
        notes.append(f"Time at {scaled(rate)}FLOP/s")
    for title, specs in (("Cost of all", whole), (f"Of that, what {store.root} lacks", lacking)):
        console.print(escape(title))
        console.print(_table(specs, columns), "")
    for note in notes:
        console.print(escape(note), style="dim")


def _table(specs: Sequence[AnySpec], columns: Mapping[str, Callable[[AnySpec], float]]) -> Table:
    units = {"FLOP": scaled, "in the store": lambda size: f"{scaled(size)}B", "time": duration}
    rows = []
    for stage in (PretrainSpec.stage, FinetuneSpec.stage, EvaluateSpec.stage, "all"):
        some = [spec for spec in specs if stage in (spec.stage, "all")]
        sums = (units[title](sum(map(number, some))) for title, number in columns.items())
        rows.append((stage, str(len(some)), *sums))
    made = table(("stage",), ("artifacts", *columns), rows)
    made.rows[-1].style = "bold"
    return made


def _notes(specs: Sequence[AnySpec], counter: Counter) -> list[str]:
    trained = [spec for spec in specs if isinstance(spec, (PretrainSpec, FinetuneSpec)) and spec.passes]
    forward = {_model(spec): counter.forward(spec) for spec in trained}
    state = max(map(counter.state_bytes, trained), default=0)
    return [
        "A forward pass of one image counts 1, a backward pass to the input 1, to input",
        "and weights 2. Audits of the models are not counted. One forward pass through",
        *(f"  {model}: {scaled(flops)}FLOP" for model, flops in forward.items()),
        f"While a training is unfinished, its resume state takes up to {scaled(state)}B more",
    ]


def _model(spec: PretrainSpec | FinetuneSpec) -> str:
    if isinstance(spec, PretrainSpec):
        return f"{spec.encoder} and its projection head"
    return f"{spec.pretrain.encoder} and a linear layer for {spec.target}"


def scaled(number: float) -> str:
    """Three digits and a prefix, such as ``1.23 T``, for a unit to follow."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 999.5:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} E"


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min`` or ``1,234 h``."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:,.{1 if seconds < 360_000 else 0}f} h"
