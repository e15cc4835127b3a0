"""What code of a user's own is given, and torch's global settings, found afterwards as they were before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..util.errors import AttackError, RossbenchError, one_line
from ..util.memory import is_out_of_memory
from ..util.seeds import seeded
from ..util.signals import Interrupted
from ..util.torch_settings import kept_settings


@contextlib.contextmanager
def guarded(name: str, model: nn.Module, image: Tensor) -> Iterator[None]:
    """A call of a user's attack on a model that others use too. ``image``: [1, c, h, w], to see what it gives.

    Whatever it raises is an AttackError with its name, but for interrupts and errors of rossbench's own. So is what it
    has moved: tensors and attributes of the model, hooks and modes among them, or torch's settings. They are put back.
    """
    outputs = [_outputs(model, image) for _ in range(2)]
    before, moved = _Snapshot(model), list[str]()
    try:
        with kept_settings(moved):
            yield
    except (KeyboardInterrupt, Interrupted, RossbenchError):
        raise
    except BaseException as error:  # a user's own code may raise anything, SystemExit too
        if is_out_of_memory(error):
            raise
        raise AttackError(one_line(f"attack {name!r}: expected adversarial images, got {error!r:.300}")) from error
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
    """All that a model is: the attributes of its modules, and the values of its tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.attributes = {
            module: {
                key: _Was(value, dict(value) if isinstance(value, dict) else None)
                for key, value in vars(module).items()
            }
            for module in model.modules()
        }
        self.classes = {module: type(module) for module in self.attributes}
        self.names = {module: name for name, module in model.named_modules()}
        found = (
            (f"{name}.{key}".strip("."), value)
            for module, name in self.names.items()
            for values in (vars(module), module._parameters, module._buffers)
            for key, value in values.items()
        )
        tensors = {name: value for name, value in found if isinstance(value, Tensor)}
        self.tensors = {
            name: (tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad if tensor.is_leaf else None)
            for name, tensor in tensors.items()
        }

    def put_back(self) -> list[str]:
        """What had been moved, by name."""
        moved = []
        for module, before in self.attributes.items():
            now = vars(module)
            if type(module) is not self.classes[module]:
                moved.append(f"class of {self.names[module] or 'the model'}")
                module.__class__ = self.classes[module]
            for key in {**before, **now}:
                if not _same(before, now, key):
                    moved.append(f"{self.names[module]}.{key.removeprefix('_')}".strip("."))
                    _restore(before, now, key)
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


class _Was(NamedTuple):
    """An attribute."""

    value: Any
    content: dict[Any, Any] | None
    """Of a dictionary, which holds parameters, buffers, modules or hooks."""


def _same(before: dict[str, _Was], now: dict[str, Any], key: str) -> bool:
    if key not in before or key not in now:
        return False
    (value, content), found = before[key], now[key]
    if content is not None:
        return found is value and [*content] == [*value] and all(content[name] is value[name] for name in content)
    return found is value or (type(found) is type(value) and isinstance(value, (int, float, str)) and found == value)


def _restore(before: dict[str, _Was], now: dict[str, Any], key: str) -> None:
    if key not in before:
        del now[key]
        return
    value, content = before[key]
    now[key] = value
    if content is not None:  # the same dictionary, which the handles of hooks know
        value.clear()
        value.update(content)


def _bits(tensor: Tensor) -> Tensor:
    """The values, so that NaN is equal to itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
