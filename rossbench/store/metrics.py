"""The numbers that a record tells: how each is called, computed from the record, and shown. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from .records import Record

MISSING = "—"


@dataclass(frozen=True)
class Metric:
    """A number that a record tells, and how it is shown."""

    title: str
    unit: str
    """"%" for what is in [0, 1] and shown in percent; empty for what is shown as it is."""
    of: Callable[[Record], float | None]
    is_count: bool = False
    """Whether it is a share of the test images, so that it has a Wilson interval."""

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def scale(self) -> float:
        """From the number to what is shown."""
        return 100 if self.unit == "%" else 1

    def text(self, value: float | None, sign: str = "") -> str:
        """A shown number as the study prints it; ``sign`` "+" for differences."""
        return MISSING if value is None else f"{value:{sign}.{2 if self.unit == '%' else 3}f}"


METRICS = {
    "top1": Metric("Top-1 accuracy", "%", lambda record: record.metric("top1"), is_count=True),
    "top5": Metric("Top-5 accuracy", "%", lambda record: record.metric("top5"), is_count=True),
    "robust": Metric("Robust accuracy", "%", lambda record: record.metric("robust"), is_count=True),
    "mcc": Metric("MCC", "", attrgetter("mcc")),
    "precision": Metric("Macro precision", "%", attrgetter("precision")),
    "recall": Metric("Macro recall", "%", attrgetter("recall")),
    "f1": Metric("Macro F1", "%", attrgetter("f1")),
}
"""By the name that options, tables, figures and data frames call it. A metric is added here."""
