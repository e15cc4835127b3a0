"""The table of attacks: each one's settings, title, cost, needs, and where its function is. Loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..util.epsilons import EPS
from ..util.errors import InvalidValue, one_line, unknown
from ..util.values import Count, Positive, parse_settings, value

Norm = Literal["L2", "Linf"]
AttackFunction = Callable[..., Any]
"""function(model, images, labels, epsilon, attack) -> images; see registry.register_attack."""


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
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    """Of pgd: what its steps raise. "margin": see attacks.pgd.margin; the scale of the logits plays no part in it."""

    def __post_init__(self) -> None:
        if self.name == "autoattack-standard" and self.steps != 100:
            raise InvalidValue(f"Attack.steps: expected 100, which autoattack-standard stands for, got {self.steps}")

    def length(self, epsilon: Any) -> Any:
        """Of a step, in pixel space; ``epsilon``: a number, or a tensor of them."""
        return self.step_size if self.step_unit == "pixel" else self.step_size * epsilon

    @property
    def kind(self) -> AttackKind:
        """Its row of the table; for a name that is not in it, the row that ``register_attack`` would add."""
        return ATTACKS[self.name] if self.name in ATTACKS else user_kind(self.name, None)

    @property
    def passes(self) -> int:
        """Most passes of an image through the model, a forward or a backward pass counting 1; see specs.passes."""
        return self.kind.passes(self)

    @property
    def version(self) -> int:
        """Of its code; see AttackKind.versions."""
        return self.kind.versions.get(self.norm, 1)

    def __str__(self) -> str:
        words = {
            "length": f"{self.step_size:g}" + (f" {EPS}" if self.step_unit == "epsilon" else ""),
            "start": "" if self.random_start else ", no random start",
            "restarts": f", {self.restarts} restarts" if self.restarts > 1 else "",
            "loss": "" if self.loss == "cross-entropy" else f", on the {self.loss}",
        }
        norm = f"-{self.norm}" if self.kind.is_distance else ""
        return one_line(self.kind.title + norm + self.kind.detail.format(steps=self.steps, **words))


@dataclass(frozen=True)
class AttackKind:
    """A row of the table."""

    defaults: Attack
    """The settings that the name alone stands for."""
    title: str
    """In captions."""
    function: str
    """"module:function" in this folder, loaded when it is called: it is given a ``Task`` and returns images."""
    passes: Callable[[Attack], int] = lambda attack: 2 * attack.steps * attack.restarts
    """See Attack.passes."""
    detail: str = ""
    """The settings, for captions: a format of ``steps`` and the words of Attack.__str__."""
    min_classes: int = 2
    """Of a target that it can attack."""
    is_distance: bool = True
    """Whether its epsilon is a distance in ``norm``."""
    user_function: AttackFunction | None = None
    """Of an attack that a user registered."""
    versions: Mapping[Norm, int] = field(default_factory=dict)
    """By norm, of the function, where it is not the first: count on when it finds more or less than it did, so that
    results of before are told apart and computed again."""

    def load(self) -> Callable[..., Any]:
        module, name = self.function.split(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
        return loaded


TARGETS = 9
"""Of a targeted attack, likeliest first: the reference's settings for Croce & Hein (2020)."""
_STEPS = ", {steps} steps"
_CHANNELS: dict[Norm, int] = {"L2": 2}
"""Versions of Square, and of what contains it: in the first, its windows had one norm over all channels."""
_PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
_ROWS = (
    AttackKind(
        Attack(step_size=0.1, step_unit="epsilon"),
        title="PGD",
        function="simple:pgd",
        detail=_STEPS + " of {length}{start}{restarts}{loss}",
    ),
    AttackKind(Attack("fgsm"), "FGSM", "simple:fgsm", lambda attack: 2),
    AttackKind(Attack("gaussian-noise"), "Gaussian noise", "simple:gaussian_noise", lambda attack: 0),
    AttackKind(Attack("negative"), "negative image", "simple:negative", lambda attack: 0, is_distance=False),
    AttackKind(
        Attack("square", steps=5000),
        title="Square",
        function="autoattack:square",
        passes=lambda attack: attack.steps,
        detail=", {steps} queries",
        versions=_CHANNELS,
    ),
    AttackKind(
        Attack("apgd-ce", steps=100), "APGD-CE", "autoattack:apgd_ce", lambda attack: 2 * attack.steps + 2, _STEPS
    ),
    AttackKind(
        Attack("apgd-t", steps=100),
        title="APGD-T",
        function="autoattack:apgd_t",
        passes=lambda attack: TARGETS * (2 * attack.steps + 3),
        detail=_STEPS,
        min_classes=4,  # its loss divides by a difference of the first, third and fourth logit
    ),
    AttackKind(
        Attack("fab-t", steps=100), "FAB-T", "autoattack:fab_t", lambda attack: TARGETS * 3 * attack.steps, _STEPS
    ),
    AttackKind(
        Attack("autoattack-standard", steps=100),
        title="AutoAttack standard",
        function="autoattack:standard",
        passes=lambda attack: sum(ATTACKS[part].defaults.passes for part in _PARTS),
        min_classes=4,
        versions=_CHANNELS,
    ),
)
ATTACKS: dict[str, AttackKind] = {row.defaults.name: row for row in _ROWS}
"""By name. ``registry.register_attack`` adds to them."""


def user_kind(name: str, function: AttackFunction | None) -> AttackKind:
    """The row of a user's own attack."""
    return AttackKind(Attack(name), name, "simple:user", detail="{restarts}", user_function=function)


def kind(name: str) -> AttackKind:
    """The row of that name; UnknownName with the nearest names if there is none."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name]


def attack_of(text: str, base: Attack) -> Attack:
    """``base`` changed as ``pgd,steps=100,restarts=5`` says; another attack has its own settings, and base's norm.

    A name may be left out: ``steps=100``. Raises InvalidValue or UnknownName.
    """
    name, *settings = text.split(",") if "=" not in text.split(",")[0] else [base.name, *text.split(",")]
    named, changes = kind(name).defaults, parse_settings(Attack, "attack setting", settings)
    changed = replace(base if name == base.name else replace(named, norm=base.norm), **changes)
    lengths = (changed.name, changed.step_unit) == ("pgd", "pixel")
    if lengths and changed.norm != base.norm and "step_size" not in changes:
        raise InvalidValue(f"attack: expected a step_size with norm={changed.norm}, got one for {base.norm} only")
    return changed
