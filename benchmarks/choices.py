"""What silent choices of the study make of a short pretraining: its contrastive loss, one choice changed at a time.

``python benchmarks/choices.py DATA_DIR OUT [NAME ...]`` pretrains the variants of these names, or all, on real CIFAR-10
and draws those that OUT has into OUT/choices.png; one that is there is not trained again. The base is the study's
recipe at epsilon 1, with a small encoder, batches of 128 and 12,800 images, so that an epoch has 100 steps. On two
cores all of it takes some 45 minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rossbench.config.builtin import LAPTOP, ROSS2022
from rossbench.config.specs import PretrainSpec
from rossbench.data import datasets
from rossbench.report.figures.curves import plot_training
from rossbench.report.plot_style import to_bytes
from rossbench.stages.pretrain import pretrain
from rossbench.stages.train_loop import Hooks, Tick

IMAGES, EPOCHS, RESNET_EPOCHS = 12_800, 12, 2


def variant(encoder: str = "conv3", epochs: int = EPOCHS, **changes: Any) -> PretrainSpec:
    """A pretraining; ``changes``: fields of the recipe, or of its attack by ``attack_mode``."""
    recipe = replace(ROSS2022.pretraining, epochs=epochs, batch_size=128, **changes)
    return PretrainSpec("cifar10", IMAGES, encoder, 1.0, recipe)


VARIANTS = {
    "as the study": variant(),
    "warm-up of 4 epochs": variant(epsilon_warmup=4),
    "BatchNorm in train mode under attack": variant(attack_mode="train"),
    "temperature 0.5": variant(temperature=0.5),
    "milder views": variant(augmentation=LAPTOP.pretraining.augmentation),
    "ResNet-18, timm's initial weights": variant("resnet18", RESNET_EPOCHS),
    "ResNet-18, torchvision's initial weights": variant("resnet18,zero_init_last=False", RESNET_EPOCHS),
}


def train(name: str, data_dir: Path, out: Path) -> None:
    """Leaves the history of a variant in OUT/NAME.json."""
    spec = VARIANTS[name]

    def tell(tick: Tick) -> None:
        if tick.history:
            print(name, {key: round(value, 4) for key, value in tick.history[-1].items()}, flush=True)

    _, history = pretrain(spec, datasets.load("cifar10", "train", IMAGES, spec.pixels, data_dir).images, Hooks(tell))
    (out / f"{name}.json").write_text(json.dumps(history, indent=1) + "\n")


def main(data_dir: str, out: str, *names: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or VARIANTS:
        if not (folder / f"{name}.json").exists():
            train(name, Path(data_dir), folder)
    done: dict[str, Sequence[dict[str, float]]] = {
        name: json.loads(path.read_text()) for name in VARIANTS if (path := folder / f"{name}.json").exists()
    }
    constant = sorted({VARIANTS[name].constant_loss for name in done})
    (folder / "choices.png").write_bytes(to_bytes(plot_training(done, constant), "png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
