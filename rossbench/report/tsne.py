"""Features as a map in the plane (study, section 5.3). The home of openTSNE."""

from __future__ import annotations

import numpy as np
import openTSNE
from torch import Tensor

from ..util.errors import InvalidValue

_EXAGGERATED = 250
"""Iterations that t-SNE begins with, in which clusters form; of the number that is asked for."""


def embed(features: Tensor, perplexity: float, iterations: int, seed: int = 0) -> np.ndarray:
    """t-SNE of features [n, ...] into the plane: float64 [n, 2]. The same seed gives the same map.

    ``perplexity``: at most (n - 1) / 3. ``iterations``: in all, at least 250. Else InvalidValue.
    """
    points = features.flatten(1).double().numpy()
    if not np.isfinite(points).all() or not len(points) or (points == points[0]).all():
        raise InvalidValue(
            "t-SNE: expected features that are finite and differ, got others; has the encoder collapsed?"
        )
    most = (len(points) - 1) / 3
    if not 1 <= perplexity <= most:
        n = len(points)
        raise InvalidValue(
            f"t-SNE: expected a perplexity of 1 to {most:.4g} for {n} points, got {perplexity:g}; set another"
        )
    if iterations < _EXAGGERATED:
        raise InvalidValue(f"t-SNE: expected at least {_EXAGGERATED} iterations, got {iterations}")
    tsne = openTSNE.TSNE(
        perplexity=perplexity,
        early_exaggeration_iter=_EXAGGERATED,
        n_iter=iterations - _EXAGGERATED,
        negative_gradient_method="fft" if len(points) > 5_000 else "bh",
        random_state=seed,
        n_jobs=1,  # sums over threads would round differently from run to run
    )
    return np.array(tsne.fit(points))
