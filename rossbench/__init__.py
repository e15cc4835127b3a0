"""rossbench: how robust are self-supervised encoders, and how does their robustness transfer?

Importing it imports neither torch nor pandas: ``run``, ``run_suite``, ``evaluate_encoder``, ``load_classifier`` and
``audit`` import torch when they are first used, and ``results`` imports pandas.
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from .config.recipes import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe
from .config.scenarios import Scenario, Suite
from .registry import get, members, names, register, register_attack, register_folder
from .util.errors import RossbenchError

if TYPE_CHECKING:
    from .report.dataframe import results
    from .runner.run import audit, evaluate_encoder, load_classifier, run, run_suite

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
    "load_classifier",
    "members",
    "names",
    "register",
    "register_attack",
    "register_folder",
    "results",
    "run",
    "run_suite",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("audit", "evaluate_encoder", "load_classifier", "run", "run_suite"):
        from .runner import run

        return getattr(run, name)
    if name == "results":
        from .report.dataframe import results

        return results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
