"""An encoder of a store as one file that timm loads, with all that a reader must know in its metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from safetensors.torch import save

from .. import __version__
from ..config.scenarios import Row
from ..models import encoders
from ..models.dialects import EXPORTED
from . import artifacts
from .records import Record
from .results import ResultMatrix
from .store import Store

STEM = "first convolution 3x3, stride 1"


def export(store: Store, models: Sequence[tuple[ResultMatrix, Row]]) -> bytes:
    """safetensors: the state dict of the backbone, float32, in the names of timm.

    ``models``: all of one encoder, as lookup.find_encoder gives them. Metadata are JSON, but ``format``, which is
    safetensors' own: ``docs/encoders.md`` describes them. StoreError for a Python module, which no name builds.
    """
    matrix, row = models[0]
    spec = matrix.audit_specs()[row].finetune.pretrain
    encoder = artifacts.load_encoder(store, spec)
    base, stem, _ = encoders.parts(spec.encoder)
    facts = {
        EXPORTED: __version__,
        "name": matrix.encoder if matrix.weights else matrix.model((row[0], row[0])),
        "encoder": spec.encoder,
        "timm": encoders.timm_arguments(spec.encoder, spec.pixels) if base != encoders.SMALL else None,
        "stem": f"{STEM}, padding {encoders.PADDINGS[stem]}; no pooling after it" if stem else None,
        "size": spec.pixels,
        "features": encoder.features,
        "normalization": {"mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist()},
        "source": spec.source,
        "epsilon": None if spec.weights else spec.epsilon,
        "recipe": None if spec.weights else asdict(spec.recipe),
        "seed": None if spec.weights else spec.seed,
        "weights": spec.weights or None,
        "results": [_numbers(record) for record in _records(models)],
    }
    metadata = {"format": "pt", **{name: json.dumps(fact, ensure_ascii=False) for name, fact in facts.items()}}
    # Of two BatchNorms the one that evaluations use. Cloned, as safetensors takes no tensors that share memory.
    state = {name: tensor for name, tensor in encoder.backbone.state_dict().items() if not encoders.is_clean(name)}
    return save({name: tensor.clone() for name, tensor in state.items()}, metadata)


def _records(models: Sequence[tuple[ResultMatrix, Row]]) -> list[Record]:
    """Each once: scenarios share cells."""
    cells = (one.cells.get((*row, column)) for one, row in models for column in one.columns)
    return list({record.key: record for record in cells if record is not None}.values())


def _numbers(record: Record) -> dict[str, Any]:
    finetune, attack = record.spec.finetune, record.spec.recipe.attack
    return {
        "target": finetune.target,
        "finetuning": {"trained": finetune.recipe.trained, "epsilon": finetune.epsilon},
        "epsilon": record.spec.epsilon,
        "attack": asdict(attack) if record.spec.epsilon else None,
        "seed": record.seed,
        "n": record.n,
        "top1_right": record.top1_right,
        "robust_right": record.robust_right,
        "wilson95": record.wilson95,
        "key": record.key,
    }
