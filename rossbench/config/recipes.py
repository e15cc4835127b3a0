"""How the stages are done: recipes and their parts, with the study's protocol as defaults. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ..util.epsilons import EPS, fraction
from ..util.errors import InvalidValue, one_line, unknown
from ..util.values import Count, NotNegative, Positive, Share, Whole, value

Norm = Literal["L2", "Linf"]
MIN_CLASSES = 4
"""Of a target, for attacks on APGD-T's loss, which divides by a difference of the first, third and fourth logit."""
MODULE = "module:"
"""What the names of encoders begin with that are modules of a caller's own, and in no library."""


@value
class Attack:
    """An attack on images in [0, 1]; its epsilon is an argument of the call. docs/trust.md describes each."""

    name: str = "pgd"
    """A key of ATTACKS."""
    norm: Norm = "L2"
    steps: Count = 20
    """Of pgd, apgd-ce, apgd-t, fab-t (for each target) and autoattack-standard (all of these); queries of square."""
    step_size: Positive = 3.0
    """Of pgd: length of a step in the attack's norm, in units of ``step_unit``."""
    random_start: bool = True
    """Of pgd."""
    step_unit: Literal["pixel", "epsilon"] = "pixel"
    """"pixel": steps are lengths in [0, 1] pixel space; "epsilon": they are multiples of epsilon."""
    restarts: Count = 1
    """Of pgd: so many random starts, the worst for each image."""

    def __post_init__(self) -> None:
        if self.name == "autoattack-standard" and self.steps != 100:
            raise InvalidValue(f"Attack.steps: expected 100, which autoattack-standard stands for, got {self.steps}")

    def length(self, epsilon: Any) -> Any:
        """Of a step, in pixel space; ``epsilon``: a number, or a tensor of them."""
        return self.step_size if self.step_unit == "pixel" else self.step_size * epsilon

    @property
    def passes(self) -> int:
        """Most passes of an image through the model, a forward or a backward pass counting 1; see specs.passes."""
        gradients, squares = 2 * self.steps, 5000
        work = {"fgsm": 2, "gaussian-noise": 0, "negative": 0, "square": self.steps, "apgd-ce": gradients + 2}
        work |= {"apgd-t": 9 * (gradients + 3), "fab-t": 9 * (gradients + self.steps)}
        work["autoattack-standard"] = work["apgd-ce"] + work["apgd-t"] + work["fab-t"] + squares
        return work.get(self.name, gradients * self.restarts)

    def __str__(self) -> str:
        unit = f" {EPS}" if self.step_unit == "epsilon" else ""
        detail = {
            "pgd": f", {self.steps} steps of {self.step_size:g}{unit}",
            "square": f", {self.steps} queries",
            **dict.fromkeys(("apgd-ce", "apgd-t", "fab-t"), f", {self.steps} steps"),
        }.get(self.name, "")
        start = "" if self.random_start or self.name != "pgd" else ", no random start"
        again = f", {self.restarts} restarts" if self.restarts > 1 else ""
        norm = "" if self.name == "negative" else f"-{self.norm}"
        return one_line(f"{_TITLES.get(self.name, self.name)}{norm}{detail}{start}{again}")


_TITLES = {
    "pgd": "PGD",
    "fgsm": "FGSM",
    "gaussian-noise": "Gaussian noise",
    "negative": "negative image",
    "square": "Square",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "autoattack-standard": "AutoAttack standard",
}
_STEPS = {"square": 5000, **dict.fromkeys(("apgd-ce", "apgd-t", "fab-t", "autoattack-standard"), 100)}
BUILTIN_ATTACKS = tuple(_TITLES)
ATTACKS = {name: Attack(name, steps=_STEPS.get(name, 20)) for name in BUILTIN_ATTACKS}
ATTACKS["pgd"] = Attack(step_size=0.1, step_unit="epsilon")
"""By name, with the settings that the name alone stands for. ``registry.register_attack`` adds to them."""


_Item = TypeVar("_Item")
_Pair = Annotated[tuple[_Item, _Item], Field(strict=False)]
_Hue = Annotated[float, Field(ge=0, le=0.5)]


@value
class Augmentation:
    """SimCLR's random views (study, section 5.2). Numbers that the study leaves out follow sthalles/SimCLR."""

    crop_scale: _Pair[Annotated[float, Field(ge=0.01, le=1)]] = (0.08, 1.0)
    """Share of the image's area."""
    crop_ratio: _Pair[Annotated[float, Field(ge=0.1, le=10)]] = (3 / 4, 4 / 3)
    flip_probability: Share = 0.5
    jitter: Annotated[tuple[Share, Share, Share, _Hue], Field(strict=False)] = (0.8, 0.8, 0.8, 0.2)
    """Strength of brightness, contrast, saturation and hue (hue: at most 0.5), in random order."""
    jitter_probability: Share = 0.8
    grayscale_probability: Share = 0.2
    blur_kernel: Share = 0.1
    """Kernel size over image size, rounded down to an odd number of pixels; below 3 pixels nothing is blurred."""
    blur_sigma: _Pair[Positive] = (0.1, 2.0)
    blur_probability: Share = 1.0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise InvalidValue(f"Augmentation.{name}: expected (low, high), got {(low, high)}")


