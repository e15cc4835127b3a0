"""Models of a store by what tables call them. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .. import registry
from ..config.scenarios import Row
from ..util.epsilons import format_model
from ..util.errors import expect, unknown
from .records import read_notes
from .results import ResultMatrix, load
from .store import Store


def are_of_models(store: Store, names: Sequence[str]) -> bool:
    """Whether all names may be of models: none is that of a scenario, a suite or a published encoder."""
    known = {note.name for _, note in read_notes(store)} | {*registry.names()}
    known |= {one.name for one in registry.suites()} | {one.name for one in registry.encoders()}
    return known.isdisjoint(names)


def find_model(store: Store, text: str, protocol: str | None = None) -> tuple[ResultMatrix, Row]:
    """The model of ``NAME@MODEL``, or of ``MODEL`` alone, and its matrix.

    ``MODEL``: what tables call it, such as ``mine-v3`` or ``resnet18 ε=1`` (ε= may be left out); its epsilons, ``1`` or
    ``1:0``, of one pretrained here if there is one; or the hash of given weights. UnknownName lists what there is,
    InvalidValue what several there are to choose from.
    """
    found = _called(store, text, protocol)
    _check_one(text, found, lambda matrix, row: matrix.audit_specs()[row].finetune.key)
    return found[0]


def find_encoder(store: Store, text: str, protocol: str | None = None) -> list[tuple[ResultMatrix, Row]]:
    """All models in the store of the encoder that a model has, whatever their task and seed of finetuning.

    ``text``, ``protocol`` and what is raised: see find_model.
    """
    found = _called(store, text, protocol)
    _check_one(text, found, _encoder)
    models = [(one, row) for one in load(store) for row in one.audit_specs()]
    return [(one, row) for one, row in models if _encoder(one, row) == _encoder(*found[0])]


def _encoder(matrix: ResultMatrix, row: Row) -> str:
    """Weights that were given are one encoder under every seed; the same weights fit several stems."""
    spec = matrix.audit_specs()[row].finetune.pretrain
    return f"{spec.encoder} {spec.weights}" if spec.weights else spec.key


def _called(store: Store, text: str, protocol: str | None) -> list[tuple[ResultMatrix, Row]]:
    name, _, model = text.rpartition("@")
    matrices = [one for one in load(store, [name] if name else [], protocol) if one.records]
    models = [(one, row) for one in matrices for row in one.audit_specs()]
    plain = _plain_model(model)
    ways: tuple[Callable[[ResultMatrix, Row], bool], ...] = (
        lambda one, row: plain == _plain_model(one.model(row)),
        lambda one, row: plain == _plain_model(one.encoder),
        lambda one, row: model == one.weights[:8] != "",
        lambda one, row: plain == _plain_model(format_model(*row)) and not one.weights,
        lambda one, row: plain == _plain_model(format_model(*row)),  # of one that was given, which has none of its own
    )
    for is_meant in ways:
        if found := [both for both in models if is_meant(*both)]:
            return found
    raise unknown(f"model of {name or store.root}", model, {one.model(row) for one, row in models})


def _check_one(text: str, found: list[tuple[ResultMatrix, Row]], key: Callable[[ResultMatrix, Row], str]) -> None:
    """InvalidValue, with what there is to choose from, if the models differ in their key."""
    choices = (f"{one.name}@{one.model(row)}, protocol {one.protocol}, seed {one.seed}" for one, row in found)
    got = f"several; name it, or give --protocol: {'; '.join(choices)}"
    expect(len({key(*one) for one in found}) == 1, text, "one model", got)


def _plain_model(text: str) -> str:
    """A model as it is looked for: however ε is written, and what is around it."""
    return " ".join(re.sub(r"\b(ε|eps(ilon)?)\s*=\s*", " ", text.replace(",", " ")).split())
