"""Encoders by name: timm's models without their classifier, and a small one for digits. The home of timm."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ..config.recipes import PADDINGS as PADDINGS
from ..config.recipes import SMALL as SMALL
from ..util import distributed
from ..util.errors import InvalidValue, unknown
from ..util.seeds import seeded


class Encoder(nn.Module):
    """RGB images in [0, 1] in, features out; channel means and deviations are applied inside, so attacks see [0, 1].

    forward: float [n, 3, size, size] -> float [n, features].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, size: int) -> None:
        """``backbone``: float [n, 3, size, size] -> float [n, features]; it becomes the encoder's own."""
        super().__init__()
        for module in backbone.modules():
            if type(module) is nn.BatchNorm2d and module.affine:
                module.__class__ = BatchNorm2d  # ours
        self.backbone = backbone
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        with torch.no_grad():
            backbone.eval()
            probe = self(torch.zeros(1, 3, size, size))
        if probe.ndim != 2:
            raise InvalidValue(f"encoder: expected one vector of features an image, got shape {tuple(probe.shape)}")
        self.features: int = probe.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


def build(name: str, size: int, seed: int) -> Encoder:
    """An untrained encoder for images of ``size`` pixels square; its weights depend on the seed alone.

    ``name`` is ``conv3``, a timm model, or a timm ResNet with ``:cifar`` appended (first convolution 3x3 with
    stride 1 and padding 1, no pooling after it) or ``:cifar-pad2`` (padding 2); then arguments of ``timm.create_model``
    may follow, as in ``vit_small_patch16_224,patch_size=4``. Raises UnknownName, or InvalidValue when the model cannot
    take such images or arguments.
    """
    with seeded(seed):
        try:
            return Encoder(_conv3() if name == SMALL else _timm(name, size), size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # timm's words for what does not fit
            raise InvalidValue(f"encoder {name!r} cannot be built for {size} x {size} images: {error}") from error


def cifar_stem(model: nn.Module) -> nn.Conv2d | None:
    """The first convolution of a ResNet in a model, if it is one of a CIFAR stem; see PADDINGS."""
    for module in model.modules():
        if isinstance(module, ResNet) and isinstance(module.conv1, nn.Conv2d):
            first, paddings = module.conv1, [(padding, padding) for padding in PADDINGS.values()]
            return first if first.stride == (1, 1) and first.padding in paddings else None
    return None


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, and in eval mode the same numbers in less time: a scale and a shift of each channel.

    torch's backward pass sums over the batch for gradients of the scale and shift that an attack does not ask for.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        scale, shift = (part[:, None, None].to(input.dtype) for part in (scale, shift))
        return torch.addcmul(shift, input, scale)


class DualBatchNorm2d(BatchNorm2d):
    """Two BatchNorms in one place, as ACL has them: attacked images go through this one, natural ones through another.

    Without ``natural_branch`` all go through this one.
    """

    clean: BatchNorm2d
    is_natural = False

    def forward(self, input: Tensor) -> Tensor:
        return self.clean(input) if self.is_natural else super().forward(input)


_CLEAN = ".clean."


def clean_name(name: str) -> str:
    """The name that a tensor of a BatchNorm has in its clean counterpart."""
    norm, _, part = name.rpartition(".")
    return f"{norm}{_CLEAN}{part}"


def is_clean(name: str) -> bool:
    """Whether a tensor of a state dict is of a clean counterpart."""
    return _CLEAN in name


def add_clean_branches(model: nn.Module, names: Iterable[str]) -> None:
    """Make those BatchNorms dual whose clean tensors are among the names of a state dict that is to be loaded."""
    for norm in {name.partition(_CLEAN)[0] for name in names if is_clean(name)}:
        module = model.get_submodule(norm)
        module.clean = copy.deepcopy(module)
        module.__class__ = DualBatchNorm2d


def is_dual(model: nn.Module) -> bool:
    return any(isinstance(module, DualBatchNorm2d) for module in model.modules())


@contextlib.contextmanager
def natural_branch(model: nn.Module) -> Iterator[None]:
    """Send what passes within through the clean BatchNorms, where there are two."""
    duals = [module for module in model.modules() if isinstance(module, DualBatchNorm2d)]
    try:
        for module in duals:
            module.is_natural = True
        yield
    finally:
        for module in duals:
            module.is_natural = False


Model = TypeVar("Model", bound=nn.Module)


def synchronised(model: Model) -> Model:
    """A copy that shares the model's weights and buffers, with BatchNorm over the batches of all ranks in train mode.

    InvalidValue if it has BatchNorm on the CPU, where torch's SyncBatchNorm does not work.
    """
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    if norms and next(model.parameters()).device.type == "cpu":
        raise InvalidValue("expected pretraining.batch_norm=per-rank on several CPU ranks, got synchronised")
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return convert_sync_batchnorm(copy.deepcopy(model, shared))  # type: ignore[no-any-return]


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give BatchNorm's running statistics the mean of all ranks', so that there is one model to attack and to save."""
    own = [part for name, part in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    if own:
        means = distributed.all_gather(torch.cat(own)).mean(0)
        for part, mean in zip(own, means.split([len(part) for part in own]), strict=True):
            part.copy_(mean)


def _timm(name: str, size: int) -> nn.Module:
    base, stem, _ = parts(name)
    if not timm.is_model(base) or (stem and stem not in PADDINGS):
        raise unknown("encoder", name, [SMALL, *timm.list_models()])
    model: nn.Module = timm.create_model(pretrained=False, **timm_arguments(name, size))
    if stem:
        if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
            raise InvalidValue(f"encoder {name!r}: expected a ResNet with a single-convolution stem, such as resnet18")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=PADDINGS[stem], bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def parts(name: str) -> tuple[str, str, dict[str, Any]]:
    """Architecture, stem ("" for its own) and further arguments that the name of an encoder says."""
    named, *written = name.split(",")
    base, _, stem = named.partition(":")
    return base, stem, {field: _plain(text) for field, _, text in (one.partition("=") for one in written)}


def _plain(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text.lower() if text in ("True", "False") else text)
    return text


def timm_arguments(name: str, size: int) -> dict[str, Any]:
    """What ``timm.create_model`` is called with for a model without its classifier."""
    base, _, further = parts(name)
    config = timm.get_pretrained_cfg(base)
    sized = config is not None and config.fixed_input_size  # such as vision transformers, built for one image size
    return {"model_name": base, "num_classes": 0, **({"img_size": size} if sized else {}), **further}


def _conv3() -> nn.Module:
    """Three 3x3 convolutions of stride 2 with BatchNorm and ReLU, 32 to 128 channels; 512 features at 16 pixels.

    Nothing is averaged: where a stroke is tells digits apart.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise((3, 32, 64, 128)):
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten())
