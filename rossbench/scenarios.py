"""The built-in scenarios: declarations only."""

from __future__ import annotations

from .recipe import Augmentation, Finetuning, Pretraining, Recipe
from .scenario import Scenario

ROSS2022 = Recipe("ross2022")

# Digits are gray and 16 pixels wide: no colour to jitter, nothing to flip, a crop that keeps most of the figure.
# The attacks are the study's; the rest is what gives good encoders in a minute.
DIGITS = Recipe(
    "digits",
    Pretraining(
        epochs=10,
        batch_size=64,
        learning_rate=2e-3,
        constant_epochs=5,
        temperature=0.5,
        augmentation=Augmentation(crop_scale=(0.7, 1.0), flip_probability=0, jitter_probability=0),
    ),
    Finetuning(epochs=10, batch_size=64, learning_rate=1e-2, weight_decay=0),
)


def _cifar(source: str, target: str) -> Scenario:
    task = "the same task" if source == target else "another task"
    text = f"Pretrained on {source}, finetuned and attacked on {task} (study, tables 5.1 to 5.5)."
    return Scenario(f"{source}-to-{target}", source, target, ROSS2022, description=text)


def _digits(name: str, source: str, target: str, description: str) -> Scenario:
    return Scenario(
        name,
        source,
        target,
        DIGITS,
        encoder="conv3",
        train_epsilons=(0, 0.5, 1),
        eval_epsilons=(0, 0.25, 0.5, 0.75, 1),
        description=description,
    )


BUILTIN = (
    _cifar("cifar10", "cifar10"),
    _cifar("cifar10", "cifar100"),
    _cifar("cifar100", "cifar10"),
    _cifar("cifar100", "cifar100"),
    _digits("digits", "digits", "digits", "Handwritten digits, embedded: needs no download."),
    _digits("digits-low-to-high", "digits-low", "digits-high", "Pretrained on 0 to 4, tuned and attacked on 5 to 9."),
)
