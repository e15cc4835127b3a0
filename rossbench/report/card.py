"""A model card in Markdown, with the metadata that model hubs read, from records alone. The home of yaml. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from .. import __version__
from ..config.recipes import MODULE, PADDINGS, SMALL
from ..config.scenarios import Row
from ..store.metrics import MISSING
from ..store.results import ResultMatrix
from ..util.epsilons import EPS, format_epsilon
from .formats import to_markdown
from .model import Model, settings, tested_alike
from .tables import Table

_TAGS = ("image-feature-extraction", "adversarial-robustness", "self-supervised-learning", "rossbench")

_STEM = """
model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, 3, padding={padding}, bias=False)
model.maxpool = torch.nn.Identity()"""
_LOADING = """```python
import json

{imports}
import torch
from safetensors import safe_open
from safetensors.torch import load_file

file = "model.safetensors"  # of rossbench export
with safe_open(file, "pt") as opened:
    facts = {{name: json.loads(text) for name, text in opened.metadata().items() if name != "format"}}
model = {model}{stem}
model.load_state_dict(load_file(file), strict=True)
model.eval()
mean, std = (torch.tensor(facts["normalization"][part])[:, None, None] for part in ("mean", "std"))
features = model((torch.rand(1, 3, {size}, {size}) - mean) / std)  # images in [0, 1]
```"""


def card(models: Sequence[tuple[ResultMatrix, Row]]) -> str:
    """Of one encoder; ``models``: all that are built on it, as lookup.find_encoder gives them."""
    groups = tested_alike(models)
    some = [entry for group in groups for entry in group]
    language = "python" if some[0].spec.pretrain.encoder.startswith(MODULE) else "sh"
    parts = [
        _front_matter(some),
        f"# {_name(some[0])}",
        _about(some[0]),
        "## Results",
        *(to_markdown(_table(group)).strip() for group in groups),
        "## Audit",
        *_audits(some),
        "## Protocol",
        *(_protocol(group) for group in groups),
        "## How to load",
        _loading(some[0]),
        "## How to repeat",
        "\n".join([f"```{language}", *dict.fromkeys(entry.command for entry in some), "```"]),
        f"Made by rossbench {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _name(entry: Model) -> str:
    return entry.matrix.encoder if entry.matrix.weights else entry.matrix.model((entry.row[0], entry.row[0]))


def _front_matter(some: Sequence[Model]) -> str:
    """What https://huggingface.co/docs/hub/model-cards describes."""
    first = some[0]
    sources = [] if first.matrix.weights else [first.matrix.source]
    facts = {
        "library_name": "rossbench" if first.spec.pretrain.encoder.startswith((MODULE, SMALL)) else "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": list(_TAGS),
        "datasets": list(dict.fromkeys([*sources, *(entry.matrix.target for entry in some)])),
        "metrics": ["accuracy"],
        "model-index": [{"name": _name(first), "results": [_result(entry) for entry in some]}],
    }
    written = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110)
    return f"---\n# license: your choice, such as mit\n{written}---"


def _result(entry: Model) -> dict[str, Any]:
    target, metrics = entry.matrix.target, []
    for column, score in entry.scores.items():
        attack = f"under {entry.matrix.evaluation.attack}, {EPS}={format_epsilon(column)}"
        name = f"accuracy {attack if column else 'without an attack'}"
        metrics.append({"type": "accuracy", "name": name, "value": round(score.mean, 4)})
    return {
        "task": {"type": "image-classification", "name": f"finetuning on {target}, {entry.finetuning}"},
        "dataset": {"type": target, "name": target, "split": "test"},
        "metrics": metrics,
    }


