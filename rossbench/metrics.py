"""Rates and counts from predictions. The home of torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_matthews_corrcoef

TOP = 5


def top5(logits: Tensor) -> Tensor:
    """The classes of the five largest logits, largest first: int64 [n, min(5, classes)]."""
    return logits.topk(min(TOP, logits.shape[1]), dim=1).indices


def counts_right(ranked: Tensor, labels: Tensor) -> Tensor:
    """How many labels are the first, and how many are among all, of the ranked classes [n, k]: int64 [2]."""
    hits = ranked == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum()])


def matthews(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """Multiclass Matthews correlation coefficient (study, equation 5.2), in [-1, 1]; 0 where it is 0 / 0."""
    return float(multiclass_matthews_corrcoef(predicted, labels, num_classes=classes))
