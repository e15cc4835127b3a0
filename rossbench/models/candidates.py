"""Where in a file an encoder may be: every prefix of its names, and what stands under each, in the encoder's names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from ..util.errors import one_line
from .pretrained import UNUSED

HEAD = re.compile(
    r"fc(?!_norm)\w*|heads?|head_\w+|\w+_head|linear\w*|last_linear|mlp|top_layer|\w*classif\w*|\w*probe\w*|proj\w*|pred\w*"
    r"|\w+_(proj|pred)\w*|prototypes|\w*queue\w*|\w*bank|memory\w*|decoder\w*|mask(ed)?_(token|embed)\w*|logit_scale"
    r"|temperature|n_averaged|opt|\w*optim\w*|\w*sched\w*|\w*scaler|amp|callbacks|loops|\w*rng\w*|epochs?|iter\w*|\w*steps?"
    r"|best\w*|\w*loss\w*|criterion\w*|center|hist\w*|metrics?|meters?|(\w+_)?acc\w*|lr|\w*random_state\w*|args|cfg|config\w*|h(yper_?)?param\w*"
)
"""What may stand beside the encoder's own tensors and is dropped: what follows it, and the state of a training."""
BRANCHES = {"clean": 0, "adversarial": 1}
"""Places of the BatchNorms in the lists of ACL, DynACL and AdvCL; a third is of AdvCL's pseudo-labels."""
_ADVERSARIAL, _CLEAN = re.compile(r"adv\w*|pgd|aux\w*|attack\w*"), re.compile(r"clean|nat\w*|normal|std|main|benign")


