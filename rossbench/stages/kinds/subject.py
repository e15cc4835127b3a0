"""What the function of an evaluation kind is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...config.kinds import Kind
from ...data.datasets import Data
from ...models.classifier import Classifier
from ...models.encoders import Encoder
from ...util.memory import AutoBatch
from ..evaluate import at_once


@dataclass(frozen=True)
class Subject:
    """A model, the test images of its target, and how it is to be looked at. All is on one device.

    Models are frozen and in eval mode, and take images in [0, 1].
    """

    encoder: Encoder
    """Images float [n, 3, size, size] -> features [n, d]."""
    classifier: Classifier | None
    """Images -> logits [n, classes]; None for a kind that needs no head."""
    images: Tensor
    """Uint8 [n, 3, size, size]."""
    labels: Tensor
    """Int64 [n]."""
    columns: Sequence[float]
    """Epsilons, or what else the columns of the kind are; ascending."""
    kind: Kind
    """With its settings."""
    seed: int
    target: str
    """Name of the data set that the images are the test split of."""
    limit: int | None
    """How many of its test images these are; None: all."""
    data_dir: Path
    train: Callable[[], Data]
    """The training images of the target and their labels; read when it is called."""
    source: Callable[[], Data]
    """The images that the encoder was trained on."""
    progress: Callable[[float], None] = lambda fraction: None
    """To be told now and then how much is done, in [0, 1]."""

    @property
    def head(self) -> Classifier:
        """The classifier of a kind that needs one."""
        assert self.classifier is not None
        return self.classifier

    def floats(self) -> Tensor:
        """The images in [0, 1]: float [n, 3, size, size]."""
        return self.images.float() / 255

    def batches(self) -> Iterator[Tensor]:
        """Places of images to work on together: int64 [m], ascending, so many as suit the device."""
        places = torch.arange(len(self.images), device=self.labels.device)
        return iter(places.split(at_once(self.images, self.labels.device)))

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """What a model gives for images, float [n, 3, size, size] or uint8, in batches: [n, ...]."""

        def of(some: Tensor) -> Tensor:
            made: Tensor = model(some.float() / 255 if some.dtype == torch.uint8 else some)
            return made

        return torch.cat([made for _, made in AutoBatch(at_once(images, images.device)).of(of, images)])

    def right(self, images: Tensor, places: Tensor | slice = slice(None)) -> Tensor:
        """Which images, in the place of all test images or of some, the head gets right: bool [n]."""
        return self.outputs(self.head, images).argmax(1) == self.labels[places]


@dataclass(frozen=True)
class Found:
    """The result of a kind."""

    rows: Mapping[str, Sequence[float]]
    """Title -> a number for each column. A title that ends in "(%)" is of percentages, in [0, 100]."""
    summary: Mapping[str, float] = field(default_factory=dict)
    """Title -> a number for the whole, as a median distance or a mean corruption error."""
    right: Tensor | None = None
    """Which images are right, in each column: bool [columns, n]; None where that means nothing."""
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """More for each image, by name: float [n] or [columns, n], such as distances."""
