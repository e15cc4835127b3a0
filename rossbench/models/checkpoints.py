"""State dicts of timm, torchvision and lightly, and timm's own sources: checkpoints of encoders trained elsewhere."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..util.errors import InvalidValue
from . import encoders
from .encoders import CIFAR_STEM
from .pretrained import NONE, UNUSED, Normalization, PretrainedEncoder, given

SOURCES = ("hf-hub:", "local-dir:")
"""What timm calls models that bring their architecture, mean and std with them."""
_CONTAINERS = ("state_dict", "model_state_dict", "teacher", "model", "encoder", "backbone", "net")
_HEAD = re.compile(r"(fc|heads?|linear|last_linear|mlp|classif\w*|proj\w*|pred\w*|prototypes|queue\w*|\w+_head)")


def read(source: str, name: str, size: int, normalization: Normalization = NONE) -> PretrainedEncoder:
    """The encoder of a file, or of timm's ``hf-hub:...`` or ``local-dir:...``, for images of ``size`` pixels square.

    ``name``: the architecture, see encoders.build; it and ``normalization`` are for files alone. Raises InvalidValue
    when the source cannot be read, holds NaN, or is not the whole of that encoder.
    """
    if source.startswith(SOURCES):
        return _from_timm(source, size)
    path = Path(source)
    encoder = encoders.build(name, size, seed=0)
    matched, prefix, dropped = _fitted(path.name, name, encoder.backbone, _state(path))
    encoder.backbone.load_state_dict(matched, strict=False)  # all but UNUSED, as _fitted has seen to
    return given(name, encoder, normalization, {"from": path.name, "prefix": prefix, "dropped": dropped})


def _from_timm(source: str, size: int) -> PretrainedEncoder:
    """Built and loaded by timm with its classifier, which makes timm check every name, and then without it."""
    base = source.rstrip("/").rpartition("/")[2] if "/" in source else source
    try:
        config = timm.create_model(source, pretrained=False).pretrained_cfg
        resized = {"img_size": size} if config.get("fixed_input_size") else {}
        model = timm.create_model(source, pretrained=True, **resized)
        model.reset_classifier(0)
    except Exception as error:  # timm, the hub and the network have many words for what is not there
        raise InvalidValue(
            f"{base}: expected a model that timm can load, got {' '.join(str(error).split())[:200]}"
        ) from error
    name = str(config["architecture"])
    encoder = encoders.build(name, size, seed=0)
    matched, prefix, dropped = _fitted(base, name, encoder.backbone, dict(model.state_dict()))
    encoder.backbone.load_state_dict(matched, strict=False)
    probe = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = torch.allclose(encoder.backbone.eval()(probe), model.eval()(probe), rtol=1e-3, atol=1e-4)
    if not same:  # arguments in its configuration that change no shape, such as another activation
        raise InvalidValue(f"{base}: expected timm's {name} as it is, got one that its configuration changes")
    normalization = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
    return given(name, encoder, normalization, {"from": base, "prefix": prefix, "dropped": dropped})  # type: ignore[arg-type]


# --- files -------------------------------------------------------------------------------------------------


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, out of the containers that training code puts around them."""
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except SafetensorError as error:
        raise InvalidValue(f"{path.name}: expected safetensors, got a damaged file: {error}") from error
    while isinstance(content, Mapping) and (inner := [k for k in _CONTAINERS if isinstance(content.get(k), Mapping)]):
        content = content[inner[0]]
    state = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in state if isinstance(value, Tensor)}
    if not tensors:
        raise InvalidValue(f"{path.name}: expected a state dict, names with tensors, got {type(content).__name__}")
    return tensors


def _torch_load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # what it says of other pickles is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many words for what is no checkpoint
        code = re.search(r"GLOBAL ([\w.]+\w)\b", str(error))
        got = "another file, or a damaged one"
        if code or path.read_bytes()[:1] == b"\x80":  # with which pickles begin
            what = f"code, {code[1]}" if code else "other things"
            got = f"a pickle of {what}, which is not run; save model.state_dict() alone"
        raise InvalidValue(
            f"{path.name}: expected weights, written by torch.save or as .safetensors, got {got}"
        ) from error


# --- names -------------------------------------------------------------------------------------------------


def _fitted(
    source: str, name: str, backbone: nn.Module, found: dict[str, Tensor]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """State dict of the backbone, prefix that its names had, what was dropped; InvalidValue if any of it is not there.

    The prefix is the one under which most of the encoder is; of several, such as MoCo's encoder_q and its moving
    average encoder_k, the first in the file.
    """
    expected = {key: tensor for key, tensor in backbone.state_dict().items() if not key.endswith(UNUSED)}
    keys = [key for key in found if not key.endswith(UNUSED)]
    under = _by_prefix(keys, [child for child, _ in backbone.named_children()])
    prefix = max(under, key=lambda one: len(under[one].keys() & expected.keys()))
    inside = {inner: found[key] for inner, key in under[prefix].items()}
    strange = [inner for inner in inside if inner not in expected and not _HEAD.fullmatch(inner.split(".")[0])]
    if strange or any(inner not in inside or inside[inner].shape != expected[inner].shape for inner in expected):
        raise InvalidValue(_mismatch(source, name, expected, inside, strange))
    used, depth = {under[prefix][inner] for inner in expected}, prefix.count(".")
    dropped = Counter(
        ".".join(key.split(".")[: depth + 1 if key.startswith(prefix) else depth]) for key in keys if key not in used
    )
    said = [f"{part} ({count} tensors)" for part, count in dropped.items()]
    return {inner: inside[inner] for inner in expected}, prefix, said


def _by_prefix(keys: Iterable[str], children: list[str]) -> dict[str, dict[str, str]]:
    """Every prefix of dotted names, "" first, with the names under it: name in the encoder -> whole name.

    A number there stands for the encoder's child at that place: lightly's examples, for one, save
    nn.Sequential(*resnet.children()).
    """
    under: dict[str, dict[str, str]] = {"": {}}
    for key in keys:
        parts = key.split(".")
        for k, part in enumerate(parts):
            numbered = part not in children and part.isdecimal() and int(part) < len(children)
            first = children[int(part)] if numbered else part
            prefix = "".join(f"{one}." for one in parts[:k])
            under.setdefault(prefix, {})[".".join([first, *parts[k + 1 :]])] = key
    return under


def _mismatch(
    source: str, name: str, expected: dict[str, Tensor], inside: dict[str, Tensor], strange: list[str]
) -> str:
    missing = [key for key in expected if key not in inside]
    shapes = {key: (list(inside[key].shape), list(expected[key].shape)) for key in expected if key in inside}
    other = [f"{key} {came} for {wanted}" for key, (came, wanted) in shapes.items() if came != wanted]
    kinds = (("missing", missing), ("of another shape", other), ("unknown", strange))
    told = [f"{len(keys)} {kind} ({', '.join(keys[:2])}{', ...' * (len(keys) > 2)})" for kind, keys in kinds if keys]
    kernel = shapes.get("conv1.weight", ([], []))
    hint = ""
    if [one[2:] for one in kernel] == [[3, 3], [7, 7]]:
        hint = f"; that is the CIFAR stem, --encoder {name}{CIFAR_STEM}"
    elif [one[2:] for one in kernel] == [[7, 7], [3, 3]]:
        hint = f"; that is the ImageNet stem, --encoder {name.removesuffix(CIFAR_STEM)}"
    return f"{source}: expected the {len(expected)} tensors of {name}, got {'; '.join(told)}{hint}"
