"""Scenarios: source, target, recipe and grids of epsilon, which enumerate the specs of a matrix; suites of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any

from ..attacks.table import Attack, kind
from ..data import datasets
from ..util.epsilons import is_number
from ..util.errors import expect
from ..util.values import Count, Epsilons, Many, Pixels, Seed, checked, distinct, flatten, matches, value, with_fields
from .kinds import ATTACK, kind_of
from .recipes import Recipe
from .specs import AnySpec, EvaluateSpec, FinetuneSpec, MeasureSpec, PretrainSpec

_STUDYS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_Grid = Annotated[
    Epsilons,
    checked(lambda grid: grid and all(a < b for a, b in pairwise(grid)), "ascending epsilons, at least one"),
]
Row = tuple[float, float]
"""A model: the epsilons of its pretraining and its finetuning."""
Place = tuple[float, float, float]
"""A cell's epsilons: of pretraining, finetuning and evaluation."""
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""How names of scenarios, suites and data sets are spelled: such a file's name leads nowhere else."""
NAMED = "lower-case letters, digits, . _ or -"
"""The same in words."""
_Name = Annotated[str, matches(NAME, NAMED)]
_CALLED = re.compile(r"\w([\w.+ -]{0,62}\w)?")
"""How names of encoders are spelled; one that reads as a number would be taken for an epsilon."""
Architecture = Annotated[
    str,
    matches(
        r"(?ai:[a-z0-9][\w.-]{0,99}(:cifar(-pad2)?)?(,\w{1,40}=[\w.-]{1,40})*|module:.+)",
        "conv3, a timm model, or a timm ResNet with :cifar or :cifar-pad2 appended, and arguments such as "
        ",patch_size=4",
    ),
]
"""What may be the name of one, told without loading timm."""


