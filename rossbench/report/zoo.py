"""Runs of known encoders (``run --zoo``) beside what was published of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .. import registry
from ..attacks.table import ATTACKS
from ..config.scenarios import Scenario
from ..config.specs import ATTACKED, EvaluateSpec, FinetuneSpec
from ..config.zoo import PRESETS, KnownEncoder, PublishedNumbers
from ..data import datasets
from ..store.metrics import METRICS, MISSING
from ..store.records import Record
from ..store.results import ResultMatrix, differences
from ..util.epsilons import EPS, format_epsilon
from ..util.errors import InvalidValue
from ..util.values import flatten
from . import published as study
from .model import Model
from .tables import Table

_COLUMNS = {"clean": "0", "pgd20": "8/255 PGD-20", "autoattack": "8/255 AA"}
"""Numbers of PublishedNumbers, and the heads of their columns."""
_STANDARD = "autoattack-standard"


@dataclass
class Comparison:
    """What runs gave of one classifier, under one seed, beside the published numbers for its target and finetuning."""

    zoo: str
    finetune: FinetuneSpec
    preset: str
    """The preset that it was trained by, or the nearest."""
    published: tuple[PublishedNumbers, ...]
    ours: dict[str, float] = field(default_factory=dict)
    """In percent, by the keys of _COLUMNS: cells of the published protocol."""
    unlike: dict[str, float] = field(default_factory=dict)
    """Cells of other protocols."""
    reasons: list[str] = field(default_factory=list)
    """Why some cells must not be compared."""
    audits: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.zoo} on {self.finetune.target}, {self.preset}"

    @property
    def compared(self) -> list[PublishedNumbers]:
        return [one for one in self.published if not one.unlike]

    @property
    def refusal(self) -> str | None:
        """Why nothing can be compared; None where something can."""
        if not self.published:
            return f"{self.title}: nothing is published of it"
        if not self.compared:
            return f"{self.title}: {_unlike(self.published)}"
        shared = any(getattr(one, column) is not None for one in self.compared for column in self.ours)
        if shared:
            return None
        why = "; ".join(dict.fromkeys(self.reasons)) or "no number of it is published and was run"
        return f"{self.title}: {why}"


def compare(matrices: Iterable[ResultMatrix]) -> list[Comparison]:
    """A comparison for each classifier on a known encoder. Other matrices are left out."""
    found: dict[FinetuneSpec, Comparison] = {}
    encoders = {one.name: one for one in registry.encoders()}
    for matrix in matrices:
        known = encoders.get(matrix.zoo)
        if known is None:  # perhaps of a scenario file that is not given now
            continue
        for record in matrix.records:
            spec = record.spec.finetune
            if spec not in found:
                preset = _preset(known, record.spec)
                fitting = (one for one in known.published if (one.target, one.finetuning) == (spec.target, preset))
                found[spec] = Comparison(matrix.zoo, spec, preset, tuple(fitting))
            if found[spec].published:
                _add(found[spec], known, record)
        for row, audit in matrix.audits.items():
            found[Model(matrix, row).spec].audits.append(audit.summary)
    return list(found.values())


def _preset(known: KnownEncoder, spec: EvaluateSpec) -> str:
    """Of the presets that train and attack the same parts, and have published numbers, the one that is nearest."""
    finetune = spec.finetune
    kind = "aff" if finetune.recipe.trained == "full" else "alf" if finetune.epsilon else "slf"
    published = {one.finetuning for one in known.published if one.target == finetune.target}
    alike: list[str] = [preset for preset in PRESETS if preset.endswith(kind) and preset in published]
    return min(alike or [f"field-{kind}"], key=lambda one: len(_changes(spec, _expected(known, one, spec, "clean"))))


def _add(comparison: Comparison, known: KnownEncoder, record: Record) -> None:
    """The record's number where it belongs: to what is of the published protocol, or to the rest with the reason."""
    spec = record.spec
    column = "clean" if not spec.epsilon else "autoattack" if spec.recipe.attack.name == _STANDARD else "pgd20"
    expected = _expected(known, comparison.preset, spec, column)
    value = METRICS["robust" if column == "autoattack" else "top1"].of(record)
    if spec == expected and value is not None:
        comparison.ours[column] = 100 * value
        return
    shown = value if value is not None else METRICS["robust"].of(record)
    if shown is not None:
        comparison.unlike.setdefault(column, 100 * shown)
    comparison.reasons.append(differences(_changes(spec, expected), "published"))


def _expected(known: KnownEncoder, preset: str, spec: EvaluateSpec, column: str) -> EvaluateSpec:
    """The cell of the published protocol that stands in a column, for the same weights and seed."""
    size = datasets.facts(known.source).size
    scenario = Scenario("published", known.source, spec.finetune.target, size=size, seed=spec.seed)
    weights = spec.finetune.pretrain.weights
    scenario = replace(known.finetuned(scenario, preset), train_epsilons=(0,), weights=weights)
    cell = max(scenario.cells.values(), key=lambda one: one.epsilon)
    if column == "clean":
        return replace(cell, epsilon=0)
    if column == "autoattack":  # which attacks nothing that is wrong anyway, so that either count is the same
        attack = replace(ATTACKS[_STANDARD].defaults, norm=cell.recipe.attack.norm)
        return replace(cell, recipe=replace(cell.recipe, attack=attack, attacked=spec.recipe.attacked))
    return cell


