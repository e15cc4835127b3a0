"""The nested specs: each names one artifact by a hash of all that can change it, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar, cast

from ..data import datasets
from ..util.epsilons import EPS, format_epsilon, format_model
from ..util.errors import one_line
from ..util.values import Epsilons, NotNegative, Pixels, Seed, distinct, value
from .kinds import Kind
from .recipes import Evaluation, Finetuning, Pretraining

COLLAPSED = 0.005
"""See PretrainSpec.is_collapsed: at ln 127 = 4.844, temperature 0.07, a loss of 4.820 to 4.868."""

ATTACKED = ("attack", "loss", "trades", "epsilon_warmup")
"""What the fields of a recipe begin with that mean nothing where nothing is attacked."""


class Spec:
    """Base of the specs. Nothing that cannot change a result tells two of them apart: they are equal if their keys are.

    At epsilon 0 nothing is attacked, so the recipe's attack is in the spec and not in its key.
    """

    stage: ClassVar[str]

    @property
    def parents(self) -> tuple[AnySpec, ...]:
        """All that it is made from, in the order of their making; first the pretraining."""
        return ()

    @property
    def chain(self) -> tuple[AnySpec, ...]:
        """Its parents and itself."""
        return *self.parents, cast("AnySpec", self)

    @property
    def seed(self) -> int:
        return self.parents[0].seed

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that can change the result, where it is not the default."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        specs = {name: part.identity for name, part in parts.items() if isinstance(part, Spec)}
        found = {**distinct(self), **specs}
        if "recipe" in found and not parts.get("epsilon", True):
            found["recipe"] = {k: item for k, item in found["recipe"].items() if not k.startswith(ATTACKED)}
        return {name: item for name, item in found.items() if item != {}}

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the identity's canonical JSON; the artifact's name."""
        text = json.dumps({self.stage: self.identity}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@value
class PretrainSpec(Spec):
    """One encoder. ``limit`` is the number of training images, None for all."""

    stage: ClassVar[str] = "pretrain"
    source: str
    limit: int | None
    encoder: str
    epsilon: NotNegative = 0.0
    recipe: Pretraining = Pretraining()
    seed: Seed = 0
    weights: str = ""
    """Of an encoder that was trained elsewhere: a hash of them, see Scenario.weights; then nothing is pretrained."""
    size: Pixels | None = None
    """Of the images, which are resized to it; None: the source's own. A target's are resized to that of its encoder."""

    @property
    def pixels(self) -> int:
        """Height and width of the encoder's images."""
        return self.size or datasets.facts(self.source).size

    @property
    def images(self) -> int:
        """Images an epoch, without those of a dropped last batch."""
        return datasets.count(self.source, "train", self.limit) // self._batch * self._batch

    @property
    def constant_loss(self) -> float:
        """NT-Xent of features that are the same for every image: ln(2n - 1), n images a batch."""
        return math.log(2 * self._batch - 1)

    def is_collapsed(self, loss: float) -> bool:
        """Whether an epoch's mean loss is that of constant features, from which nothing was learned.

        So it is within COLLAPSED of the way from there to the loss of cosine 1 between partners and 0 between others,
        which the temperature decides. In nats, that is all of the views' mutual information that the loss vouches for
        (InfoNCE's bound: van den Oord et al., 2018, section 2.3).
        """
        others = 2 * self._batch - 2
        way = self.constant_loss - math.log1p(others * math.exp(-1 / self.recipe.temperature))
        return abs(loss - self.constant_loss) < COLLAPSED * way

    @property
    def collapse_remedies(self) -> str:
        warmup = "pretraining.epsilon_warmup, " if self.epsilon else ""
        return f"{warmup}milder augmentation, more epochs or a smaller batch"

    @property
    def _batch(self) -> int:
        return min(self.recipe.batch_size, datasets.count(self.source, "train", self.limit))

    @property
    def passes(self) -> int:
        if self.weights:
            return 0
        step = 3 + (2 * self.recipe.attack.steps if self.epsilon else 0)
        return 2 * self.images * self.recipe.epochs * step

    def __str__(self) -> str:
        if self.weights:
            return one_line(f"encoder {self.encoder}, weights {self.weights[:8]}")
        return f"pretrain {self.source} {EPS}={format_epsilon(self.epsilon)}"


@value
class FinetuneSpec(Spec):
    """One classifier on one encoder."""

    stage: ClassVar[str] = "finetune"
    pretrain: PretrainSpec
    target: str
    limit: int | None
    epsilon: NotNegative = 0.0
    recipe: Finetuning = Finetuning()

    @property
    def parents(self) -> tuple[AnySpec, ...]:
        return (self.pretrain,)

    @property
    def model(self) -> str:
        """As a title: source, target and the epsilons of training."""
        epsilons = format_model(self.pretrain.epsilon, self.epsilon)
        return f"{self.pretrain.source} → {self.target} {EPS}={epsilons}"

    @property
    def encodes_once(self) -> bool:
        """Whether an image has the same features in every epoch: from a frozen encoder, neither attacked nor moved."""
        recipe = self.recipe
        return recipe.trained == "linear" and not (self.epsilon or recipe.crop_padding or recipe.flip_probability)

    @property
    def passes(self) -> int:
        """TRADES looks at natural images once for its attack and once for its loss."""
        images, recipe = datasets.count(self.target, "train", self.limit), self.recipe
        if self.encodes_once:
            return images
        step = 3 if recipe.trained == "full" else 1
        if self.epsilon:
            step += 2 * recipe.attack.steps + (1 + step if recipe.loss == "trades" else 0)
        return images * recipe.epochs * step

    def __str__(self) -> str:
        return f"finetune {self.model}"


@value
class _TestSpec(Spec):
    """One classifier on ``limit`` images of the test split, None for all."""

    finetune: FinetuneSpec
    limit: int | None


@value
class EvaluateSpec(_TestSpec):
    """One classifier on one test split under one attack: a cell of a matrix."""

    stage: ClassVar[str] = "evaluate"
    epsilon: NotNegative = 0.0
    recipe: Evaluation = Evaluation()

    @property
    def parents(self) -> tuple[AnySpec, ...]:
        return self.finetune.chain

    @property
    def passes(self) -> int:
        images = datasets.count(self.finetune.target, "test", self.limit)
        return images * (1 + (self.recipe.attack.passes if self.epsilon else 0))

    def __str__(self) -> str:
        return f"evaluate {self.finetune.model} at {format_epsilon(self.epsilon)}"


@value
class MeasureSpec(Spec):
    """One model by one evaluation kind, in all of its columns: an encoder alone, or with a classifier on it."""

    stage: ClassVar[str] = "measure"
    pretrain: PretrainSpec
    target: str
    limit: int | None
    """Of the test images, None for all."""
    kind: Kind
    columns: Epsilons
    train_limit: int | None = None
    """Of the training images, for kinds that need them."""
    head: FinetuneSpec | None = None
    """For kinds that need one."""

    @property
    def parents(self) -> tuple[AnySpec, ...]:
        return self.head.chain if self.head else (self.pretrain,)

    @property
    def passes(self) -> int:
        return datasets.count(self.target, "test", self.limit) * self.kind.row.passes(self.kind, len(self.columns))

    def __str__(self) -> str:
        epsilons = format_model(self.pretrain.epsilon, self.head.epsilon if self.head else self.pretrain.epsilon)
        return f"measure {self.kind.name} of {self.pretrain.source} → {self.target} {EPS}={epsilons}"


@value
class AuditSpec(_TestSpec):
    """The audit of a classifier's evaluations, which differ in their epsilon alone."""

    stage: ClassVar[str] = "audit"
    epsilons: Epsilons
    recipe: Evaluation = Evaluation()
    """Of those under attack."""
    other: FinetuneSpec | None = None
    """A classifier for the same images, whose adversarial images are tried on this one."""
    minimal: MeasureSpec | None = None
    """The smallest perturbations of the images, where they were measured in the same norm."""

    @property
    def parents(self) -> tuple[AnySpec, ...]:
        others = [*(self.other.chain if self.other else ()), *([self.minimal] if self.minimal else [])]
        return *self.finetune.chain, *self.cells, *others

    @property
    def cells(self) -> tuple[EvaluateSpec, ...]:
        """The evaluations, one an epsilon."""
        return tuple(EvaluateSpec(self.finetune, self.limit, epsilon, self.recipe) for epsilon in self.epsilons)

    @property
    def passes(self) -> int:
        """About what the checks need for each of 200 images."""
        return 200 * 500

    def __str__(self) -> str:
        return f"audit {self.finetune.model}"


AnySpec = PretrainSpec | FinetuneSpec | EvaluateSpec | AuditSpec | MeasureSpec


def passes(specs: Iterable[AnySpec]) -> dict[str, int]:
    """Work by stage, in passes of one image through the encoder.

    A forward pass counts 1, a backward pass to the input 1, and one to input and weights 2: a training
    step is 3 passes an image, an attack step 2.
    """
    work = {cls.stage: 0 for cls in (PretrainSpec, FinetuneSpec, EvaluateSpec)}
    for spec in specs:
        work[spec.stage] += spec.passes
    return work
