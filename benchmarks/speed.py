"""rossbench beside the naive pipeline and beside the floor, in turn in one process; prints ratios with their spread.

``python benchmarks/speed.py [--device cuda] [--rounds 5] [PART ...]``. First it checks that both compute the same, then
it measures. Images are random and of 32 pixels, the encoder is a ResNet-18 with the ImageNet stem, settings are the
study's where nothing else is said. The floor is a bare loop of the same forward and backward passes, without views,
optimizer or attack bookkeeping.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import naive
import timm
import torch
import torchattacks
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rossbench import get
from rossbench.attacks import pgd
from rossbench.config.recipes import Attack, Augmentation, Evaluation, Finetuning, Pretraining
from rossbench.config.specs import EvaluateSpec, FinetuneSpec, PretrainSpec
from rossbench.data import datasets
from rossbench.models import encoders
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import partners
from rossbench.stages.augment import two_views
from rossbench.stages.evaluate import evaluate
from rossbench.stages.finetune import finetune
from rossbench.stages.pretrain import pretrain
from rossbench.stages.train_loop import Hooks, Tick

BATCH = 256
GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
RIGHT = 0.75
"""Share of the evaluated images that are right without an attack: as of the study's plain model on CIFAR-10 (5.1)."""
Contenders = dict[str, Callable[[], float]]
"""Each measures itself once, in seconds."""


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    began = clock(device)
    work()
    return clock(device) - began


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


def pretraining_spec(epsilon: float, **changes: Any) -> PretrainSpec:
    return PretrainSpec("cifar10", None, "resnet18", epsilon, Pretraining(epochs=1, **changes))


# --- parts ---------------------------------------------------------------------------------------------------


def views(device: torch.device) -> Contenders:
    """Two views of each of 2,048 images, blur on; naive: two workers."""
    images = pixels(8 * BATCH)
    here = images.to(device)
    batches = naive.loader(naive.Views(images), BATCH)

    def ours() -> None:
        for some in here.split(BATCH):
            two_views(some, Augmentation())

    return {
        "rossbench": partial(timed, device, ours),
        "naive": partial(timed, device, lambda: [torch.cat(pair).to(device) for pair in batches]),
    }


def step(device: torch.device, epsilon: float) -> Contenders:
    """A pretraining step, in its steady state: the loader's workers are ahead, a CUDA graph is recorded."""
    first, count = (6, 50) if device.type == "cuda" else (2, 4)
    images = pixels((first + count) * BATCH).to(device)
    model = naive.resnet18(device)
    train = naive.Pretraining(model, epsilon)
    batches = naive.loader(naive.Views(pixels((8 + count) * BATCH)), BATCH)

    def ours(**changes: Any) -> float:
        stamps: list[float] = []

        def tick(tick: Tick) -> None:
            if tick.images:
                stamps.append(clock(device) if len(stamps) in (first - 1, first + count - 1) else 0.0)

        pretrain(pretraining_spec(epsilon, **changes), images, Hooks(tick))
        return (stamps[first + count - 1] - stamps[first - 1]) / count

    def theirs() -> float:
        following: Iterator[list[Tensor]] = iter(batches)
        for batch in itertools.islice(following, 4):
            train(batch)
        seconds = timed(device, lambda: [train(batch) for batch in itertools.islice(following, count)]) / count
        list(following)  # so that no worker is busy when the next is measured
        return seconds

    return {
        "rossbench": ours,
        "channels last": partial(ours, channels_last=True),
        "naive": theirs,
        "floor": partial(floor, device, 3 if epsilon else 0, count),
    }


def floor(device: torch.device, attack_steps: int, count: int) -> float:
    model = naive.resnet18(device)
    inputs, labels = torch.rand(2 * BATCH, 3, 32, 32, device=device), partners(2 * BATCH, device)

    def work() -> None:
        model.eval()
        for _ in range(attack_steps):
            leaf = inputs.requires_grad_()
            torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels), leaf)
        model.train()
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs.detach()), labels).backward()

    work()
    return timed(device, lambda: [work() for _ in range(count)]) / count


def finetuning(device: torch.device) -> Contenders:
    """100 epochs of standard finetuning on 2,560 images; naive: one epoch, times 100."""
    images, labels = pixels(10 * BATCH), torch.randint(0, 10, (10 * BATCH,))
    spec = FinetuneSpec(pretraining_spec(0), "cifar10", None, 0.0, Finetuning())
    encoder = encoders.build("resnet18", 32, seed=0).to(device)
    theirs = timm.create_model("resnet18", num_classes=0).to(device).eval()
    batches = naive.loader(TensorDataset(images.float() / 255, labels), BATCH)
    linear = nn.Linear(512, 10).to(device)
    here, targets = images.to(device), labels.to(device)
    return {
        "rossbench": partial(timed, device, lambda: finetune(spec, encoder, here, targets, 10, Hooks())),
        "naive": lambda: 100 * timed(device, lambda: naive.finetune(theirs, linear, batches, 1)),
    }