_NAMES = {
    "finetune.recipe.": "finetuning.",
    "finetune.pretrain.": "",
    "finetune.limit": "train_limit",
    "finetune.epsilon": "finetuning epsilon",
    "finetune.": "",
    "recipe.": "evaluation.",
    "limit": "test_limit",
    "epsilon": "evaluation epsilon",
}


def _changes(spec: EvaluateSpec, expected: EvaluateSpec) -> dict[str, tuple[object, object]]:
    """Fields in which two specs differ, by the names that --set has for them, but for attacks that are not made."""
    ours, theirs = flatten(dataclasses.asdict(spec)), flatten(dataclasses.asdict(expected))
    idle = [prefix for prefix, one in (("recipe.", spec), ("finetune.recipe.", spec.finetune)) if not one.epsilon]
    found = {}
    for name in ours:
        unused = any(name.startswith(tuple(prefix + part for part in ATTACKED)) for prefix in idle)
        if ours[name] != theirs[name] and not unused:
            start = next((one for one in _NAMES if name.startswith(one)), "")
            both = ours[name], theirs[name]
            shown = (format_epsilon(both[0]), format_epsilon(both[1])) if name.endswith("epsilon") else both
            found[_NAMES.get(start, "") + name.removeprefix(start)] = shown
    return found


def _unlike(published: Sequence[PublishedNumbers]) -> str:
    return "; ".join(f"{one.source}: published for {one.unlike}" for one in published if one.unlike)


def table(comparison: Comparison, tolerance: float, reduced: bool = False) -> Table:
    """Ours, each published row and the difference.

    ``tolerance``: in percentage points; ``reduced``: with the cells of other protocols, too.
    """
    text = METRICS["top1"].text
    found = {**comparison.unlike, **comparison.ours} if reduced else comparison.ours
    rows = comparison.published if reduced else comparison.compared
    ours = [found.get(column) for column in _COLUMNS]
    lines, gaps = [([comparison.zoo, "ours"], list(map(text, ours)))], []
    names = [f"→ {comparison.finetune.target}", comparison.preset]
    for one in rows:
        theirs = [getattr(one, column) for column in _COLUMNS]
        gaps.append(study.differences_of(ours, theirs))
        mark = " ?" if one.doubtful else ""
        lines.append(([names.pop(0) if names else "", f"published{mark}"], list(map(text, theirs))))
        lines.append(([names.pop(0) if names else "", "difference"], [text(gap, "+") for gap in gaps[-1]]))
    near, of = study.within(tolerance, gaps)
    sources = ", ".join(dict.fromkeys(one.source for one in rows))
    return Table(
        title=f"{comparison.title}: top-1 accuracy (%), ours and published",
        labels=["encoder", "value"],
        columns=list(_COLUMNS.values()),
        lines=lines,
        notes=_notes(comparison, rows, reduced),
        caption=f"Published: {sources or MISSING}; seed {comparison.finetune.seed}: {near} of {of} cells within "
        f"{tolerance:g} points; AA: AutoAttack standard; {EPS} in L-infinity; audit: "
        f"{', '.join(dict.fromkeys(comparison.audits)) or MISSING}",
    )


def _notes(comparison: Comparison, rows: Sequence[PublishedNumbers], reduced: bool) -> list[str]:
    reasons = list(dict.fromkeys(comparison.reasons))
    notes = [f"NOT COMPARABLE: {comparison.refusal}"] if comparison.refusal else []
    if not comparison.refusal:
        notes += [f"{'NOT COMPARABLE' if reduced else 'not compared'}: {reason}" for reason in reasons]
    notes += [f"DOUBTFUL (?), {one.source}: {one.doubtful}" for one in rows if one.doubtful]
    notes += [f"{one.source}: {one.remark}" for one in rows if one.remark]
    if not comparison.refusal and (said := _unlike(comparison.published)):
        notes.append(f"not compared: {said}" if not reduced else said)
    return notes


def beside_published(
    matrices: Sequence[ResultMatrix], tolerance: float, reduced: bool = False
) -> tuple[list[Table], list[str]]:
    """Tables of all runs with published numbers, and why some must not be compared; ``reduced``: tables of those too.

    InvalidValue if nothing is published of what was run.
    """
    of_encoders = compare(matrices)
    try:
        of_study = study.compare([one for one in matrices if not one.zoo])
    except InvalidValue:
        if not of_encoders:
            raise
        of_study = []
    shown = [study.comparison_table(one, tolerance) for one in of_study if reduced or not one.refusal]
    shown += [table(one, tolerance, reduced) for one in of_encoders if reduced or not one.refusal]
    return shown, [*study.refusals(of_study), *(one.refusal for one in of_encoders if one.refusal)]