@value
class Scenario:
    """RoSS(source -> target): a row for each model, by its training epsilons, a column for each evaluation epsilon.

    Raises InvalidValue or UnknownName when a field is out of its range, the grids are not ascending, or the
    target's images do not fit an encoder of the source.
    """

    name: _Name
    source: str
    target: str
    recipe: Recipe = Recipe()
    encoder: Architecture = "resnet18"
    """A name of ``rossbench.encoders``: any timm model, with ``:cifar`` or ``:cifar-pad2`` appended for ResNets with
    a CIFAR stem, and then arguments of timm's, as in ``vit_small_patch16_224,patch_size=4``."""
    train_epsilons: _Grid = _STUDYS
    """Of pretraining."""
    finetune_epsilons: _Grid | None = None
    """Of finetuning, each for every pretraining; None: the pretraining's own."""
    eval_epsilons: _Grid = _STUDYS
    seed: Seed = 0
    train_limit: Count | None = None
    """Class-balanced part of both training splits; None for all."""
    test_limit: Count | None = None
    description: str = ""
    weights: Annotated[str, matches("([0-9a-f]{16})?", "16 hex digits")] = ""
    """Of an encoder that was trained elsewhere, so that nothing is pretrained: 16 hex digits of a hash of them
    (``rossbench.weights``), whose encoder the run is given. The only training epsilon is then 0."""
    size: Pixels | None = None
    """To which images of source and target are resized, where they have another one; None: they have the same."""
    encoder_name: str = ""
    """What tables, figures and comparisons call the encoder: letters, digits, spaces and ``. _ + -``, at most 64, and
    no number. It changes no result and no key; empty: the architecture."""

    def __post_init__(self) -> None:
        is_name = not self.encoder_name or (_CALLED.fullmatch(self.encoder_name) and not is_number(self.encoder_name))
        called = "at most 64 letters, digits, spaces and . _ + -, and no number"
        expect(is_name, "name of the encoder", called, f"{self.encoder_name!r:.100}")
        alone = not self.weights or self.train_epsilons == (0,)
        expect(alone, "Scenario.train_epsilons", "0 alone beside given weights", self.train_epsilons)
        source, target = datasets.facts(self.source), datasets.facts(self.target)
        fit = f"images of {self.source}'s size, {source.size} pixels"
        got = f"{self.target}'s, {target.size}; size={source.size} (--set size={source.size}) resizes them"
        expect(self.size is not None or source.size == target.size, "Scenario.target", fit, got)
        if self.size == source.size == target.size:
            object.__setattr__(self, "size", None)  # nothing is resized
        expect(target.classes >= 2, "Scenario.target", "at least 2 classes", f"{self.target}'s {target.classes}")
        self._check_attacks()
        version = self.recipe.evaluation.attack.version
        if self.recipe.evaluation.attack_version != version:
            object.__setattr__(self, "recipe", with_fields(self.recipe, {"evaluation.attack_version": version}))
        counts = [datasets.count(dataset, "train", self.train_limit) for dataset in (self.source, self.target)]
        if counts == [source.train, target.train]:
            object.__setattr__(self, "train_limit", None)  # a limit that leaves nothing out is none
        if datasets.count(self.target, "test", self.test_limit) == target.test:
            object.__setattr__(self, "test_limit", None)

    def _check_attacks(self) -> None:
        row, classes = kind(name := self.recipe.evaluation.attack.name), datasets.facts(self.target).classes
        for stage, grid in (("pretraining", "train"), ("finetuning", "finetune"), ("evaluation", "eval")):
            attack: Attack = getattr(self.recipe, stage).attack
            is_plain = stage == "evaluation" or (attack.name, attack.restarts) == ("pgd", 1)
            expect(is_plain, f"{stage} attack", "pgd without restarts", attack)
            largest = max(getattr(self, f"{grid}_epsilons") or (0,))
            most = 1.0 if attack.norm == "Linf" else math.sqrt(3 * self.pixels**2)
            within = f"at most {most:.4g}, the largest {attack.norm} distance of two images in [0, 1]"
            is_within = largest <= most or not attack.kind.is_distance
            expect(is_within, f"Scenario.{grid}_epsilons", within, f"{largest:g}")
        enough = f"a target with at least {row.min_classes} classes, which its loss needs"
        expect(classes >= row.min_classes, name, enough, f"{self.target} with {classes}")
        are_shares = row.is_distance or self.eval_epsilons[-1] <= 1
        expect(are_shares, name, "shares of at most 1 as epsilons", f"{self.eval_epsilons[-1]:g}")

    @property
    def pixels(self) -> int:
        """Height and width of all images, and of what the encoder is built for."""
        return self.size or datasets.facts(self.source).size

    @property
    def rows(self) -> list[Row]:
        """The models."""
        return [(first, second) for first in self.train_epsilons for second in self.finetune_epsilons or (first,)]

    @cached_property
    def cells(self) -> dict[Place, EvaluateSpec]:
        """The matrix: (pretraining epsilon, finetuning epsilon, evaluation epsilon) -> spec."""
        return {
            (*row, column): EvaluateSpec(head, self.test_limit, column, self.recipe.evaluation)
            for row, head in self._heads.items()
            for column in self.eval_epsilons
        }

    def measures(self, kind: str) -> dict[Row, MeasureSpec]:
        """The models by an evaluation kind, such as ``features`` or ``knn,neighbours=20``; none of ``attack``, whose
        specs are ``cells``. An encoder alone has its epsilon twice. Raises InvalidValue or UnknownName."""
        if kind == ATTACK:
            return {}
        wanted = kind_of(kind, self.recipe.evaluation.attack.norm)
        needs = wanted.row
        columns = self.eval_epsilons if needs.columns is None else needs.columns
        how = self.target, self.test_limit, wanted, columns, self.train_limit if needs.needs_train else None
        if not needs.needs_head:
            return {(one, one): MeasureSpec(self._pretrain(one), *how) for one in self.train_epsilons}
        return {row: MeasureSpec(head.pretrain, *how, head) for row, head in self._heads.items()}

    @property
    def _heads(self) -> dict[Row, FinetuneSpec]:
        how = self.target, self.train_limit
        return {row: FinetuneSpec(self._pretrain(row[0]), *how, row[1], self.recipe.finetuning) for row in self.rows}

    def _pretrain(self, epsilon: float) -> PretrainSpec:
        size = None if self.size == datasets.facts(self.source).size else self.size
        if self.weights:  # what pretraining would be like changes nothing
            return PretrainSpec(self.source, None, self.encoder, seed=self.seed, weights=self.weights, size=size)
        recipe = self.recipe.pretraining
        return PretrainSpec(self.source, self.train_limit, self.encoder, epsilon, recipe, self.seed, size=size)

    @cached_property
    def protocol(self) -> str:
        """A short hash of everything but the name and the grids: matrices that agree in it can be merged."""
        flat = flatten(distinct(self))
        text = json.dumps({name: flat[name] for name in flat if self._matters(name)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def family(self) -> str:
        """The protocol of the same scenario with seed 0: what matrices of several seeds agree in."""
        return replace(self, seed=0).protocol

    def deviations(self, registered: Scenario) -> dict[str, tuple[Any, Any]]:
        """Fields in which this scenario differs from the registered one: name -> (here, registered).

        The seed and the grids are left out: they choose cells, and change none. So is the version of an attack.
        """
        ours, theirs = flatten(self), flatten(registered)
        return {
            name: (ours[name], theirs[name])
            for name in ours
            if self._matters(name) and name not in ("seed", VERSION) and ours[name] != theirs[name]
        }

    def _matters(self, name: str) -> bool:
        """Whether a field, by its name in ``flatten``, is of the protocol."""
        return name not in _NOT_PROTOCOL and not (self.weights and name.startswith("recipe.pretraining."))


VERSION = "recipe.evaluation.attack_version"
"""The field of a scenario, by its name in ``flatten``, which nobody sets."""
_NOT_PROTOCOL = (
    *("name", "description", "encoder_name", "recipe.name"),
    *("train_epsilons", "finetune_epsilons", "eval_epsilons"),
)


def specs_of(scenarios: Iterable[Scenario]) -> Iterator[AnySpec]:
    """Every artifact of some scenarios once, each after those that it is made from."""
    cells = (cell for scenario in scenarios for cell in scenario.cells.values())
    yield from dict.fromkeys(spec for cell in cells for spec in cell.chain)


@value
class Suite:
    """A named list of scenarios and suites, run and reported as one. Raises InvalidValue."""

    name: _Name
    members: Many[str]
    """Names in the registry."""
    description: str = ""

    def __post_init__(self) -> None:
        expect(self.members, "Suite.members", "names of scenarios", f"none for {self.name}")
