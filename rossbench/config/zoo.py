"""Encoders that others have published: what their files are like, how they are finetuned, and the published numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from ..data import datasets
from ..util.errors import expect
from ..util.values import Many, checked, matches, value, with_fields
from .recipes import FINETUNINGS
from .scenarios import Architecture, Scenario

UNKNOWN = "unknown"
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
NORMALIZATIONS: dict[str, Normalization] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Means and deviations of the channels, of images in [0, 1]."""
_NORMALIZED = f"{', '.join(NORMALIZATIONS)} or R,G,B/R,G,B"
Preset = Literal["field-slf", "field-alf", "field-aff", "deacl-slf", "deacl-alf", "deacl-aff"]
PRESETS = get_args(Preset)
_Percent = Annotated[float, Field(ge=0, le=100)]


def normalization_of(text: str) -> Normalization:
    """Mean and std of a name of NORMALIZATIONS, or of R,G,B/R,G,B. Raises ValueError."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(text)
    return mean, std


@value
class PublishedNumbers:
    """What was published of one encoder, finetuned in one way on one data set, in percent; L-infinity, 8/255."""

    target: str
    finetuning: Preset
    source: str
    """Who published it, and where."""
    clean: _Percent | None = None
    pgd20: _Percent | None = None
    """Under 20 steps of 2/255 from a random start, of all test images."""
    autoattack: _Percent | None = None
    doubtful: str = ""
    """Why the numbers should not be trusted; empty where nothing is known against them."""
    unlike: str = ""
    """What was done that the preset cannot do, so that the numbers are shown and not compared."""
    remark: str = ""
    """A smaller difference from the preset, said wherever the numbers are compared."""


@value
class KnownEncoder:
    """An encoder with a name: ``run --zoo NAME --encoder-weights FILE`` reads and finetunes it as its authors do.

    Raises InvalidValue or UnknownName when a field is out of its range.
    """

    name: Annotated[str, matches(r"[a-z0-9][a-z0-9.+_-]{0,63}", "lower-case letters, digits, . + _ or -")]
    paper: str
    source: str
    """Data set of the pretraining."""
    encoder: Architecture
    """As ``Scenario.encoder``."""
    dialect: str = UNKNOWN
    """The layout of its file, in words."""
    normalization: Annotated[str, checked(lambda text: not text or normalization_of(text), _NORMALIZED)] = ""
    """As --encoder-normalization takes it; empty: as the file says, or none."""
    bn: Literal["clean", "adversarial"] | None = None
    """As --encoder-bn; None: adversarial, where there are several."""
    prefix: str | None = None
    """As --encoder-prefix."""
    file: str = UNKNOWN
    offered: str = UNKNOWN
    """Where its authors offer it."""
    sha256: Annotated[str, matches("([0-9a-f]{64})?", "64 hex digits")] = ""
    """Of the file, 64 hex digits; empty where it is not known."""
    preset: Preset = "field-slf"
    """The finetuning unless another is asked for."""
    own: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Its own settings in a preset: fields of ``Finetuning`` and their values, by "PRESET" or "TARGET PRESET"."""
    published: Many[PublishedNumbers] = ()
    remark: str = ""

    def __post_init__(self) -> None:
        for one in (self.source, *(numbers.target for numbers in self.published)):
            datasets.facts(one)
        for place, fields in self.own.items():
            target, _, preset = place.rpartition(" ")
            is_place = preset in PRESETS and (not target or target in datasets.DATASETS)
            expected = f'"PRESET" or "TARGET PRESET", a preset of {", ".join(PRESETS)}'
            expect(is_place, "KnownEncoder.own", expected, f"{place!r:.100}")
            with_fields(FINETUNINGS[preset]["recipe.finetuning"], fields)

    def finetuned(self, scenario: Scenario, finetuning: str) -> Scenario:
        """A scenario of its source with its architecture and a finetuning of FINETUNINGS, by its own settings."""
        got = f"{scenario.name}, from {scenario.source}"
        expect(scenario.source == self.source, f"encoder {self.name}", f"a scenario from {self.source}", got)
        own = {**self.own.get(finetuning, {}), **self.own.get(f"{scenario.target} {finetuning}", {})}
        fields = {f"recipe.finetuning.{name}": item for name, item in own.items()}
        return with_fields(scenario, {"encoder": self.encoder, **FINETUNINGS[finetuning], **fields})
