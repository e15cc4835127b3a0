"""What all stages are built with: the store, a device, images by name, encoders that were trained elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..config.specs import AnySpec, FinetuneSpec, MeasureSpec, PretrainSpec
from ..data import datasets
from ..data.datasets import Data
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..models.pretrained import PretrainedEncoder
from ..store import artifacts, records
from ..store.store import Store
from ..util.errors import InvalidValue

Split = tuple[str, str, int | None, int]
"""Data set, "train" or "test", limit, and size in pixels."""


@dataclass
class Context:
    """Where the stages of a run read and write, and on which device they compute."""

    store: Store
    device: torch.device
    data_dir: Path
    encoders: Mapping[str, PretrainedEncoder] = field(default_factory=dict)
    """Encoders that were trained elsewhere, by their ``weights``."""
    origins: Mapping[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """By the key of a cell: the scenario that it is computed for, and how that deviates from the registered one."""
    _data: dict[Split, Data] = field(default_factory=dict)
    _classifier: tuple[str, Classifier] | None = None
    """The last one and its key: all evaluations of a classifier follow one another."""

    def data(self, spec: AnySpec) -> Data:
        """The images and labels that a spec is built with, on the device. Raises DataError."""
        return self.images(split_of(spec))

    def images(self, split: Split) -> Data:
        """The images and labels of a split, on the device. Raises DataError."""
        if split not in self._data:
            self.keep(split, datasets.load(*split, self.data_dir))
        return self._data[split]

    def keep(self, split: Split, data: Data) -> None:
        """Take these images for those of a split."""
        self._data[split] = data.to(self.device)

    def given(self, spec: PretrainSpec) -> PretrainedEncoder:
        """The encoder that a spec names by its weights. Raises InvalidValue if the run was not given it."""
        if spec.weights not in self.encoders:
            raise InvalidValue(
                f"{spec}: expected that encoder, which the store lacks, got none; give it to run --encoder-weights or "
                "rossbench.evaluate_encoder"
            )
        return self.encoders[spec.weights]

    def encoder(self, spec: PretrainSpec) -> Encoder:
        """A copy of the pretrained or given encoder, on the device. A Python module is in no store, so it is given."""
        given = self.encoders.get(spec.weights)
        encoder = artifacts.load_encoder(self.store, spec) if given is None else copy.deepcopy(given.encoder)
        return encoder.to(self.device)

    def classifier(self, spec: FinetuneSpec) -> Classifier:
        """The finetuned classifier, on the device."""
        if self._classifier is None or self._classifier[0] != spec.key:
            classifier = artifacts.load_classifier(self.store, spec, self.encoder(spec.pretrain))
            self._classifier = spec.key, classifier.to(self.device)
        return self._classifier[1]

    def forget_classifier(self) -> None:
        """After an artifact was found damaged: the next one built may differ from the one in memory."""
        self._classifier = None

    def provenance(self, **more: Any) -> dict[str, Any]:
        """What can change a result and is in no spec, with what else a stage has to say."""
        return {**self._provenance, **more}

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        device = self.device.type
        if device == "cuda":
            device = f"cuda ({torch.cuda.get_device_name(self.device)})"
        deterministic = torch.are_deterministic_algorithms_enabled()
        return records.provenance(device, "float32", torch.get_num_threads(), deterministic)


def split_of(spec: AnySpec) -> Split:
    """The images that a spec is built with."""
    if isinstance(spec, PretrainSpec):
        return spec.source, "train", spec.limit, spec.pixels
    if isinstance(spec, FinetuneSpec):
        return spec.target, "train", spec.limit, spec.pretrain.pixels
    if isinstance(spec, MeasureSpec):
        return spec.target, "test", spec.limit, spec.pretrain.pixels
    return spec.finetune.target, "test", spec.limit, spec.finetune.pretrain.pixels
