"""What is to be run: scenarios, recipes, and the nested specs that name artifacts. Plain values, no torch.

Every class here is a frozen dataclass that checks its fields when it is made and turns whole numbers into
floats and lists into tuples where its annotations say so, so that equal values have equal keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, ClassVar, TypeVar, get_type_hints

from . import datasets
from .errors import InvalidValue, unknown

NORMS = ("L2", "Linf")
ATTACKS = ("pgd",)


def _within(default: Any, low: float, high: float = math.inf) -> Any:
    """A dataclass field whose numbers lie in [low, high]."""
    return field(default=default, metadata={"range": (low, high)})


def _one_of(default: str, *values: str) -> Any:
    """A dataclass field that is one of ``values``."""
    return field(default=default, metadata={"values": values})


_POSITIVE = 1e-12  # the least learning rate, temperature or sigma: a bound that leaves zero out


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


class Value:
    """Base of the dataclasses below: checks and normalises the fields of a new instance."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # mypy takes a class's hash for its instances'
        for spec in fields(self):  # type: ignore[arg-type]
            name = f"{type(self).__name__}.{spec.name}"
            value = _checked(name, getattr(self, spec.name), hints[spec.name], spec.metadata)
            object.__setattr__(self, spec.name, value)


def _checked(name: str, value: Any, hint: Any, metadata: Any) -> Any:
    low, high = metadata.get("range", (-math.inf, math.inf))
    bounds = f" in [{low:g}, {high:g}]" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
    if str(hint).startswith("tuple"):
        if not isinstance(value, (tuple, list)):
            raise InvalidValue(f"{name}: expected a list of numbers, got {value!r}")
        length = str(hint).count("float")
        if "..." not in str(hint) and len(value) != length:
            raise InvalidValue(f"{name}: expected {length} numbers, got {value!r}")
        return tuple(_checked(name, item, float, metadata) for item in value)
    if hint == int | None:
        return None if value is None else _checked(name, value, int, metadata)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is int and not (whole and low <= value <= high):
        raise InvalidValue(f"{name}: expected a whole number{bounds}, got {value!r}")
    if hint is float:
        if not (whole or isinstance(value, float)) or not math.isfinite(value) or not low <= value <= high:
            raise InvalidValue(f"{name}: expected a finite number{bounds}, got {value!r}")
        return float(value)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise InvalidValue(f"{name}: expected {hint.__name__}, got {value!r}")
    if value not in metadata.get("values", (value,)):
        raise unknown(name, value, metadata["values"])
    return value


# --- recipes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack(Value):
    """A gradient attack on images in [0, 1]; its epsilon is an argument of the call."""

    name: str = _one_of("pgd", *ATTACKS)
    norm: str = _one_of("L2", *NORMS)
    steps: int = _within(20, 1)
    step_size: float = _within(3.0, _POSITIVE)
    """Length of a step in the attack's norm, in [0, 1] pixel space; not relative to epsilon."""
    random_start: bool = True


@dataclass(frozen=True)
class Augmentation(Value):
    """SimCLR's random views (study, section 5.2). Numbers that the study leaves out follow sthalles/SimCLR."""

    crop_scale: tuple[float, float] = _within((0.08, 1.0), 0.01, 1)
    """Share of the image's area."""
    crop_ratio: tuple[float, float] = _within((3 / 4, 4 / 3), 0.1, 10)
    flip_probability: float = _within(0.5, 0, 1)
    jitter: tuple[float, float, float, float] = _within((0.8, 0.8, 0.8, 0.2), 0, 1)
    """Strength of brightness, contrast, saturation and hue (hue: at most 0.5), in random order."""
    jitter_probability: float = _within(0.8, 0, 1)
    grayscale_probability: float = _within(0.2, 0, 1)
    blur_kernel: float = _within(0.1, 0, 1)
    """Kernel size over image size, rounded down to an odd number of pixels; below 3 pixels nothing is blurred."""
    blur_sigma: tuple[float, float] = _within((0.1, 2.0), _POSITIVE)
    blur_probability: float = _within(1.0, 0, 1)

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

    epochs: int = _within(500, 1)
    batch_size: int = _within(256, 2)
    """Images a batch; each gives two views. The last, incomplete batch of an epoch is dropped."""
    learning_rate: float = _within(2e-4, _POSITIVE)
    weight_decay: float = _within(1e-4, 0)
    constant_epochs: int = _within(10, 0)
    """Epochs at the full learning rate before its cosine decay to zero starts."""
    temperature: float = _within(0.07, _POSITIVE)
    projection_dim: int = _within(128, 1)
    projection_batch_norm: bool = False
    normalize: bool = False
    """Whether the encoder first subtracts the source's channel means and divides by its deviations."""
    augmentation: Augmentation = Augmentation()
    attack: Attack = Attack(steps=3, step_size=1.0)
    attack_mode: str = _one_of("eval", "eval", "train")
    """Mode of the model, so of its BatchNorm, while its views are attacked."""