def evaluation(device: torch.device) -> Contenders:
    """The six epsilons; rossbench with the literal count, and with the leaderboards' count."""
    count, steps = (10_240, 20) if device.type == "cuda" else (512, 4)
    classifier = Classifier(encoders.build("resnet18", 32, seed=0), 10).to(device).requires_grad_(False)
    theirs = nn.Sequential(timm.create_model("resnet18", num_classes=0), nn.Linear(512, 10)).to(device).eval()
    images, recipe = pixels(count), Evaluation(Attack(steps=steps, step_size=3.0))
    here = images.to(device)
    with torch.no_grad():
        found = torch.cat([classifier(some.float() / 255).argmax(1) for some in here.split(BATCH)])
    labels = torch.where(torch.arange(count, device=device) < RIGHT * count, found, (found + 1) % 10)
    finetuned = FinetuneSpec(pretraining_spec(0), "cifar10", None)

    def ours(recipe: Evaluation) -> None:
        evaluate([EvaluateSpec(finetuned, None, e, recipe) for e in GRID], classifier, here, labels, Hooks())

    natural, targets = images.float() / 255, labels.cpu()
    return {
        "rossbench": partial(timed, device, lambda: ours(recipe)),
        "leaderboard": partial(timed, device, lambda: ours(replace(recipe, attacked="correct"))),
        "naive": partial(
            timed, device, lambda: naive.evaluate(theirs, natural, targets, GRID, batch_size=1024, steps=steps)
        ),
    }


def saving(device: torch.device, epsilon: float) -> Contenders:
    """Four epochs on all digits, with a state saved after each; floor: without."""
    spec, data = get("digits").cells[epsilon, epsilon, 0].finetune.pretrain, datasets.load("digits", "train").to(device)
    spec = replace(spec, recipe=replace(spec.recipe, epochs=4))

    def train(hooks: Hooks) -> float:
        return timed(device, lambda: pretrain(spec, data.images, hooks))

    def saved() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return train(Hooks(resume=Path(folder) / "state.pt"))

    return {"rossbench": saved, "floor": lambda: train(Hooks())}


PARTS: dict[str, tuple[str, Callable[[torch.device], Contenders]]] = {
    "views": ("two views of 2,048 images", views),
    "plain": ("plain pretraining step, 256 images", partial(step, epsilon=0.0)),
    "adversarial": ("adversarial pretraining step, K = 3", partial(step, epsilon=1.0)),
    "finetuning": ("standard finetuning, 100 epochs", finetuning),
    "evaluation": ("evaluation at six epsilons", evaluation),
    "saving": ("four plain epochs on digits, each saved", partial(saving, epsilon=0.0)),
    "saving-adversarial": ("four adversarial epochs on digits, each saved", partial(saving, epsilon=1.0)),
}


