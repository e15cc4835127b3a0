"""Rates and counts from predictions. The home of torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
    multiclass_precision,
    multiclass_recall,
)

TOP = 5


def top5(logits: Tensor) -> Tensor:
    """The classes of the five largest logits, largest first: int64 [n, min(5, classes)]."""
    return logits.topk(min(TOP, logits.shape[1]), dim=1).indices


def counts_right(ranked: Tensor, labels: Tensor) -> Tensor:
    """How many labels are the first, and how many are among all, of the ranked classes [n, k]: int64 [2]."""
    hits = ranked == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum()])


def scores(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """Matthews correlation coefficient (study, equation 5.2), in [-1, 1]; macro precision, recall and F1, in [0, 1].

    predicted, labels: int64 [n]. What would be 0 / 0 is 0. Macro: the mean over classes, each counting alike.
    """
    # Where one class alone is named, or there, MCC is 0 / 0; torchmetrics makes up a number for two classes.
    undefined = len(predicted.unique()) == 1 or len(labels.unique()) == 1
    macro = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    return {
        "mcc": 0.0 if undefined else float(multiclass_matthews_corrcoef(predicted, labels, classes)),
        **{name: float(rate(predicted, labels, classes, average="macro")) for name, rate in macro.items()},
    }


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts, int64 [classes, classes]: a row for each true class, a column for each predicted one (study, 5.3)."""
    counts: Tensor = multiclass_confusion_matrix(predicted, labels, classes)
    return counts