def _about(entry: Model) -> str:
    spec = entry.spec.pretrain
    what = f"`{spec.encoder}`, an encoder of images of {spec.pixels} x {spec.pixels} pixels"
    if not spec.weights:
        at = f"under {spec.recipe.attack} at {EPS}={format_epsilon(spec.epsilon)}"
        attack = at if spec.epsilon else "without an attack"
        how = f"pretrained on {spec.source} by contrastive learning, {attack}, {spec.recipe.epochs} epochs"
        return f"{what}, {how}, seed {spec.seed}, by rossbench."
    origin = entry.origin
    facts = [
        f"from: `{origin.get('from', 'unknown')}`",
        f"hash of weights, mean and std: `{spec.weights}`",
        f"normalisation of images in [0, 1]: mean {origin.get('mean')}, std {origin.get('std')}",
        *origin.get("notes", ()),
    ]
    return "\n".join([f"{what}, trained elsewhere.\n\n## Source weights\n", *(f"- {fact}" for fact in facts)])


def _table(group: Sequence[Model]) -> Table:
    columns = sorted({column for entry in group for column in entry.scores})
    lines = []
    for entry in group:
        labels = [entry.matrix.target, entry.finetuning, ", ".join(str(one.seed) for one in entry.matrices)]
        scores = [entry.scores.get(column) for column in columns]
        cells = [f"{one.text}{entry.mark} [{one.interval}]" if one else MISSING for one in scores]
        lines.append(([*labels, entry.summary], cells))
    return Table(
        title=f"Robust accuracy (%), {group[0].matrix.evaluation.attack}",
        labels=["task", "finetuned", "seeds", "audit"],
        columns=list(map(format_epsilon, columns)),
        lines=lines,
        notes=list(dict.fromkeys(note for entry in group for note in entry.notes)),
        caption="Test images that are right without the attack and under it; in brackets the 95 % interval, Wilson's, "
        "over several seeds at least as wide as their deviation; !: the audit failed, do not trust them",
    )


def _audits(some: Sequence[Model]) -> Iterator[str]:
    for entry in some:
        for seed, audit in entry.audits.items():
            worse = [one for one in audit.verdicts if one.verdict != "pass"]
            passed = f"{len(audit.verdicts) - len(worse)} of {len(audit.verdicts)} checks passed"
            about = f"**{entry.matrix.target}, {entry.finetuning}, seed {seed}: {audit.summary}**, {passed}"
            reasons = (f"- {one.verdict}, {one.check}: {one.figure}. {one.meaning}" for one in worse)
            yield "\n".join([f"{about} on {audit.images} test images.", *reasons])
    if not any(entry.audits for entry in some):
        yield "Not audited."


def _protocol(group: Sequence[Model]) -> str:
    """Attack, and how the classifiers were trained, as a table."""
    widest = max(group, key=lambda entry: entry.row[1])
    evaluation = widest.matrix.evaluation
    epsilons = sorted({column for entry in group for column in entry.scores})
    images = {entry.matrix.target: score.records[0].n for entry in group for score in entry.scores.values()}
    told = {
        "attack": evaluation.attack,
        "norm": widest.norm,
        EPS: ", ".join(map(format_epsilon, epsilons)) + ", in pixels of [0, 1]",
        "test images": ", ".join(f"{n} of {target}" for target, n in images.items()),
    }
    stages = ("pretraining.", "finetuning.", "evaluation.")
    told |= {name: item for name, item in settings(widest.matrix).items() if name.startswith(stages)}
    lines = ["| setting | value |", "|---|---|"]
    for name, item in told.items():
        plain = (", ".join(map(str, item)) or "none") if isinstance(item, (list, tuple)) else item
        lines.append(f"| {name} | {plain} |")
    return "\n".join(lines)


def _loading(entry: Model) -> str:
    spec = entry.spec.pretrain
    if spec.encoder.startswith(MODULE):
        name = spec.encoder.removeprefix(MODULE)
        return f"It is a Python module, `{name}`, which is built and loaded by its own code."
    own = spec.encoder.startswith(SMALL)
    _, _, stem = spec.encoder.split(",")[0].partition(":")
    return _LOADING.format(
        imports="from rossbench.models.encoders import build" if own else "import timm",
        model=f'build("{SMALL}", {spec.pixels}, seed=0).backbone' if own else 'timm.create_model(**facts["timm"])',
        stem=_STEM.format(padding=PADDINGS[stem]) if stem else "",
        size=spec.pixels,
    )