@dataclass(frozen=True)
class Finetuning(Value):
    """A linear classifier on the frozen encoder, from natural or attacked images (study, section 5.2)."""

    epochs: int = _within(100, 1)
    batch_size: int = _within(256, 1)
    learning_rate: float = _within(8e-5, _POSITIVE)
    weight_decay: float = _within(8e-4, 0)
    attack: Attack = Attack(steps=3, step_size=1.0)


@dataclass(frozen=True)
class Evaluation(Value):
    """The test split under attack (study, section 5.4.1)."""

    attack: Attack = Attack(steps=20, step_size=3.0)
    batch_size: int = _within(1024, 1)
    """Each batch draws its random starts from a stream of its own, so the batch size is part of the result."""


@dataclass(frozen=True)
class Recipe(Value):
    """How the three stages are done. The defaults are the study's."""

    name: str = "ross2022"
    pretraining: Pretraining = Pretraining()
    finetuning: Finetuning = Finetuning()
    evaluation: Evaluation = Evaluation()


# --- specs: each names one artifact ------------------------------------------------------------------------


class Spec(Value):
    """Base of the three specs. Nothing that cannot change a result is in a spec."""

    stage: ClassVar[str]
    epsilon: float

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the spec's canonical JSON; the artifact's name."""
        text = json.dumps({self.stage: asdict(self)}, sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PretrainSpec(Spec):
    """One encoder. ``limit`` is the number of training images, None for all."""

    stage: ClassVar[str] = "pretrain"
    parent: ClassVar[None] = None
    source: str
    limit: int | None
    encoder: str
    epsilon: float = _within(0.0, 0)
    recipe: Pretraining = Pretraining()
    seed: int = _within(0, 0, 2**62)

    @property
    def images(self) -> int:
        """Images an epoch, without those of a dropped last batch."""
        total = datasets.count(self.source, "train", self.limit)
        size = min(self.recipe.batch_size, total)
        return total // size * size

    @property
    def passes(self) -> int:
        """See Scenario.passes."""
        step = 3 + (2 * self.recipe.attack.steps if self.epsilon else 0)
        return 2 * self.images * self.recipe.epochs * step

    def __str__(self) -> str:
        return f"pretrain {self.source} {EPS}={format_epsilon(self.epsilon)}"


@dataclass(frozen=True)
class FinetuneSpec(Spec):
    """One linear classifier on one encoder."""

    stage: ClassVar[str] = "finetune"
    pretrain: PretrainSpec
    target: str
    limit: int | None
    epsilon: float = _within(0.0, 0)
    recipe: Finetuning = Finetuning()

    @property
    def parent(self) -> PretrainSpec:
        return self.pretrain

    @property
    def seed(self) -> int:
        return self.pretrain.seed

    @property
    def passes(self) -> int:
        """See Scenario.passes. Without an attack the frozen encoder sees each image once."""
        images = datasets.count(self.target, "train", self.limit)
        return images * self.recipe.epochs * (1 + 2 * self.recipe.attack.steps) if self.epsilon else images

    def __str__(self) -> str:
        return f"finetune {self.target} {EPS}={format_epsilon(self.epsilon)}"


@dataclass(frozen=True)
class EvaluateSpec(Spec):
    """One classifier on one test split under one attack: a cell of a matrix."""

    stage: ClassVar[str] = "evaluate"
    finetune: FinetuneSpec
    limit: int | None
    epsilon: float = _within(0.0, 0)
    recipe: Evaluation = Evaluation()

    @property
    def parent(self) -> FinetuneSpec:
        return self.finetune

    @property
    def seed(self) -> int:
        return self.finetune.seed

    @property
    def passes(self) -> int:
        """See Scenario.passes."""
        images = datasets.count(self.finetune.target, "test", self.limit)
        return images * (1 + (2 * self.recipe.attack.steps if self.epsilon else 0))

    def __str__(self) -> str:
        return f"evaluate {self.finetune.target} {EPS}={format_epsilon(self.epsilon)}"


AnySpec = PretrainSpec | FinetuneSpec | EvaluateSpec


# --- scenarios ---------------------------------------------------------------------------------------------

_GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Scenario(Value):
    """RoSS(source -> target): a row for each pretraining epsilon, a column for each evaluation epsilon.

    Raises InvalidValue or UnknownName when a field is out of its range, the grids are not ascending, or the
    target's images do not fit an encoder of the source.
    """

    name: str
    source: str
    target: str
    recipe: Recipe = Recipe()
    encoder: str = "resnet18"
    """A name of ``rossbench.encoders``: any timm model, with ``:cifar`` appended for ResNets with a CIFAR stem."""
    train_epsilons: tuple[float, ...] = _within(_GRID, 0)
    """Of pretraining; finetuning attacks with the same epsilon."""
    eval_epsilons: tuple[float, ...] = _within(_GRID, 0)
    seed: int = _within(0, 0, 2**62)
    train_limit: int | None = _within(None, 1)
    """Class-balanced part of both training splits; None for all."""
    test_limit: int | None = _within(None, 1)
    description: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _NAME.fullmatch(self.name):
            raise InvalidValue(f"Scenario.name: expected lower-case letters, digits, . _ or -, got {self.name!r}")
        for name in ("train_epsilons", "eval_epsilons"):
            grid = getattr(self, name)
            if not grid or any(a >= b for a, b in pairwise(grid)):
                raise InvalidValue(f"Scenario.{name}: expected ascending epsilons, at least one, got {grid}")
        source, target = datasets.facts(self.source), datasets.facts(self.target)
        if source.size != target.size:
            raise InvalidValue(
                f"Scenario.target: expected images of {self.source}'s size, {source.size} pixels, "
                f"got {self.target}'s, {target.size}"
            )
        counts = [datasets.count(dataset, "train", self.train_limit) for dataset in (self.source, self.target)]
        if counts == [source.train, target.train]:
            object.__setattr__(self, "train_limit", None)  # a limit that leaves nothing out is none
        if datasets.count(self.target, "test", self.test_limit) == target.test:
            object.__setattr__(self, "test_limit", None)

    @cached_property
    def cells(self) -> dict[tuple[float, float], EvaluateSpec]:
        """The matrix: (pretraining epsilon, evaluation epsilon) -> spec."""
        cells = {}
        for row in self.train_epsilons:
            pretraining = _unattacked(self.recipe.pretraining, row)
            pretrain = PretrainSpec(self.source, self.train_limit, self.encoder, row, pretraining, self.seed)
            finetuning = _unattacked(self.recipe.finetuning, row)
            finetune = FinetuneSpec(pretrain, self.target, self.train_limit, row, finetuning)
            for column in self.eval_epsilons:
                evaluation = _unattacked(self.recipe.evaluation, column)
                cells[row, column] = EvaluateSpec(finetune, self.test_limit, column, evaluation)
        return cells

    def specs(self) -> Iterator[AnySpec]:
        """Every artifact of the matrix once, each after those that it is made from."""
        seen: set[str] = set()
        for cell in self.cells.values():
            for spec in (cell.finetune.pretrain, cell.finetune, cell):
                if spec.key not in seen:
                    seen.add(spec.key)
                    yield spec

    def passes(self) -> dict[str, int]:
        """Work by stage, in passes of one image through the encoder.

        A forward pass counts 1, a backward pass to the input 1, and one to input and weights 2: a training
        step is 3 passes an image, an attack step 2.
        """
        work = {cls.stage: 0 for cls in (PretrainSpec, FinetuneSpec, EvaluateSpec)}
        for spec in self.specs():
            work[spec.stage] += spec.passes
        return work

    @cached_property
    def protocol(self) -> str:
        """A short hash of everything but the name and the two grids: matrices that agree in it can be merged."""
        flat = flatten(self)
        text = json.dumps({name: flat[name] for name in flat if name not in _NOT_PROTOCOL}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def deviations(self, registered: Scenario) -> dict[str, tuple[Any, Any]]:
        """Fields in which this scenario differs from the registered one: name -> (here, registered).

        The seed and the grids are left out: they choose cells, and change none.
        """
        ours, theirs = flatten(self), flatten(registered)
        return {
            name: (ours[name], theirs[name])
            for name in ours
            if name not in _NOT_PROTOCOL and name != "seed" and ours[name] != theirs[name]
        }


Part = TypeVar("Part", Pretraining, Finetuning, Evaluation)


def _unattacked(part: Part, epsilon: float) -> Part:
    """At epsilon 0 the settings of the attack change nothing, so they are set to the defaults: one key for all."""
    if epsilon > 0:
        return part
    settings = [spec.name for spec in fields(part) if spec.name.startswith("attack")]
    return replace(part, **{name: getattr(type(part)(), name) for name in settings})


_NOT_PROTOCOL = ("name", "description", "recipe.name", "train_epsilons", "eval_epsilons")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value as one dictionary, such as {"recipe.pretraining.epochs": 500}."""
    flat: dict[str, Any] = {}
    for spec in fields(value):
        item = getattr(value, spec.name)
        if is_dataclass(item):
            flat.update(flatten(item, f"{prefix}{spec.name}."))
        else:
            flat[prefix + spec.name] = item
    return flat


