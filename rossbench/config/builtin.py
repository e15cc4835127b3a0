"""The built-in scenarios: declarations only."""

from __future__ import annotations

from dataclasses import replace

from .recipes import ATTACKS, Attack, Augmentation, Evaluation, Finetuning, Norm, Pretraining, Recipe
from .scenarios import Scenario, Suite

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

# Real images on two cores: a small encoder, views mild enough for a schedule so short, an attack that grows in the
# first epoch. The attacks are the study's; docs/study.md tells what was measured.
LAPTOP = Recipe(
    "laptop",
    Pretraining(
        epochs=4,
        batch_size=128,
        learning_rate=1e-3,
        constant_epochs=2,
        temperature=0.2,
        epsilon_warmup=1,
        augmentation=Augmentation(crop_scale=(0.3, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0),
    ),
    Finetuning(epochs=5, learning_rate=2e-3, weight_decay=0),
)


def _leaderboard(norm: Norm) -> Recipe:
    """Attacks as the field's leaderboards have them: evaluated by AutoAttack, counted where right without it.

    Steps and sizes in training are those of adversarial contrastive learning (Jiang et al., 2020): five in pretraining
    and ten in finetuning, each a quarter of epsilon, which is 2/255 for 8/255.
    """
    step = Attack(norm=norm, steps=5, step_size=0.25, step_unit="epsilon")
    return Recipe(
        f"leaderboard-{norm.lower()}",
        Pretraining(attack=step),
        Finetuning(attack=replace(step, steps=10)),
        Evaluation(attack=replace(ATTACKS["autoattack-standard"].defaults, norm=norm), attacked="correct"),
    )


def _studys(source: str, target: str, attacked_on: str, size: int | None = None) -> Scenario:
    text = f"Pretrained on {source}, finetuned and attacked on {attacked_on}."
    return Scenario(f"{source}-to-{target}", source, target, ROSS2022, description=text, size=size)


def _laptop(base: Scenario) -> Scenario:
    text = f"Pretrained on {base.source}, finetuned and attacked on {base.target}: real images on two cores."
    return replace(
        base,
        name=f"{base.name}-laptop",
        recipe=LAPTOP,
        encoder="conv3",
        train_epsilons=(0, 0.25, 0.5),
        eval_epsilons=(0, 0.125, 0.25, 0.375, 0.5),
        test_limit=2000,
        description=text,
    )


def _under(base: Scenario, norm: Norm, epsilon: float, shown: str) -> Scenario:
    return replace(
        base,
        name=f"{base.name}-{norm.lower()}",
        recipe=_leaderboard(norm),
        train_epsilons=(0, epsilon),
        eval_epsilons=(0, epsilon),
        description=f"{base.source} to {base.target} under the leaderboards' threat, {norm} {shown}, by AutoAttack.",
    )


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


def _heads(base: Scenario) -> Scenario:
    """The models of the largest epsilon, with a standard and with an adversarial head (study, section 5.4.3)."""
    top = max(base.train_epsilons)
    text = f"Pretrained on {base.source} at epsilon {top:g}: standard against adversarial finetuning on {base.target}."
    name = f"{base.name}-finetuning"
    return replace(base, name=name, train_epsilons=(top,), finetune_epsilons=(0, top), description=text)


def _study(name: str, on: str, scenarios: tuple[Scenario, ...]) -> tuple[Scenario | Suite, ...]:
    """The study's three experiments on two data sets, from the four scenarios between them."""
    same = tuple(one.name for one in scenarios if one.source == one.target)
    other = tuple(one.name for one in scenarios if one.source != one.target)
    heads = tuple(map(_heads, scenarios))
    experiments = (
        Suite(f"{name}-same-task", same, f"Experiment 1 on {on}: finetuned on the source's task (section 5.4.1)."),
        Suite(f"{name}-transfer", other, f"Experiment 2 on {on}: finetuned on another task (section 5.4.2)."),
        Suite(
            f"{name}-finetuning",
            tuple(one.name for one in heads),
            f"Experiment 3 on {on}: what adversarial finetuning adds (section 5.4.3).",
        ),
    )
    whole = Suite(name, tuple(one.name for one in experiments), f"All three experiments of the study, on {on}.")
    return (*heads, *experiments, whole)


_SETS = ("cifar10", "cifar100")
CIFAR = tuple(
    _studys(source, target, f"{'the same' if source == target else 'another'} task (study, tables 5.1 to 5.5)")
    for source in _SETS
    for target in _SETS
)
LAPTOPS = tuple(map(_laptop, CIFAR))
STL10 = tuple(_studys(source, "stl10", "STL-10 at 32 pixels, by the study's recipe", 32) for source in _SETS)
_LINF: tuple[Norm, float, str] = ("Linf", 8 / 255, "8/255")
_L2: tuple[Norm, float, str] = ("L2", 0.5, "0.5")
LEADERBOARDS = (
    *(_under(one, *threat) for one in CIFAR for threat in (_LINF, _L2)),
    *(_under(one, *_LINF) for one in STL10),  # of which there is no board in L2
)
HALVES = (
    _digits("digits-low-to-low", "digits-low", "digits-low", "The digits 0 to 4."),
    _digits("digits-low-to-high", "digits-low", "digits-high", "Pretrained on 0 to 4, tuned and attacked on 5 to 9."),
    _digits("digits-high-to-low", "digits-high", "digits-low", "Pretrained on 5 to 9, tuned and attacked on 0 to 4."),
    _digits("digits-high-to-high", "digits-high", "digits-high", "The digits 5 to 9."),
)
_STL10_ALONE = "Pretrained, finetuned and attacked on STL-10's labelled images at 96 pixels, by the study's recipe."
BUILTIN: tuple[Scenario | Suite, ...] = (
    *CIFAR,
    *STL10,
    Scenario("stl10-to-stl10", "stl10", "stl10", ROSS2022, description=_STL10_ALONE),
    *LEADERBOARDS,
    *LAPTOPS,
    _digits("digits", "digits", "digits", "Handwritten digits, embedded: needs no download."),
    *HALVES,
    *_study("ross2022", "CIFAR-10 and CIFAR-100", CIFAR),
    *_study("cifar-laptop", "CIFAR-10 and CIFAR-100 at the scale of a laptop", LAPTOPS),
    *_study("digits-study", "two halves of the digits", HALVES),
)
