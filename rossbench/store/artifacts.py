"""What the files of an artifact hold: models, predictions and records, to and from the store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..config.recipes import MODULE
from ..config.specs import AnySpec, AuditSpec, EvaluateSpec, FinetuneSpec, MeasureSpec, PretrainSpec
from ..data.datasets import facts
from ..models import encoders
from ..models.classifier import Classifier
from ..models.encoders import Encoder
from ..models.simclr import SimCLR, build
from ..util.errors import Diverged, StoreError
from ..util.values import encode
from .records import Audit, Measurement, Verdict
from .store import Store, damaged


def save_trained(
    store: Store,
    spec: PretrainSpec | FinetuneSpec,
    module: nn.Module,
    history: list[dict[str, float]],
    seconds: float,
    provenance: dict[str, Any],
) -> None:
    """Weights (of SimCLR with its head, a given encoder, or what the finetuning trained), history, their origin.

    seconds: wall time in this run; after an interruption the epochs' own times are the better account, so the larger
    of both is stored. Raises Diverged, and saves nothing, if a weight is not finite.
    """
    seconds = max(seconds, sum(entry["seconds"] for entry in history))
    # Cloned: safetensors takes no tensors that share memory, as tied weights of a given encoder do.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise Diverged(
            f"{spec}: expected finite weights, got others in {broken[0]} ({len(broken)} in all) after the last epoch; "
            "lower the learning rate"
        )
    files = {
        "weights.safetensors": save_tensors(weights),
        "history.jsonl": "".join(json.dumps(entry) + "\n" for entry in history).encode(),
        "stage.json": encode({"seconds": round(seconds, 3), "provenance": provenance}),
    }
    store.write(spec, files)


def load_simclr(store: Store, spec: PretrainSpec) -> SimCLR:
    """The pretrained model, on the CPU, in eval mode."""
    model = build(spec)
    _load_weights(store, spec, model)
    return model.eval()


def load_encoder(store: Store, spec: PretrainSpec) -> Encoder:
    """The encoder, pretrained or given, on the CPU, in eval mode. StoreError where only the caller's code has it."""
    if not spec.weights:
        return load_simclr(store, spec).encoder
    if spec.encoder.startswith(MODULE):
        raise StoreError(
            f"{spec}: expected an encoder that can be built by its name, got a Python module; "
            "call rossbench.evaluate_encoder with it again"
        )
    encoder = encoders.build(spec.encoder, spec.pixels, seed=0)
    _load_weights(store, spec, encoder)
    return encoder.eval()


def load_classifier(store: Store, spec: FinetuneSpec, encoder: Encoder | None = None) -> Classifier:
    """The finetuned classifier, on the CPU, in eval mode. ``encoder``: the one to take in place of the store's."""
    encoder = load_encoder(store, spec.pretrain) if encoder is None else encoder
    classifier = Classifier(encoder, facts(spec.target).classes)
    _load_weights(store, spec, classifier.trained(spec.recipe))
    return classifier


def load_predictions(store: Store, spec: EvaluateSpec) -> tuple[Tensor, Tensor]:
    """Ranked classes int64 [n, min(5, classes)] and labels int64 [n] of a cell."""
    arrays = _tensors(store, spec, "predictions.safetensors")
    return arrays["predictions"].long(), arrays["labels"].long()


def save_audit(
    store: Store, spec: AuditSpec, verdicts: list[Verdict], images: int, seconds: float, provenance: dict[str, Any]
) -> Audit:
    """The audit, as it is stored."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    audit = Audit(spec, tuple(verdicts), images, round(seconds, 3), made, provenance)
    store.write(spec, {"audit.json": encode(audit)})
    return audit


def save_measurement(store: Store, found: Measurement, arrays: dict[str, Tensor]) -> None:
    """What an evaluation kind found, with numbers for each image: [n] or [columns, n]."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}
    store.write(found.spec, {"measurement.json": encode(found), "images.safetensors": save_tensors(kept)})


def load_measured(store: Store, spec: MeasureSpec) -> dict[str, Tensor]:
    """By name, what an evaluation kind found of each image: [n] or [columns, n]; ``right``: bool [columns, n]."""
    return _tensors(store, spec, "images.safetensors")


def load_history(store: Store, spec: PretrainSpec | FinetuneSpec) -> list[dict[str, float]]:
    """Loss, top-1 and top-5 of a training, an entry an epoch; see Loop.run."""
    try:
        return [json.loads(line) for line in store.read(spec, "history.jsonl").splitlines()]
    except ValueError as error:
        raise damaged(store.path(spec) / "history.jsonl", f"expected JSON lines, got {error}") from error


def _load_weights(store: Store, spec: PretrainSpec | FinetuneSpec, module: nn.Module) -> None:
    found = _tensors(store, spec, "weights.safetensors")
    if isinstance(module, Encoder):
        encoders.add_clean_branches(module, found)
    expected = module.state_dict()
    wrong = [name for name in {**found, **expected} if name not in found or name not in expected]
    wrong = wrong or [name for name in found if found[name].shape != expected[name].shape]
    if wrong:
        what = f"expected the weights of {spec}, got others, such as {wrong[0]} ({len(wrong)} in all)"
        raise damaged(store.path(spec) / "weights.safetensors", what)
    module.load_state_dict(found)


def _tensors(store: Store, spec: AnySpec, name: str) -> dict[str, Tensor]:
    try:
        return load_tensors(store.read(spec, name))
    except SafetensorError as error:
        raise damaged(store.path(spec) / name, f"expected safetensors, got a damaged file: {error}") from error
