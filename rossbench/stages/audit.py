"""Stage 4: verdicts on one classifier's numbers: can they be trusted?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..config.recipes import Evaluation
from ..config.specs import AuditSpec, FinetuneSpec
from ..store import artifacts
from ..store.records import Verdict
from ..util.errors import AttackError
from .audit_bench import Bench, audited
from .audit_checks import CHECKS
from .context import Context
from .train_loop import Hooks, Tick

LEARNED = "the encoder has learned something"


def build(specs: Sequence[AuditSpec], context: Context, hooks: Hooks) -> None:
    """Audit the evaluations of one classifier, and store what each check found."""
    (spec,) = specs
    data, classifier, began = context.data(spec), context.classifier(spec.finetune), time.perf_counter()
    other = None
    if spec.other:
        encoder = context.encoder(spec.other.pretrain)
        other = artifacts.load_classifier(context.store, spec.other, encoder).to(context.device)
    distances = artifacts.load_measured(context.store, spec.minimal)["distance"] if spec.minimal else None
    stored = {cell.epsilon: artifacts.load_predictions(context.store, cell)[0][:, 0] for cell in spec.cells}
    made = learned(spec.finetune, artifacts.load_history(context.store, spec.finetune.pretrain))
    given = classifier, data.images, data.labels, stored, spec.recipe, spec.seed
    verdicts = made + judge(*given, hooks, other, distances)
    seconds, images = time.perf_counter() - began, len(audited(data.labels))
    artifacts.save_audit(context.store, spec, verdicts, images, seconds, context.provenance())


def learned(spec: FinetuneSpec, history: Sequence[Mapping[str, float]]) -> list[Verdict]:
    """Whether the encoder was worth a classifier; no verdict where the history, an entry an epoch, is not known.

    A collapsed encoder fails, unless the finetuning trained it whole: then only what was pretrained is lost.
    """
    if not history:
        return []
    loss, pretrain = history[-1]["loss"], spec.pretrain
    figure = f"the pretraining ended at loss {loss:.3f}; of constant features: {pretrain.constant_loss:.3f}"
    if not pretrain.is_collapsed(loss):
        return [Verdict(LEARNED, "pass", figure, "Its loss is not that of constant features.")]
    meaning = "This encoder learned nothing: its loss is that of constant features; try " + pretrain.collapse_remedies
    return [Verdict(LEARNED, "warn" if spec.recipe.trained == "full" else "fail", figure, meaning + ".")]


def judge(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    predictions: Mapping[float, Tensor],
    recipe: Evaluation,
    seed: int,
    hooks: Hooks,
    other: nn.Module | None = None,
    distances: Tensor | None = None,
) -> list[Verdict]:
    """The verdict of every check that applies, those on the images and the classifier first.

    images: uint8 [n, 3, size, size]; labels: int64 [n]; predictions: by evaluation epsilon, the class that was stored
    for each image, int64 [n]; recipe: how they were made; other: a classifier for the same images; distances: of the
    smallest perturbation that is known of each image, float [n].
    """
    bench = Bench(classifier, images, labels, predictions, recipe, seed, other, distances)
    checks = [check for check in CHECKS if check.applies(bench)]
    verdicts = []
    for k, check in enumerate(checks):
        try:
            verdict, figure = check.look(bench)
        except AttackError as error:
            verdict, figure = "fail", str(error)
        verdicts.append(Verdict(check.name, verdict, figure, check.good if verdict == "pass" else check.bad))
        hooks.tick(Tick((k + 1) / len(checks), f"check {k + 1}/{len(checks)}", 0))
    return verdicts
