import pytest
import torch
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from rossbench.stages import metrics

CLASSES = [2, 5, 10, 100]


@pytest.mark.parametrize("classes", CLASSES)
def test_counts_are_scikit_learns(generator, classes):
    logits = torch.randn(500, classes, generator=generator)
    labels = torch.randint(0, classes, (500,), generator=generator)
    logits[torch.arange(500), labels] += 1
    ranked = metrics.top5(logits)
    top1, top5 = metrics.counts_right(ranked, labels).tolist()
    assert ranked.shape == (500, min(5, classes))
    assert top1 == (logits.argmax(1) == labels).sum()
    if classes > 5:
        right = top_k_accuracy_score(labels, logits, k=5, labels=range(classes), normalize=False)
        assert top5 == right
    else:
        assert top5 == 500


def predictions(kind, classes, generator):
    """Labels in which every class occurs, low ones more often, and predictions of them."""
    often = (torch.rand(2000, generator=generator) ** 2 * classes).long()
    labels = torch.cat([torch.arange(classes), often])
    guessed = torch.randint(0, classes, labels.shape, generator=generator)
    predicted = torch.where(torch.rand(len(labels), generator=generator) < 0.4, labels, guessed)
    if kind == "some classes never named":
        predicted = predicted // 2
    elif kind == "one class named only":
        predicted = torch.full_like(labels, classes - 1)
    elif kind == "all right":
        predicted = labels.clone()
    elif kind == "all wrong":
        predicted = (labels + 1) % classes
    return predicted, labels


KINDS = ["any", "some classes never named", "one class named only", "all right", "all wrong"]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_scikit_learns(generator, kind, classes):
    predicted, labels = predictions(kind, classes, generator)
    macro = {"average": "macro", "zero_division": 0}
    assert metrics.scores(predicted, labels, classes) == {
        "mcc": pytest.approx(matthews_corrcoef(labels, predicted), abs=1e-6),
        "precision": pytest.approx(precision_score(labels, predicted, **macro), abs=1e-6),
        "recall": pytest.approx(recall_score(labels, predicted, **macro), abs=1e-6),
        "f1": pytest.approx(f1_score(labels, predicted, **macro), abs=1e-6),
    }


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_confusion_is_scikit_learns_with_a_row_for_each_true_class(generator, kind, classes):
    predicted, labels = predictions(kind, classes, generator)
    counts = metrics.confusion(predicted, labels, classes)
    assert counts.dtype == torch.int64
    assert counts.tolist() == confusion_matrix(labels, predicted, labels=range(classes)).tolist()
    assert counts.sum(1).tolist() == labels.bincount(minlength=classes).tolist()
    assert counts.sum(0).tolist() == predicted.bincount(minlength=classes).tolist()


def test_mcc_is_the_studys_equation(generator):
    """Equation 5.2, from the counts."""
    predicted, labels = torch.randint(0, 4, (2, 200), generator=generator)
    c, s = (predicted == labels).sum().double(), torch.tensor(200.0).double()
    t, p = labels.bincount(minlength=4).double(), predicted.bincount(minlength=4).double()
    expected = (c * s - t @ p) / ((s**2 - p @ p).sqrt() * (s**2 - t @ t).sqrt())
    assert metrics.scores(predicted, labels, 4)["mcc"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "mcc", "precision", "recall", "f1"),
    [
        ([0, 1, 2, 0], 1, 1, 1, 1),
        ([1, 2, 0, 1], -0.5, 0, 0, 0),
        ([0, 0, 0, 0], 0, 1 / 6, 1 / 3, 2 / 9),
        ([0, 1, 2, 2], 0.7, 5 / 6, 5 / 6, 7 / 9),
    ],
)
def test_scores_of_known_cases(predicted, mcc, precision, recall, f1):
    """Of the labels 0, 1, 2, 0; the last case is (3 * 4 - 5) / sqrt(16 - 6) / sqrt(16 - 6), by equation 5.2."""
    found = metrics.scores(torch.tensor(predicted), torch.tensor([0, 1, 2, 0]), 3)
    assert found == pytest.approx({"mcc": mcc, "precision": precision, "recall": recall, "f1": f1}, abs=1e-6)
