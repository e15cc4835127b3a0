"""The built-in scenarios: declarations only."""

from __future__ import annotations

from .scenario import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe, Scenario

ROSS2022 = Recipe("ross2022")

# Digits are 1 x 16 x 16: no colour to jitter, nothing to flip, a crop that keeps most of the figure.
DIGITS = Recipe(
    "digits",
    Pretraining(
        epochs=60,
        learning_rate=2e-3,
        temperature=0.2,
        augmentation=Augmentation(crop_scale=(0.5, 1.0), flip_probability=0, jitter=(0.4, 0.4, 0, 0)),
    ),
    Finetuning(epochs=60, learning_rate=1e-2, weight_decay=0),
    Evaluation(Attack(steps=20, step_size=0.25)),
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
        encoder="conv4",
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
    _digits("digits-low-to-high", "digits-low", "digits-high", "Pretrained on 0 to 4, finetuned and attacked on 5 to 9."),
)
