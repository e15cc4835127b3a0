"""Features of any layer by its name, and their map in the plane (study, sections 5.2 and 5.3). The home of openTSNE."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import openTSNE
import torch
from torch import Tensor, nn

from .errors import InvalidValue, unknown

_EXAGGERATED = 250
"""Iterations that t-SNE begins with, in which clusters form; of the number that is asked for."""


@torch.no_grad()
def layers(model: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """The layers that can be extracted, in the order in which they finish: name -> shape for one image.

    size: height and width of the images in pixels. Layers within layers have dotted names.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes.setdefault(name, tuple(output.shape[1:]))

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def extract(model: nn.Module, layer: str, batches: Iterable[Tensor]) -> Tensor:
    """What a layer gives for batches of images in [0, 1]: float [n, ...], on the CPU.

    ``layer``: one of the names of ``layers``; else UnknownName. Of one that runs several times, the last output.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if layer not in modules:
        raise unknown("layer", layer, modules)
    outputs: list[Tensor] = []
    for batch in batches:  # made one by one, perhaps by an attack that runs the model itself
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any, seen: list[Tensor] = seen) -> None:
            if isinstance(output, Tensor):
                seen[:] = [output.clone()]  # a following in-place ReLU would write into it

        with modules[layer].register_forward_hook(keep), torch.no_grad():
            model(batch)
        if not seen:
            raise InvalidValue(f"layer {layer!r}: expected one that runs and gives a tensor, got another")
        outputs.append(seen[0].cpu())
    return torch.cat(outputs)


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
