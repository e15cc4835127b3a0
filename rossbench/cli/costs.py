"""What show --cost says: of a whole scenario or suite, and of what the store still lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..config.scenarios import Scenario, specs_of
from ..config.specs import AnySpec, FinetuneSpec, PretrainSpec
from ..store.store import Store

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
    """Tables of costs; with time at a rate, in FLOP/s, or after a calibration on a device.

    encoders: those that were trained elsewhere, by their ``weights``.
    """
    whole = list(specs_of(scenarios))
    lacking = store.missing([cell for scenario in scenarios for cell in scenario.cells.values()])
    from ..runner import cost
    from ..util.devices import resolve_device

    counter = cost.Counter(encoders)
    seconds: Callable[[AnySpec], float] | None = None
    notes = _notes(whole, counter)
    if device is not None:
        where = resolve_device(device)
        with console.status(f"calibrating on {where}"):
            seconds = cost.Calibration(whole, counter, where).seconds
        taken = sum(map(seconds, whole))
        found = sum(map(counter.flops, whole)) / taken if taken else 0.0
        notes.append(f"Time as calibrated on {where}, where all of it achieves {scaled(found)}FLOP/s")
    elif rate is not None:
        seconds = lambda spec: counter.flops(spec) / rate  # noqa: E731
        notes.append(f"Time at {scaled(rate)}FLOP/s")
    for title, specs in (("Cost of all", whole), (f"Of that, what {store.root} lacks", lacking)):
        console.print(escape(title))
        costs = cost.by_stage(specs, counter, seconds or (lambda spec: 0.0))
        console.print(_table(costs, seconds is not None), "")
    for note in notes:
        console.print(escape(note), style="dim")


def _table(costs: Mapping[str, tuple[int, int, int, float]], timed: bool) -> Table:
    table = Table(show_edge=False)
    table.add_column("stage")
    for title in ("artifacts", "FLOP", "in the store", *(["time"] if timed else [])):
        table.add_column(title, justify="right", no_wrap=True)
    sums = tuple(map(sum, zip(*costs.values(), strict=True)))
    for stage, (artifacts, flops, size, seconds) in {**costs, "all": sums}.items():
        row = [stage, str(artifacts), scaled(flops), f"{scaled(size)}B"]
        table.add_row(*row, *([duration(seconds)] if timed else []), style="bold" if stage == "all" else None)
    return table


def _notes(specs: Sequence[AnySpec], counter: Counter) -> list[str]:
    """What the numbers are made of."""
    trained = [spec for spec in specs if isinstance(spec, (PretrainSpec, FinetuneSpec)) and spec.passes]
    forward = dict.fromkeys(_forward(spec, counter) for spec in trained)
    state = max(map(counter.state_bytes, trained), default=0)
    return [
        "A forward pass of one image counts 1, a backward pass to the input 1, to input",
        "and weights 2. Audits of the models are not counted. One forward pass through",
        *(f"  {line}" for line in forward),
        f"While a training is unfinished, its resume state takes up to {scaled(state)}B more",
    ]


def _forward(spec: PretrainSpec | FinetuneSpec, counter: Counter) -> str:
    if isinstance(spec, PretrainSpec):
        model = f"{spec.encoder} and its projection head"
    else:
        model = f"{spec.pretrain.encoder} and a linear layer for {spec.target}"
    return f"{model}: {scaled(counter.forward(spec))}FLOP"


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
