"""Nearest neighbours in frozen features as a classifier, and its accuracy under attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...attacks.table import Attack
from ...attacks.task import Draws, run_attack
from ...data.datasets import facts
from ..evaluate import moved
from .subject import Found, Subject

_STEP = 0.25
"""Length of a step, in epsilons."""


class KnnClassifier(nn.Module):
    """Weighted k nearest neighbours by cosine (Wu et al., 2018). forward: images in [0, 1] -> logits [n, classes].

    A neighbour votes for its class with exp(cosine / temperature), and a class's logit is the logarithm of its votes;
    the softmax of the logits is the share of votes. A class of which no image is among the k has the vote of its
    nearest one, which is less than any neighbour's: so every logit is finite, the order of the classes is by votes,
    and an image all of whose neighbours are of its class still has a gradient, towards the nearest image of another.
    A class without a training image has that of a cosine of -2.
    """

    bank: Tensor
    labels: Tensor

    def __init__(
        self, encoder: nn.Module, bank: Tensor, labels: Tensor, classes: int, neighbours: int, temperature: float
    ) -> None:
        """bank: features of training images, float [m, d] of length 1; labels: int64 [m]; neighbours: at most m."""
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.neighbours, self.temperature = min(neighbours, len(bank)), temperature
        self.register_buffer("bank", bank)
        self.register_buffer("labels", labels)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        votes = normalize(self.encoder(images)) @ self.bank.T / self.temperature  # logarithms of them
        none = votes.new_full((len(votes), self.classes), -2 / self.temperature)
        nearest = none.scatter_reduce(1, self.labels.expand_as(votes), votes, "amax")
        best, places = votes.topk(self.neighbours)
        owners = self.labels[places]
        # Relative to its class's largest vote none overflows, and of a class that votes the sum is at least 1.
        sums = torch.zeros_like(nearest).scatter_add(1, owners, (best - nearest.gather(1, owners)).exp())
        return nearest + sums.clamp(min=1).log()


def knn(subject: Subject) -> Found:
    """Top-1 accuracy of the nearest neighbours, natural and under PGD on their cross-entropy, in percent.

    As in the matrix of a scenario every image is attacked, and right is one that is right under the attack, whether or
    not it was without. PGD starts at random and takes steps of a quarter of epsilon.
    """
    kind, train = subject.kind, subject.train()
    bank = normalize(subject.outputs(subject.encoder, train.images))
    classes = facts(subject.target).classes
    classifier = KnnClassifier(subject.encoder, bank, train.labels, classes, kind.neighbours, kind.temperature)
    attack = Attack(norm=kind.norm, steps=kind.steps, step_size=_STEP, step_unit="epsilon")
    labels, epsilons = subject.labels, bank.new_tensor(subject.columns)
    right = (subject.outputs(classifier, subject.images).argmax(1) == labels).repeat(len(epsilons), 1)
    chosen = (epsilons > 0)[:, None].expand_as(right)

    def move(images: Tensor, which: Tensor, radii: Tensor, draws: Draws) -> Tensor:
        return run_attack(classifier, images, labels[which], attack, radii, draws)

    done = 0
    for batch in moved(move, subject.images, epsilons, chosen, subject.seed):
        predicted = subject.outputs(classifier, batch.images).argmax(1)
        right[batch.number, batch.image] = predicted == labels[batch.image]
        done += len(predicted)
        subject.progress(done / int(chosen.sum()))
    return Found({"accuracy (%)": (100 * right.float().mean(1)).tolist()}, right=right)