# --- epsilons as people write them -------------------------------------------------------------------------

EPS = "ε"


def parse_epsilons(text: str) -> tuple[float, ...]:
    """Epsilons from ``0,0.5,8/255`` or ``start:stop:step`` (stop included), or both, joined by commas.

    Computed in fractions: ``0:1:0.2`` gives 0.6, not 0.6000000000000001. Raises InvalidValue.
    """
    found: list[Fraction] = []
    for part in text.split(","):
        numbers = [_fraction(piece, text) for piece in part.split(":")]
        if len(numbers) == 1:
            found += numbers
        elif len(numbers) == 3 and numbers[2] > 0 and numbers[0] <= numbers[1]:
            start, stop, step = numbers
            steps = (stop - start) // step
            if steps > 1000:
                raise InvalidValue(f"epsilons {text!r}: expected at most 1000 steps, got {steps}")
            found += [start + i * step for i in range(steps + 1)]
        else:
            raise InvalidValue(f"epsilons {text!r}: expected numbers or start:stop:step, got {part!r}")
    if any(a >= b for a, b in pairwise(found)):
        raise InvalidValue(f"epsilons {text!r}: expected ascending numbers, got {', '.join(map(str, found))}")
    return tuple(float(number) for number in found)


def _fraction(text: str, whole: str) -> Fraction:
    try:
        number = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise InvalidValue(f"epsilons {whole!r}: expected numbers such as 0.5 or 8/255, got {text!r}") from None
    if number < 0 or number > 1000:
        raise InvalidValue(f"epsilons {whole!r}: expected numbers in [0, 1000], got {text.strip()}")
    return number


def format_epsilon(epsilon: float) -> str:
    """``0.2``, ``1``, or ``8/255`` where the decimal is long and the fraction is not."""
    short = f"{epsilon:.4g}"
    levels = round(epsilon * 255)
    if float(short) != epsilon and abs(levels / 255 - epsilon) < 1e-9:
        return f"{levels}/255"
    return short
