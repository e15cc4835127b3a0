"""Views a second: rossbench's batched ones against lightly's SimCLRTransform in a DataLoader of two workers.

``python benchmarks/views.py [ROUNDS]`` interleaves the two in one process and prints medians and their ratio. Both make
two views of 32 x 32 images with crop, flip, jitter, grayscale and blur; lightly's are the defaults but for the
study's strengths.
"""

import statistics
import sys
import time

import torch
from lightly.transforms import SimCLRTransform
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import to_pil_image

from rossbench.recipe import Augmentation
from rossbench.views import two_views

COUNT, BATCH = 2048, 256


class Images(Dataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = [to_pil_image(image) for image in images]
        self.transform = SimCLRTransform(
            input_size=32, cj_bright=0.8, cj_contrast=0.8, cj_sat=0.8, cj_hue=0.2, gaussian_blur=1.0, normalize=None
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(self.images[index])


def ours(images: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    for batch in images.split(BATCH):
        two_views(batch, Augmentation(), generator)


def theirs(loader: DataLoader) -> None:
    for _ in loader:
        pass


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8)
    loader = DataLoader(Images(images), batch_size=BATCH, num_workers=2, persistent_workers=True)
    theirs(loader)  # starts the workers
    rates: dict[str, list[float]] = {"rossbench": [], "lightly": []}
    for _ in range(rounds):
        for name, make in (("rossbench", lambda: ours(images)), ("lightly", lambda: theirs(loader))):
            began = time.perf_counter()
            make()
            rates[name].append(2 * COUNT / (time.perf_counter() - began))
    for name, values in rates.items():
        print(f"{name:10} {statistics.median(values):9,.0f} views/s  ({min(values):,.0f} to {max(values):,.0f})")
    ratios = sorted(a / b for a, b in zip(rates["rossbench"], rates["lightly"], strict=True))
    print(f"ratio      {statistics.median(ratios):9.1f}          ({ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
