"""What silent choices of the study make of a short pretraining: its contrastive loss, one choice changed at a time.

``python benchmarks/choices.py DATA_DIR OUT [NAME ...]`` pretrains the variants of these names, or all, on real CIFAR-10
and draws those that OUT has into OUT/choices.png; one that is there is not trained again. The base is the study's
recipe at epsilon 1, with a small encoder, batches of 128 and 12,800 images, so that an epoch has 100 steps. On two
cores all of it takes less than an hour.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rossbench.config.builtin import LAPTOP, ROSS2022
from rossbench.config.specs import PretrainSpec
from rossbench.data import datasets
from rossbench.report.plot_style import INK, LINES, WIDE, PaperFigure, curve_looks, laid_out, styled, to_bytes
from rossbench.stages.pretrain import pretrain
from rossbench.stages.train_loop import Hooks, Tick

IMAGES, BATCH, EPOCHS, RESNET_EPOCHS = 12_800, 128, 12, 2


def variant(encoder: str = "conv3", epochs: int = EPOCHS, **changes: Any) -> PretrainSpec:
    """A pretraining; ``changes``: fields of the recipe, or of its attack by ``attack_mode``."""
    recipe = replace(ROSS2022.pretraining, epochs=epochs, batch_size=BATCH, **changes)
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
    paths = {name: folder / f"{name}.json" for name in VARIANTS}
    done = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    (folder / "choices.png").write_bytes(to_bytes(plot(done), "png"))


@styled
def plot(done: dict[str, list[dict[str, float]]]) -> Figure:
    """Loss near that of constant features, and how often a view's partner is the most similar, by epoch."""
    figure, constant = PaperFigure((WIDE, 2.6)), VARIANTS["as the study"].constant_loss
    loss, accuracy = figure.subplots(1, 2)
    for k, (history, look) in enumerate(zip(done.values(), curve_looks(len(done)), strict=True)):
        epochs, look = [entry["epoch"] for entry in history], look | {"linestyle": LINES[k % len(LINES)]}
        loss.plot(epochs, [entry["loss"] for entry in history], **look)
        accuracy.plot(epochs, [100 * entry["top1"] for entry in history], **look)
    loss.axhline(constant, color=INK, linewidth=0.6, zorder=0)
    accuracy.axhline(100 / (2 * BATCH - 1), color=INK, linewidth=0.6, zorder=0)
    loss.annotate("constant features", (12, constant + 0.005), ha="right", fontsize=7)
    accuracy.annotate("chance", (12, 100 / (2 * BATCH - 1) * 1.1), ha="right", fontsize=7)
    loss.set(xlabel="Epoch", ylabel="Contrastive loss", ylim=(5.35, 5.6))
    accuracy.set(xlabel="Epoch", ylabel="Contrastive top-1 (%)", yscale="log")
    accuracy.yaxis.set_major_formatter("{x:g}")
    for axes in (loss, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
    return laid_out(figure, dict(zip(done, loss.lines, strict=False)))


if __name__ == "__main__":
    main(*sys.argv[1:])
