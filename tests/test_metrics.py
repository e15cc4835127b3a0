import pytest
import torch
from sklearn.metrics import matthews_corrcoef, top_k_accuracy_score

from rossbench import metrics


@pytest.mark.parametrize("classes", [2, 5, 10, 100])
def test_counts_and_mcc_are_scikit_learns(generator, classes):
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
    expected = matthews_corrcoef(labels, ranked[:, 0])
    assert metrics.matthews(ranked[:, 0], labels, classes) == pytest.approx(expected, abs=1e-6)


def test_mcc_is_the_studys_equation(generator):
    """Equation 5.2, from the counts."""
    predicted, labels = torch.randint(0, 4, (2, 200), generator=generator)
    c, s = (predicted == labels).sum().double(), torch.tensor(200.0).double()
    t, p = labels.bincount(minlength=4).double(), predicted.bincount(minlength=4).double()
    expected = (c * s - t @ p) / ((s**2 - p @ p).sqrt() * (s**2 - t @ t).sqrt())
    assert metrics.matthews(predicted, labels, 4) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(("predicted", "mcc"), [([0, 1, 2, 0], 1), ([1, 2, 0, 1], -0.5), ([0, 0, 0, 0], 0)])
def test_mcc_of_known_cases(predicted, mcc):
    labels = torch.tensor([0, 1, 2, 0])
    assert metrics.matthews(torch.tensor(predicted), labels, 3) == pytest.approx(mcc, abs=1e-6)
