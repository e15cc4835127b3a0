"""Features of any layer by its name (study, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..util.errors import InvalidValue, unknown


@torch.no_grad()
def layers(model: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """The layers that can be extracted, in the order in which they finish: name -> shape for one image.

    size: height and width of the images in pixels. Layers within layers have dotted names.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(name, tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in model.named_modules() if name]
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
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[:] = [output.clone()]  # a following in-place ReLU would write into it

    for batch in batches:  # made one by one, perhaps by an attack that runs the model itself
        seen.clear()
        with modules[layer].register_forward_hook(keep), torch.no_grad():
            model(batch)
        if not seen:
            raise InvalidValue(f"layer {layer!r}: expected one that runs and gives a tensor, got another")
        outputs.append(seen[0].cpu())
    return torch.cat(outputs)
