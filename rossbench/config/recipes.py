"""How the stages are done: recipes and their parts, with the study's protocol as defaults. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ..attacks.table import ATTACKS as ATTACKS
from ..attacks.table import Attack as Attack
from ..attacks.table import Norm as Norm
from ..util.errors import expect
from ..util.values import Count, Item, Many, NotNegative, Pair, Positive, Share, Whole, checked, value

MODULE = "module:"
"""What the names of encoders begin with that are modules of a caller's own, and in no library."""
SMALL = "conv3"
"""rossbench's own encoder, for digits."""
PADDINGS = {"cifar": 1, "cifar-pad2": 2}
"""Of a CIFAR stem's first convolution, by what stands behind an encoder's colon; solo-learn and DeACL pad by 2."""
_Range = Annotated[Pair[Item], checked(lambda pair: pair[0] <= pair[1], "(low, high)")]
_Hue = Annotated[float, Field(ge=0, le=0.5)]


@value
class Augmentation:
    """SimCLR's random views (study, section 5.2). Numbers that the study leaves out follow sthalles/SimCLR."""

    crop_scale: _Range[Annotated[float, Field(ge=0.01, le=1)]] = (0.08, 1.0)
    """Share of the image's area."""
    crop_ratio: _Range[Annotated[float, Field(ge=0.1, le=10)]] = (3 / 4, 4 / 3)
    flip_probability: Share = 0.5
    jitter: Annotated[tuple[Share, Share, Share, _Hue], Field(strict=False)] = (0.8, 0.8, 0.8, 0.2)
    """Strength of brightness, contrast, saturation and hue (hue: at most 0.5), in random order."""
    jitter_probability: Share = 0.8
    grayscale_probability: Share = 0.2
    blur_kernel: Share = 0.1
    """Kernel size over image size, rounded down to an odd number of pixels; below 3 pixels nothing is blurred."""
    blur_sigma: _Range[Positive] = (0.1, 2.0)
    blur_probability: Share = 1.0


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
    epsilon_warmup: NotNegative = 0.0
    """Epochs, fewer than all, over which the attack's epsilon rises from 0, batch by batch; 0: it is full at once."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Mode of the model, so of its BatchNorm, while its views are attacked."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the model's passes, attacks included; "bfloat16" is torch's autocast. Weights and loss are float32."""
    batch_norm: Literal["synchronised", "per-rank"] = "synchronised"
    """Of several processes that train together: whether BatchNorm's mean and deviation are those of the whole batch, or
    each process's own. One process gives the same either way. "synchronised" needs GPUs."""
    channels_last: bool = False
    """Layout of the convolutions; it changes speed, and numbers by rounding only."""

    def __post_init__(self) -> None:
        fewer = f"fewer than the {self.epochs} epochs, or it never reaches the full epsilon"
        expect(self.epsilon_warmup < self.epochs, "Pretraining.epsilon_warmup", fewer, f"{self.epsilon_warmup:g}")


@value
class Finetuning:
    """A classifier from natural or attacked images (study, section 5.2).

    In the field's terms: linear at epsilon 0 is standard linear finetuning, SLF, above it adversarial, ALF; full above
    epsilon 0 is adversarial full finetuning, AFF. FINETUNINGS has each as the study and as the field do it.
    """

    epochs: Count = 100
    batch_size: Count = 256
    learning_rate: Positive = 8e-5
    weight_decay: NotNegative = 8e-4
    attack: Attack = Attack(steps=3, step_size=1.0)
    trained: Literal["linear", "linear+statistics", "full"] = "linear"
    """"linear": a linear layer on the frozen encoder, which stays in eval mode; "full": the encoder too, in train mode
    but while it is attacked; "linear+statistics": the layer on an encoder whose weights are frozen and whose mode is
    that of "full", so that its BatchNorm normalises by the batch and its statistics drift."""
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: Share = 0.9
    """Of sgd."""
    milestones: Many[Count] = ()
    """Epochs after each of which the learning rate falls to a tenth; without any it is constant."""
    crop_padding: Annotated[Whole, Field(ge=0, le=64)] = 0
    """Pixels of zeros around an image, from which a random crop of the image's size is taken."""
    flip_probability: Share = 0.0
    head_init: Literal["default", "zero"] = "default"
    """Of the linear layer: torch's, from the seed, or zeros."""
    loss: Literal["ce", "trades"] = "ce"
    """Cross-entropy of attacked images; or TRADES (Zhang et al., 2019): cross-entropy of natural images, and by how
    much predictions change under an attack that aims at that. Without an attack both are cross-entropy."""
    trades_beta: NotNegative = 6.0
    """Weight of TRADES' second term."""
    trades_batch_norm: Literal["single", "dual"] = "single"
    """Through which BatchNorm TRADES sends natural images: "single": that of attacked ones; "dual": the clean one of an
    encoder that has two, as ACL's. The classifier is attacked and tested without the clean one."""


