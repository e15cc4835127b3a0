"""The study's protocol put together in an afternoon: PIL views in a DataLoader, torchattacks, lightly's loss.

What rossbench is measured against, in ``speed.py``. It shares nothing with rossbench but the libraries, and is meant
to be right, not bad: workers persist, the frozen encoder runs without gradients, and Adam is torch's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torchattacks
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.v2.functional import to_pil_image

WORKERS = 2


class Views(Dataset):
    """Two random views of each image, with the study's strengths (section 5.2); images: uint8 [n, 3, size, size]."""

    def __init__(self, images: Tensor, **changes: Any) -> None:
        self.images = [to_pil_image(image) for image in images]
        strengths = {"cj_bright": 0.8, "cj_contrast": 0.8, "cj_sat": 0.8, "cj_hue": 0.2, "gaussian_blur": 1.0}
        settings = {"input_size": images.shape[-1], "normalize": None, **strengths, **changes}
        self.transform = SimCLRTransform(**settings)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def loader(dataset: Dataset, batch_size: int) -> DataLoader:
    pinned = torch.cuda.is_available()
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
        pin_memory=pinned,
    )


class SimCLR(nn.Module):
    """A classifier of views, for torchattacks: the right class of a view is its partner."""

    def __init__(self, backbone: nn.Module, features: int, temperature: float) -> None:
        super().__init__()
        self.backbone, self.temperature = backbone, temperature
        self.head = SimCLRProjectionHead(features, features, 128, batch_norm=False)

    def project(self, views: Tensor) -> Tensor:
        return self.head(self.backbone(views))

    def forward(self, views: Tensor) -> Tensor:
        unit = nn.functional.normalize(self.project(views), dim=1)
        itself = torch.eye(len(unit), device=unit.device) > 0
        return (unit @ unit.T / self.temperature).masked_fill(itself, -torch.inf)


def resnet18(device: torch.device, temperature: float = 0.07) -> SimCLR:
    return SimCLR(timm.create_model("resnet18", num_classes=0), 512, temperature).to(device)


class Pretraining:
    """Call it with a batch of the loader: one step, which returns the loss."""

    def __init__(self, model: SimCLR, epsilon: float, learning_rate: float = 2e-4, **settings: Any) -> None:
        self.model = model.train()
        self.device = next(model.parameters()).device
        self.attack = torchattacks.PGDL2(model, eps=epsilon, alpha=1.0, steps=3, **settings) if epsilon else None
        self.loss = NTXentLoss(model.temperature)
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=1e-4)

    def __call__(self, batch: Sequence[Tensor]) -> float:
        views = torch.cat(list(batch[:2])).to(self.device)
        if self.attack is not None:
            views = self.attack(views, torch.arange(len(views)).roll(len(views) // 2))
        first, second = self.model.project(views).chunk(2)
        loss = self.loss(first, second)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def finetune(encoder: nn.Module, linear: nn.Linear, batches: DataLoader, epochs: int) -> None:
    """A linear layer on a frozen encoder, from batches of images in [0, 1] and labels."""
    device = linear.weight.device
    optimizer = torch.optim.Adam(linear.parameters(), lr=8e-5, weight_decay=8e-4)
    for _ in range(epochs):
        for images, labels in batches:
            with torch.no_grad():
                features = encoder(images.to(device))
            loss = nn.functional.cross_entropy(linear(features), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def evaluate(
    classifier: nn.Module, images: Tensor, labels: Tensor, epsilons: Sequence[float], batch_size: int, **settings: Any
) -> list[int]:
    """How many images, float in [0, 1], are right at each epsilon, one epsilon after the other."""
    device = next(classifier.parameters()).device
    batches = DataLoader(TensorDataset(images, labels), batch_size)
    counts = []
    for epsilon in epsilons:
        attack = torchattacks.PGDL2(classifier, eps=epsilon, alpha=3.0, **settings)
        right = 0
        for batch, targets in batches:
            adversarial = attack(batch, targets) if epsilon else batch.to(device)
            with torch.no_grad():
                right += (classifier(adversarial).argmax(1) == targets.to(device)).sum().item()
        counts.append(right)
    return counts
