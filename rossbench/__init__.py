"""rossbench: how robust are self-supervised encoders, and how does their robustness transfer?

Importing it imports no torch; ``run`` does, when it is first used.
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from .errors import RossbenchError
from .recipe import Attack, Augmentation, Evaluation, Finetuning, Pretraining, Recipe
from .registry import get, names, register
from .scenario import Scenario

if TYPE_CHECKING:
    from .runner import run

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
    "get",
    "names",
    "register",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "run":
        from .runner import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