@value
class Evaluation:
    """The test split under attack (study, section 5.4.1)."""

    attack: Attack = Attack(steps=20, step_size=3.0)
    batch_size: Count = 1024
    """Each batch draws its random starts from a stream of its own, so the batch size is part of the result."""
    attacked: Literal["all", "correct"] = "all"
    """Which images are attacked. "correct": those that are right without an attack, which is all that robust accuracy
    needs; the study counts all."""
    attack_version: Count = 1
    """Of the attack's code: a record tells that of then, and a Scenario takes that of now."""


@value
class Recipe:
    """How the three stages are done. The defaults are the study's."""

    name: str = "ross2022"
    pretraining: Pretraining = Pretraining()
    finetuning: Finetuning = Finetuning()
    evaluation: Evaluation = Evaluation()


# The common settings of RobustSSL.github.io's benchmark of robust encoders; docs/protocol.md has their sources.
FIELD_LINEAR = Finetuning(
    epochs=25,
    batch_size=512,
    learning_rate=0.01,
    weight_decay=2e-4,
    attack=Attack(norm="Linf", steps=10, step_size=0.25, step_unit="epsilon"),
    optimizer="sgd",
    milestones=(10, 20),
    crop_padding=4,
    flip_probability=0.5,
    head_init="zero",
)
FIELD_FULL = replace(
    FIELD_LINEAR, trained="full", batch_size=128, learning_rate=0.1, milestones=(15, 20), loss="trades"
)
# DeACL's own, of its adv_finetune.py and README.
DEACL_LINEAR = replace(
    FIELD_LINEAR, trained="linear+statistics", learning_rate=0.1, milestones=(15, 20), head_init="default"
)
DEACL_ADVERSARIAL = replace(DEACL_LINEAR, learning_rate=0.01, loss="trades")
DEACL_FULL = replace(DEACL_ADVERSARIAL, trained="full")
_THREAT = 8 / 255
_FIELD_TEST = {
    "recipe.evaluation.attack": replace(FIELD_LINEAR.attack, steps=20),
    "eval_epsilons": (0, _THREAT),
}
FINETUNINGS: dict[str, dict[str, Any]] = {
    "SLF": {"recipe.finetuning.trained": "linear", "finetune_epsilons": (0,)},
    "ALF": {"recipe.finetuning.trained": "linear", "finetune_epsilons": None},
    "AFF": {"recipe.finetuning.trained": "full", "finetune_epsilons": None},
    "field-slf": {"recipe.finetuning": FIELD_LINEAR, "finetune_epsilons": (0,), **_FIELD_TEST},
    "field-alf": {"recipe.finetuning": FIELD_LINEAR, "finetune_epsilons": (_THREAT,), **_FIELD_TEST},
    "field-aff": {"recipe.finetuning": FIELD_FULL, "finetune_epsilons": (_THREAT,), **_FIELD_TEST},
    "deacl-slf": {"recipe.finetuning": DEACL_LINEAR, "finetune_epsilons": (0,), **_FIELD_TEST},
    "deacl-alf": {"recipe.finetuning": DEACL_ADVERSARIAL, "finetune_epsilons": (_THREAT,), **_FIELD_TEST},
    "deacl-aff": {"recipe.finetuning": DEACL_FULL, "finetune_epsilons": (_THREAT,), **_FIELD_TEST},
}
"""Standard linear, adversarial linear and adversarial full finetuning: fields of a scenario, by their paths from it.

The first three leave a scenario its recipe and threat; the others bring theirs, in the test too. From Python:
``values.with_fields(scenario, FINETUNINGS["field-aff"])``.
"""
