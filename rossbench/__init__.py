"""rossbench: how robust are self-supervised encoders, and how does their robustness transfer?

Importing it imports no torch; ``run``, ``run_suite``, ``evaluate_encoder`` and ``audit`` do, when they are first used.
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from .errors import RossbenchError
from .recipe import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe
from .registry import get, members, names, register, register_attack, register_folder
from .scenario import Scenario, Suite

if TYPE_CHECKING:
    from .runner import audit, evaluate_encoder, run, run_suite

__version__ = _version("rossbench")
__all__ = [
    "Attack",
    "Augmentation",
    "Evaluation",
    "Finetuning",
    "Pretraining",
    "Recipe",
    "RossbenchError",
    "Scenario",
    "Suite",
    "audit",
    "evaluate_encoder",
    "get",
    "members",
    "names",
    "register",
    "register_attack",
    "register_folder",
    "run",
    "run_suite",
]


def __getattr__(name: str) -> Any:
    if name in ("audit", "evaluate_encoder", "run", "run_suite"):
        from . import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