@value
class Pretraining:
    """Adversarial contrastive learning: SimCLR on views that PGD has moved (study, sections 5.2 and 5.4)."""

    epochs: Count = 500
    batch_size: Annotated[Whole, Field(ge=2)] = 256
    """Images a batch; each gives two views. The last, incomplete batch of an epoch is dropped."""
    learning_rate: Positive = 2e-4
    weight_decay: NotNegative = 1e-4
    constant_epochs: Annotated[Whole, Field(ge=0)] = 10
    """Epochs at the full learning rate before its cosine decay to zero starts."""
    temperature: Positive = 0.07
    projection_dim: Count = 128
    projection_batch_norm: bool = False
    normalize: bool = False
    """Whether the encoder first subtracts the source's channel means and divides by its deviations."""
    augmentation: Augmentation = Augmentation()
    attack: Attack = Attack(steps=3, step_size=1.0)
    attack_mode: Literal["eval", "train"] = "eval"
    """Mode of the model, so of its BatchNorm, while its views are attacked."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the model's passes, attacks included; "bfloat16" is torch's autocast. Weights and loss are float32."""
    batch_norm: Literal["synchronised", "per-rank"] = "synchronised"
    """Of several processes that train together: whether BatchNorm's mean and deviation are those of the whole batch, or
    each process's own. One process gives the same either way. "synchronised" needs GPUs."""
    channels_last: bool = False
    """Layout of the convolutions; it changes speed, and numbers by rounding only."""


@value
class Finetuning:
    """A classifier from natural or attacked images (study, section 5.2).

    In the field's terms: linear at epsilon 0 is standard linear finetuning, SLF, above it adversarial, ALF; full above
    epsilon 0 is adversarial full finetuning, AFF.
    """

    epochs: Count = 100
    batch_size: Count = 256
    learning_rate: Positive = 8e-5
    weight_decay: NotNegative = 8e-4
    attack: Attack = Attack(steps=3, step_size=1.0)
    trained: Literal["linear", "full"] = "linear"
    """"linear": a linear layer on the frozen encoder; "full": the encoder too, its BatchNorm in train mode."""


@value
class Evaluation:
    """The test split under attack (study, section 5.4.1)."""

    attack: Attack = Attack(steps=20, step_size=3.0)
    batch_size: Count = 1024
    """Each batch draws its random starts from a stream of its own, so the batch size is part of the result."""
    attacked: Literal["all", "correct"] = "all"
    """Which images are attacked. "correct": those that are right without an attack, which is all that robust accuracy
    needs; the study counts all."""


@value
class Recipe:
    """How the three stages are done. The defaults are the study's."""

    name: str = "ross2022"
    pretraining: Pretraining = Pretraining()
    finetuning: Finetuning = Finetuning()
    evaluation: Evaluation = Evaluation()


def attack_of(text: str, base: Attack) -> Attack:
    """``base`` changed as ``pgd,steps=100,restarts=5`` says; another attack has its own settings, and base's norm.

    A name may be left out: ``steps=100``. Raises InvalidValue or UnknownName.
    """
    name, *rest = text.split(",") if "=" not in text.split(",")[0] else [base.name, *text.split(",")]
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    kinds = {spec.name: type(getattr(base, spec.name)) for spec in fields(base) if spec.name != "name"}
    changes: dict[str, Any] = {}
    for part in rest:
        field, _, value = part.partition("=")
        if field not in kinds:
            raise unknown("attack setting", field, kinds)
        try:
            changes[field] = _read(value, kinds[field])
        except (ValueError, ArithmeticError):
            raise InvalidValue(
                f"attack {field}: expected a value such as {getattr(base, field)}, got {value!r}"
            ) from None
    attack = base if name == base.name else replace(ATTACKS[name], norm=base.norm)
    changed = replace(attack, **changes)
    if (
        (changed.name, changed.step_unit) == ("pgd", "pixel")
        and changed.norm != base.norm
        and "step_size" not in changes
    ):
        raise InvalidValue(f"attack: expected a step_size with norm={changed.norm}, got one for {base.norm} only")
    return changed


def _read(text: str, kind: type) -> Any:
    if kind is bool:
        return bool(("false", "true").index(text.lower()))
    return float(fraction(text)) if kind is float else kind(text)
