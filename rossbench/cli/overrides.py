"""From a registered scenario and the options of a command to the scenario to run."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import click

from .. import registry
from ..attacks.table import attack_of
from ..config.recipes import FINETUNINGS, Recipe
from ..config.scenarios import Scenario
from ..util.errors import InvalidValue, unknown
from ..util.values import flatten, parse, with_fields

SAME = "same"
_OF_SCENARIO = (
    *("encoder", "train_epsilons", "finetune_epsilons", "eval_epsilons"),
    *("train_limit", "test_limit", "seed", "size"),
)
_SHORTHANDS = {
    **{field: field for field in _OF_SCENARIO},
    "epochs": "recipe.pretraining.epochs",
    "finetune_epochs": "recipe.finetuning.epochs",
    "precision": "recipe.pretraining.precision",
    "attacked": "recipe.evaluation.attacked",
}
"""Options of one field each, and its path from the scenario."""
_OF_FILE = ("normalization", "bn", "prefix")
"""What --encoder-... says of a file of weights."""


def parse_setting(text: str) -> tuple[str, Any]:
    """``pretraining.epochs=9`` as the field's path from the scenario and its value.

    Raises InvalidValue, or UnknownName with the nearest fields.
    """
    field, equals, written = text.partition("=")
    if not equals:
        raise InvalidValue(f"--set: expected FIELD=VALUE, got {text!r:.200}")
    recipe = Recipe()
    known = [*_OF_SCENARIO, *(path for path in flatten(recipe) if path != "name")]
    if field not in known:
        raise unknown("field", field, known)
    if field in _OF_SCENARIO:
        return field, parse(Scenario, field, written)
    part, _, name = field.rpartition(".")
    return f"recipe.{field}", parse(type(operator.attrgetter(part)(recipe)), name, written)


def changed_scenarios(name: str, given: Mapping[str, Any]) -> list[Scenario]:
    """The registered scenario, or those of a suite, with the options that were given; once per seed.

    With --encoder-weights they lack the hash of the weights, since reading those takes torch. Raises UsageError for
    options that exclude each other.
    """
    changes = {path: given[option] for option, path in _SHORTHANDS.items() if given[option] is not None}
    if given["finetune_epsilons"] == SAME:
        changes["finetune_epsilons"] = None
    changes |= dict(given["settings"])
    _check_combination(given, changes)
    if given["encoder_weights"] is not None:
        changes["train_epsilons"] = (0.0,)
    seeds = [{"seed": seed} for seed in given["seeds"] or ()] or [{}]
    finetuning = FINETUNINGS.get(given["finetuning"], {})
    scenarios = [with_fields(scenario, finetuning) for scenario in registry.members(name)]
    return [
        with_fields(scenario, {**_attack(scenario, given["attack"]), **changes, **seed})
        for seed in seeds
        for scenario in scenarios
    ]


def _attack(scenario: Scenario, text: str | None) -> dict[str, Any]:
    base = scenario.recipe.evaluation.attack
    return {} if text is None else {"recipe.evaluation.attack": attack_of(text, base)}


def _check_combination(given: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    if given["seeds"] and "seed" in changes:
        raise click.UsageError("--seed and --seeds are mutually exclusive")
    source: str | None = given["encoder_weights"]
    of_file = [f"--encoder-{name}" for name in _OF_FILE if given[f"encoder_{name}"] is not None]
    if source is None:
        if of_file:
            raise click.UsageError(f"{of_file[0]} needs --encoder-weights")
        return
    for path, item in changes.items():
        if path.startswith("recipe.pretraining.") or (path == "train_epsilons" and item != (0,)):
            field = path.removeprefix("recipe.")
            raise click.UsageError(f"{field} cannot be set with --encoder-weights, which replaces pretraining")
    of_file = ["--encoder"] * ("encoder" in changes) + of_file
    if source.startswith(("hf-hub:", "local-dir:")) and of_file:
        raise click.UsageError(f"{' and '.join(of_file)} cannot be set with {source}, which has its own")
