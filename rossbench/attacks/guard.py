"""What code of a user's own is given, and torch's global settings, found afterwards as they were before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..util.errors import AttackError, one_line
from ..util.memory import is_out_of_memory
from ..util.seeds import seeded
from ..util.torch_settings import users_code


@contextlib.contextmanager
def guarded(name: str, model: nn.Module, image: Tensor) -> Iterator[None]:
    """A call of a user's attack on a model that others use too. ``image``: [1, c, h, w], to see what it gives.

    Whatever it raises is an AttackError with its name, but for interrupts and errors of rossbench's own. So is what it
    has moved: tensors and attributes of the model, hooks and modes among them, or torch's settings. They are put back.
    """
    outputs = [_outputs(model, image) for _ in range(2)]
    before, moved = _Snapshot(model), list[str]()

    def refusal(error: BaseException) -> AttackError | None:
        said = one_line(f"attack {name!r}: expected adversarial images, got {error!r:.300}")
        return None if is_out_of_memory(error) else AttackError(said)

    try:
        with users_code(moved, refusal):
            yield
    finally:
        moved += before.put_back()
    if not moved and torch.equal(*outputs) and not torch.allclose(_outputs(model, image), outputs[0], 1e-3, 1e-5, True):
        moved = ["outputs of the model"]  # by a class or a function that was replaced, for one
    if moved:
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        raise AttackError(
            f"attack {name!r}: expected the model and torch's settings as they were, got other {', '.join(moved[:3])}"
            f"{more}; give the attack a copy of the model, copy.deepcopy(model), to change"
        )


@torch.no_grad()
def _outputs(model: nn.Module, image: Tensor) -> Tensor:
    with seeded(0, image.device):
        outputs: Tensor = model(image)
    return outputs


class _Snapshot:
    """All that a model is: the attributes of its modules, dictionaries among them, and the values of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.classes = [(name, module, type(module)) for name, module in model.named_modules()]
        self.contents: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        """Name, dictionary, and what was in it: each module's attributes, then its parameters, hooks and the like."""
        self.tensors: dict[str, tuple[Tensor, Tensor, bool, Tensor | None]] = {}
        for name, module in model.named_modules():
            inner = [
                (f"{name}.{key.removeprefix('_')}", now) for key, now in vars(module).items() if isinstance(now, dict)
            ]
            self.contents += [(key, now, dict(now)) for key, now in ((f"{name}.", vars(module)), *inner)]
            for key, value in (*vars(module).items(), *module._parameters.items(), *module._buffers.items()):
                if isinstance(value, Tensor):
                    gradient = value.grad if value.is_leaf else None
                    kept = value, value.detach().clone(), value.requires_grad, gradient
                    self.tensors[f"{name}.{key}".strip(".")] = kept

    def put_back(self) -> list[str]:
        """What had been moved, by name."""
        moved = []
        for name, module, cls in self.classes:
            if type(module) is not cls:
                moved.append(f"class of {name or 'the model'}")
                module.__class__ = cls
        for name, now, before in self.contents:
            if changed := [key for key in {**before, **now} if not _same(before, now, key)]:
                moved += [name + key.removeprefix("_") for key in changed] if name.endswith(".") else [name]
                now.clear()  # and filled again, as the handles of hooks know this dictionary
                now.update(before)
        moved = [name.removeprefix(".") for name in moved]
        with torch.no_grad():
            for name, (tensor, values, requires_grad, gradient) in self.tensors.items():
                if not torch.equal(_bits(tensor), _bits(values)):
                    moved.append(name)
                    tensor.data = values
                if tensor.is_leaf and tensor.requires_grad != requires_grad:
                    moved.append(f"requires_grad of {name}")
                    tensor.requires_grad_(requires_grad)
                if tensor.is_leaf:
                    tensor.grad = gradient
        return moved


def _same(before: dict[str, Any], now: dict[str, Any], key: str) -> bool:
    if key not in before or key not in now:
        return False
    value, found = before[key], now[key]
    return found is value or (type(found) is type(value) and isinstance(value, (int, float, str)) and found == value)


def _bits(tensor: Tensor) -> Tensor:
    """The values, so that NaN is equal to itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