def tensors(content: object, prefix: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested containers under its path; ``around``: the containers around this one.

    A mean and a std in three numbers, as configurations hold them, are tensors too.
    """
    pairs: Iterable[tuple[object, object]] = ()
    content = vars(content) if isinstance(content, (argparse.Namespace, SimpleNamespace)) else content
    if isinstance(content, Mapping):
        pairs = content.items()
    elif isinstance(content, (list, tuple)):
        pairs = enumerate(content)
    for key, value in pairs:
        name = prefix + one_line(str(key))
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        if key in ("mean", "std") and isinstance(value, (list, tuple)) and [*map(type, value)] == [float] * 3:
            value = torch.tensor(value)
        if isinstance(value, Tensor) and not value.is_nested:
            yield name, value.detach()
        elif id(value) not in (*around, id(content)) and len(around) < 20:
            yield from tensors(value, f"{name}.", (*around, id(content)))


def not_numbers(tensor: Tensor) -> str:
    """What a tensor is instead of dense real numbers; "" if it is these."""
    if tensor.is_meta:
        return "no values (meta)"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return str(tensor.dtype).removeprefix("torch.") if tensor.is_complex() or tensor.is_quantized else ""


# --- names -------------------------------------------------------------------------------------------------


def shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two names have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


class Layout:
    """The encoder's own names, and what those of a dialect are in them."""

    def __init__(self, backbone: nn.Module) -> None:
        state = backbone.state_dict()
        self.expected = {key: tensor for key, tensor in state.items() if not key.endswith(UNUSED)}
        self.known = set(state)
        self.norms = [key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")]
        children = dict(backbone.named_children())
        self.children = list(children)
        # nn.Sequential(*resnet.children()) numbers them all, and only those with weights where ReLU is a function.
        self.numberings = [self.children, [child for child, module in children.items() if module.state_dict()]]
        self.shortcut: dict[str, str] = {}
        for key, module in backbone.named_modules():
            if re.search(r"\.downsample\.\d+$", key) and isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                self.shortcut.setdefault("conv" if isinstance(module, nn.Conv2d) else "bn", key.rpartition(".")[2])

    def translate(self, name: str, numbering: list[str]) -> tuple[str, str]:
        """The encoder's own name, and which of several BatchNorms is meant ("" for the only one)."""
        first, _, rest = name.partition(".")
        if first not in self.children and first.isdecimal() and int(first) < len(numbering):
            name = f"{numbering[int(first)]}.{rest}"
        name = name.replace(".shortcut.", ".downsample.")
        for part, number in self.shortcut.items():
            name = name.replace(f".downsample.{part}.", f".downsample.{number}.")
        if name not in self.known:
            path, _, part = name.rpartition(".")
            for norm in self.norms:
                if path.startswith(f"{norm}.") and f"{norm}.{part}" in self.known:
                    return f"{norm}.{part}", path.removeprefix(f"{norm}.")
        return name, ""


def _branch(name: str) -> int | None:
    words = re.split(r"[._]", name)
    for pattern, number in ((_ADVERSARIAL, 1), (_CLEAN, 0)):
        if any(map(pattern.fullmatch, words)):
            return number
    return 0 if not name else int(words[-1]) if words[-1].isdecimal() else None


@dataclass
class Candidate:
    """What stands under a prefix, as the encoder."""

    prefix: str
    layout: Layout
    keys: dict[str, str] = field(default_factory=dict)
    """Name in the encoder -> name in the file."""
    branches: set[str] = field(default_factory=set)
    """The BatchNorms of layers that have several."""
    branch: str = ""
    """The one that is taken."""
    others: dict[str, dict[str, str]] = field(default_factory=dict)
    """The others: name in the encoder -> BatchNorm -> name in the file."""
    strange: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        return [name for name in self.layout.expected if name not in self.keys]

    @property
    def whole(self) -> bool:
        return not (self.missing or self.misshapen or self.strange)

    @property
    def title(self) -> str:
        return self.prefix.removesuffix(".") or "the top level"

    @property
    def unused(self) -> set[str]:
        """Names in the file of the other BatchNorms."""
        return {key for others in self.others.values() for key in others.values()}

    def clean(self) -> dict[str, str]:
        """Of the clean BatchNorms that are not taken: name in the encoder -> name in the file."""
        found = {own: [others[one] for one in others if _branch(one) == 0] for own, others in self.others.items()}
        return {own: keys[0] for own, keys in found.items() if len(keys) == 1}

    def tensors(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: found[key] for name, key in self.keys.items()}


def candidates(layout: Layout, found: Mapping[str, Tensor], wanted: int, explained: Collection[str]) -> list[Candidate]:
    under: dict[str, dict[str, str]] = {"": {}}
    for key in sorted(found):  # the order in the file decides nothing
        parts = key.split(".")
        for k in range(len(parts)):
            under.setdefault("".join(f"{part}." for part in parts[:k]), {})[".".join(parts[k:])] = key
    made = []
    for prefix, names in under.items():
        read = (_read(layout, prefix, names, numbering, wanted) for numbering in layout.numberings)
        made.append(max(read, key=lambda one: len(one.keys)))
        shapes = [(name, found[key].shape) for name, key in made[-1].keys.items() if name in layout.expected]
        made[-1].misshapen = [name for name, shape in shapes if shape != layout.expected[name].shape]
    inner = [one.prefix for one in made if not one.missing and not one.misshapen]
    for one in made:
        nested = tuple(prefix for prefix in inner if prefix.startswith(one.prefix) and prefix != one.prefix)
        one.strange = [
            name
            for name in one.strange
            if not (f"{one.prefix}{name}".startswith(nested) and nested)
            and f"{one.prefix}{name}" not in explained
            and not name.endswith(UNUSED)
            and not HEAD.fullmatch(name.split(".")[0])
        ]
    return made


def _read(layout: Layout, prefix: str, names: Mapping[str, str], numbering: list[str], wanted: int) -> Candidate:
    one = Candidate(prefix, layout)
    variants: dict[str, dict[str, str]] = {}
    for name, key in names.items():
        own, branch = layout.translate(name, numbering)
        if own not in layout.known or branch in variants.get(own, ()):
            one.strange.append(name)
        else:
            variants.setdefault(own, {})[branch] = key
    of_norm: dict[str, set[str]] = {}
    for own, branches in variants.items():
        of_norm.setdefault(own.rpartition(".")[0], set()).update(branches)
    for own, branches in variants.items():
        several, taken = of_norm[own.rpartition(".")[0]], list(branches)
        if len(several) > 1:  # of each layer all is of one
            one.branches |= several
            taken = [branch for branch in branches if _branch(branch) == wanted]
        if len(taken) == 1:
            one.keys[own] = branches[taken[0]]
            if len(several) > 1:
                one.branch = taken[0]
                one.others[own] = {branch: key for branch, key in branches.items() if branch != taken[0]}
    return one
