"""A linear classifier on an encoder (study, section 5.2)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config.recipes import Finetuning
from .encoders import Encoder


class Classifier(nn.Module):
    """An encoder and a linear layer. forward: images in [0, 1] -> logits [n, classes].

    Made in eval mode with the encoder's gradients off. A linear finetuning leaves it so: frozen are weights, BatchNorm
    statistics and mode; see Finetuning.trained for others.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.linear = nn.Linear(encoder.features, classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.encoder(images))
        return logits

    def learned(self, recipe: Finetuning) -> nn.Module:
        """What an optimizer moves."""
        return self if recipe.trained == "full" else self.linear

    def trained(self, recipe: Finetuning) -> nn.Module:
        """What a finetuning changes, and its artifact holds."""
        return self.linear if recipe.trained == "linear" else self
