"""How the stages are done: recipes and their parts, with the study's protocol as defaults. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

from ..attacks.table import ATTACKS as ATTACKS
from ..attacks.table import Attack as Attack
from ..util.errors import InvalidValue
from ..util.values import POSITIVE, Value, added, one_of, within

MODULE = "module:"
"""What the names of encoders begin with that are modules of a caller's own, and in no library."""


@dataclass(frozen=True)
class Augmentation(Value):
    """SimCLR's random views (study, section 5.2). Numbers that the study leaves out follow sthalles/SimCLR."""

    crop_scale: tuple[float, float] = within((0.08, 1.0), 0.01, 1)
    """Share of the image's area."""
    crop_ratio: tuple[float, float] = within((3 / 4, 4 / 3), 0.1, 10)
    flip_probability: float = within(0.5, 0, 1)
    jitter: tuple[float, float, float, float] = within((0.8, 0.8, 0.8, 0.2), 0, 1)
    """Strength of brightness, contrast, saturation and hue (hue: at most 0.5), in random order."""
    jitter_probability: float = within(0.8, 0, 1)
    grayscale_probability: float = within(0.2, 0, 1)
    blur_kernel: float = within(0.1, 0, 1)
    """Kernel size over image size, rounded down to an odd number of pixels; below 3 pixels nothing is blurred."""
    blur_sigma: tuple[float, float] = within((0.1, 2.0), POSITIVE)
    blur_probability: float = within(1.0, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise InvalidValue(f"Augmentation.{name}: expected (low, high), got {(low, high)}")
        if self.jitter[3] > 0.5:
            raise InvalidValue(f"Augmentation.jitter: expected a hue of at most 0.5, got {self.jitter[3]}")


@dataclass(frozen=True)
class Pretraining(Value):
    """Adversarial contrastive learning: SimCLR on views that PGD has moved (study, sections 5.2 and 5.4)."""

    epochs: int = within(500, 1)
    batch_size: int = within(256, 2)
    """Images a batch; each gives two views. The last, incomplete batch of an epoch is dropped."""
    learning_rate: float = within(2e-4, POSITIVE)
    weight_decay: float = within(1e-4, 0)
    constant_epochs: int = within(10, 0)
    """Epochs at the full learning rate before its cosine decay to zero starts."""
    temperature: float = within(0.07, POSITIVE)
    projection_dim: int = within(128, 1)
    projection_batch_norm: bool = False
    normalize: bool = False
    """Whether the encoder first subtracts the source's channel means and divides by its deviations."""
    augmentation: Augmentation = Augmentation()
    attack: Attack = Attack(steps=3, step_size=1.0)
    attack_mode: str = one_of("eval", "eval", "train")
    """Mode of the model, so of its BatchNorm, while its views are attacked."""
    precision: str = one_of("float32", "float32", "bfloat16", added=True)
    """Of the model's passes, attacks included; "bfloat16" is torch's autocast. Weights and loss are float32."""
    batch_norm: str = one_of("synchronised", "synchronised", "per-rank", added=True)
    """Of several processes that train together: whether BatchNorm's mean and deviation are those of the whole batch, or
    each process's own. One process gives the same either way."""
    channels_last: bool = added(False)
    """Layout of the convolutions; it changes speed, and numbers by rounding only."""


@dataclass(frozen=True)
class Finetuning(Value):
    """A classifier from natural or attacked images (study, section 5.2).

    In the field's terms: linear at epsilon 0 is standard linear finetuning, SLF, above it adversarial, ALF; full above
    epsilon 0 is adversarial full finetuning, AFF.
    """

    epochs: int = within(100, 1)
    batch_size: int = within(256, 1)
    learning_rate: float = within(8e-5, POSITIVE)
    weight_decay: float = within(8e-4, 0)
    attack: Attack = Attack(steps=3, step_size=1.0)
    trained: str = one_of("linear", "linear", "full", added=True)
    """"linear": a linear layer on the frozen encoder; "full": the encoder too, its BatchNorm in train mode."""


@dataclass(frozen=True)
class Evaluation(Value):
    """The test split under attack (study, section 5.4.1)."""

    attack: Attack = Attack(steps=20, step_size=3.0)
    batch_size: int = within(1024, 1)
    """Each batch draws its random starts from a stream of its own, so the batch size is part of the result."""
    attacked: str = one_of("all", "all", "correct", added=True)
    """Which images are attacked. "correct": those that are right without an attack, which is all that robust accuracy
    needs; the study counts all."""


@dataclass(frozen=True)
class Recipe(Value):
    """How the three stages are done. The defaults are the study's."""

    name: str = "ross2022"
    pretraining: Pretraining = Pretraining()
    finetuning: Finetuning = Finetuning()
    evaluation: Evaluation = Evaluation()


Part = TypeVar("Part", Pretraining, Finetuning, Evaluation)


def unattacked(part: Part, epsilon: float) -> Part:
    """At epsilon 0 the settings of the attack change nothing, so they are set to the defaults: one key for all."""
    if epsilon > 0:
        return part
    settings = [spec.name for spec in fields(part) if spec.name.startswith("attack")]
    return replace(part, **{name: getattr(type(part)(), name) for name in settings})