def measure(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    for contender in contenders.values():
        contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    return seconds


def rows(text: str, seconds: dict[str, list[float]]) -> Iterator[str]:
    """A line for each thing beside which rossbench is put; the ratio says how many times as long the second takes."""
    pairs = [(name, "naive") for name in seconds if name not in ("naive", "floor")] if "naive" in seconds else []
    pairs += [("floor", "rossbench")] if "floor" in seconds else []
    for one, other in pairs:
        ratios = sorted(b / a for a, b in zip(seconds[one], seconds[other], strict=True))
        first, second = (statistics.median(seconds[name]) for name in (one, other))
        middle = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        yield f"| {text} | {one} {first:.4g} s | {other} {second:.4g} s | {middle} |"


# --- the same results ----------------------------------------------------------------------------------------


def same_images(device: torch.device) -> str:
    """Adversarial images, bit for bit, of the same seed; those of stacked epsilons without a random start."""
    model = Classifier(encoders.build("resnet18", 32, seed=0), 10).to(device)
    plain = Classifier(encoders.build("resnet18", 32, seed=0), 10).to(device)
    plain.load_state_dict(model.state_dict())
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d  # torch's own, as the naive pipeline has it
    images, labels = torch.rand(64, 3, 32, 32, device=device), torch.randint(0, 10, (64,), device=device)
    worst = 0.0
    for epsilon in GRID[1:]:
        made = []
        torch.manual_seed(1)
        made.append(pgd.perturb(model, images, labels, Attack(steps=20, step_size=3.0), epsilon)[0])
        torch.manual_seed(1)
        floor = pgd.EPS_FOR_DIVISION
        made.append(torchattacks.PGDL2(plain, epsilon, 3.0, 20, eps_for_division=floor)(images, labels))
        worst = max(worst, (made[0] - made[1]).abs().max().item())
    return f"adversarial images of one seed, 20 steps: largest difference of a pixel {worst:.2g}"


def same_losses(device: torch.device, epsilon: float, seeds: int = 4) -> str:
    """Contrastive loss of the sixth epoch on digits, in both pipelines, over seeds."""
    data, recipe = datasets.load("digits", "train"), replace(get("digits").recipe.pretraining, epochs=6)
    crops = {"cj_prob": 0, "random_gray_scale": 0, "hf_prob": 0, "gaussian_blur": 0, "min_scale": 0.7}
    batches = naive.loader(naive.Views(data.images, **crops), recipe.batch_size)
    losses: dict[str, list[float]] = {"rossbench": [], "naive": []}
    for seed in range(seeds):
        spec = PretrainSpec("digits", None, "conv3", epsilon, recipe, seed)
        losses["rossbench"].append(pretrain(spec, data.images.to(device), Hooks())[1][-1]["loss"])
        torch.manual_seed(seed)
        backbone = encoders.build("conv3", 16, seed=seed).backbone
        model, floor = naive.SimCLR(backbone, 512, 0.5).to(device), pgd.EPS_FOR_DIVISION
        train = naive.Pretraining(model, epsilon, recipe.learning_rate, eps_for_division=floor)
        epochs = [[train(batch) for batch in batches] for _ in range(recipe.epochs)]
        losses["naive"].append(statistics.mean(epochs[-1]))
    means = {name: statistics.mean(values) for name, values in losses.items()}
    errors = {name: statistics.stdev(values) / seeds**0.5 for name, values in losses.items()}
    apart = abs(means["rossbench"] - means["naive"]) / (errors["rossbench"] ** 2 + errors["naive"] ** 2) ** 0.5
    if apart > 4:
        raise SystemExit(f"the losses differ by {apart:.1f} standard errors: {losses}")
    both = " and ".join(f"{name} {means[name]:.3f} ± {errors[name]:.3f}" for name in losses)
    return f"loss after 6 epochs on digits, ε = {epsilon:g}, {seeds} seeds: {both}, {apart:.1f} standard errors apart"


def same_counts(device: torch.device) -> str:
    """Right predictions of one classifier of digits under PGD without a random start: both must count the same."""
    train, test = (datasets.load("digits", split).to(device) for split in ("train", "test"))
    cell = get("digits").cells[0.0, 0.0, 0.5]
    recipe = replace(cell.finetune.recipe, epochs=5)
    encoder = encoders.build("conv3", 16, seed=0).to(device)
    spec = replace(cell.finetune, recipe=recipe)
    classifier, _ = finetune(spec, encoder, train.images, train.labels, 10, Hooks())
    settings = Evaluation(Attack(steps=20, step_size=3.0, random_start=False))
    specs = [replace(cell, epsilon=e, recipe=settings) for e in GRID]
    found = evaluate(specs, classifier, test.images, test.labels, Hooks())
    ours = [int((ranked[:, 0] == test.labels.cpu()).sum()) for ranked in found.attacked]
    natural = test.images.cpu().float() / 255
    division = {"random_start": False, "eps_for_division": pgd.EPS_FOR_DIVISION}
    theirs = naive.evaluate(classifier, natural, test.labels.cpu(), GRID, 1024, steps=20, **division)
    if ours != theirs:
        raise SystemExit(f"expected the same counts, got {ours} and {theirs}")
    return f"right of {len(test.labels)} digits at six epsilons: {ours}, the same in both"


# --- all together --------------------------------------------------------------------------------------------


def machine(device: torch.device) -> str:
    names = ("torch", "torchvision", "lightly", "torchattacks", "timm")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return f"{datetime.date.today()}, {what}, Python {platform.python_version()}, {versions}"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"expected parts out of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    print(f"{machine(options.device)}; {options.rounds} rounds\n")
    for check in (same_images, partial(same_losses, epsilon=0.0), partial(same_losses, epsilon=1.0), same_counts):
        print(f"- {check(options.device)}")
    print("\n| what | | beside | median ratio (least to most) |\n|---|---|---|---|")
    for name in options.parts or PARTS:
        text, contenders = PARTS[name]
        for row in rows(text, measure(contenders(options.device), options.rounds)):
            print(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
