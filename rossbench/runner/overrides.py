"""From a registered scenario and the options of a command, or of evaluate_encoder, to the scenario to run."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from types import NoneType
from typing import Any

from .. import registry
from ..attacks.table import Attack, attack_of
from ..config.recipes import FINETUNINGS, Recipe
from ..config.scenarios import VERSION, Scenario
from ..config.zoo import KnownEncoder, normalization_of
from ..util.errors import InvalidValue, check_known, expect
from ..util.values import flatten, parse, with_fields

SAME = "same"
_OF_SCENARIO = (
    *("encoder", "train_epsilons", "finetune_epsilons", "eval_epsilons"),
    *("train_limit", "test_limit", "seed", "size", "encoder_name"),
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
_OF_LIBRARY = ("hf-hub:", "local-dir:")
"""What weights begin with that timm reads."""


def parse_setting(text: str) -> tuple[str, Any]:
    """``pretraining.epochs=9`` as the field's path from the scenario and its value.

    Raises InvalidValue, or UnknownName with the nearest fields.
    """
    field, equals, written = text.partition("=")
    expect(equals, "--set", "FIELD=VALUE", f"{text!r:.200}")
    recipe = Recipe()
    unset = ("name", VERSION.removeprefix("recipe."))
    known = [*_OF_SCENARIO, *(path for path in flatten(recipe) if path not in unset)]
    check_known("field", field, known)
    if field in _OF_SCENARIO:
        return field, parse(Scenario, field, written)
    part, _, name = field.rpartition(".")
    return f"recipe.{field}", parse(type(operator.attrgetter(part)(recipe)), name, written)


def changed_scenarios(name: str | None, given: Mapping[str, Any]) -> list[Scenario]:
    """The registered scenario, or those of a suite, with the options that were given; once per seed.

    ``name``: None for that of a known encoder's own task. With --encoder-weights they lack the hash of the weights,
    since reading those takes torch. Raises InvalidValue for options that exclude each other.
    """
    known = known_encoder(given)
    named = registry.members(name) if name is not None else (_own_task(known),)
    changes = {path: given[option] for option, path in _SHORTHANDS.items() if given[option] is not None}
    if given["finetune_epsilons"] == SAME:
        changes["finetune_epsilons"] = None
    changes |= dict(given["settings"])
    _check_combination(given, changes)
    if given["encoder_weights"] is not None:
        changes["train_epsilons"] = (0.0,)
    seeds = [{"seed": seed} for seed in given["seeds"] or ()] or [{}]
    return [
        _changed(scenario, given["finetuning"], given["attack"], {**changes, **seed}, known)
        for seed in seeds
        for scenario in named
    ]


def known_encoder(given: Mapping[str, Any]) -> KnownEncoder | None:
    """The encoder of --zoo. Raises UnknownName, or InvalidValue where the file of its weights is not given."""
    if given["zoo"] is None:
        return None
    known = registry.encoder(given["zoo"])
    source: str = given["encoder_weights"] or ""
    got = f"{source or 'none'}; offered at: {known.offered}"
    is_file = source and not source.startswith(_OF_LIBRARY)
    expect(is_file, f"--zoo {known.name}", "its file as --encoder-weights FILE", got)
    return known


def _own_task(known: KnownEncoder | None) -> Scenario:
    if known is None:
        raise InvalidValue("expected the NAME of a scenario or suite, or --zoo and the name of a known encoder")
    scenarios = map(registry.get, registry.names())
    found = next((one for one in scenarios if one.source == one.target == known.source), None)
    if found is None:
        raise InvalidValue(f"--zoo {known.name}: expected the NAME of a scenario from {known.source}, got none")
    return found


def choices_of_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """What models.checkpoints.read is told of a file: the options, and where one is not given, what is known."""
    choices = {name: given[f"encoder_{name}"] for name in _OF_FILE}
    known = known_encoder(given)
    if known is None:
        return choices
    norm = normalization_of(known.normalization) if known.normalization else None
    theirs = {"normalization": norm, "bn": known.bn, "prefix": known.prefix}
    said = {name: theirs[name] if choice is None else choice for name, choice in choices.items()}
    return {**said, "sha256": known.sha256}


_OF_PYTHON = {
    "epsilons": "eval_epsilons",
    "finetune_eps": "finetune_epsilons",
    **{name: name for name in ("train_limit", "test_limit", "seed", "finetune_epochs", "attacked")},
}
"""What evaluate_encoder calls the options of one field that it takes, and what this module does."""


def with_options(scenario: Scenario, options: Mapping[str, Any]) -> Scenario:
    """A scenario with options by their names on the command line, as evaluate_encoder takes them: see there.

    Raises UnknownName, with the nearest names, or InvalidValue.
    """
    known = [*_OF_PYTHON, "attack", "finetuning", "settings"]
    for name in options:
        check_known("option of evaluate_encoder", name, known)
    changes = {_SHORTHANDS[own]: options[name] for name, own in _OF_PYTHON.items() if options.get(name) is not None}
    for grid in ("eval_epsilons", "finetune_epsilons"):
        if isinstance(changes.get(grid), (int, float)):
            changes[grid] = (changes[grid],)
    settings = options.get("settings") or {}
    expected = "a dictionary such as {'finetuning.epochs': 9}"
    expect(isinstance(settings, Mapping), "settings", expected, f"{settings!r:.200}")
    for field, item in settings.items():
        written = item if isinstance(item, str) else json.dumps(item, default=str)
        changes |= [parse_setting(f"{field}={written}")]
    for path in changes:
        if path.startswith(("recipe.pretraining.", "train_epsilons", "encoder")):
            field = path.removeprefix("recipe.")
            raise InvalidValue(f"settings: {field} is of the pretraining, which the module replaces")
    return _changed(scenario, options.get("finetuning"), options.get("attack"), changes)


def _changed(
    scenario: Scenario,
    finetuning: str | None,
    attack: str | Attack | None,
    changes: Mapping[str, Any],
    known: KnownEncoder | None = None,
) -> Scenario:
    """``finetuning``: of FINETUNINGS, as a known encoder has it; None: its preset, or the scenario's own."""
    if finetuning is not None:
        check_known("finetuning", finetuning, FINETUNINGS)
    if known is not None:
        scenario = known.finetuned(scenario, finetuning or known.preset)
    elif finetuning is not None:
        scenario = with_fields(scenario, FINETUNINGS[finetuning])
    is_attack = isinstance(attack, (str, Attack, NoneType))
    expect(is_attack, "attack", "a name, settings or an Attack", f"{attack!r:.200}")
    if isinstance(attack, str):
        attack = attack_of(attack, scenario.recipe.evaluation.attack)
    return with_fields(scenario, {**({"recipe.evaluation.attack": attack} if attack else {}), **changes})


def _check_combination(given: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    if given["seeds"] and "seed" in changes:
        raise InvalidValue("--seed and --seeds are mutually exclusive")
    source: str | None = given["encoder_weights"]
    of_file = [f"--encoder-{name}" for name in _OF_FILE if given[f"encoder_{name}"] is not None]
    if source is None:
        if of_file:
            raise InvalidValue(f"{of_file[0]} needs --encoder-weights")
        return
    for path, item in changes.items():
        if path.startswith("recipe.pretraining.") or (path == "train_epsilons" and item != (0,)):
            field = path.removeprefix("recipe.")
            raise InvalidValue(f"{field} cannot be set with --encoder-weights, which replaces pretraining")
    of_file = ["--encoder"] * ("encoder" in changes) + of_file
    if source.startswith(_OF_LIBRARY) and of_file:
        raise InvalidValue(f"{' and '.join(of_file)} cannot be set with {source}, which has its own")
