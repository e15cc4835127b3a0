import dataclasses
import pickle

import numpy as np
import pytest
import torch
from conftest import tiny
from PIL import Image
from torchvision import transforms

from rossbench import registry
from rossbench.data import datasets, decoded
from rossbench.report.figure_data import FigureData, choose
from rossbench.runner import run
from rossbench.util.errors import InvalidValue, UnknownName

EMBEDDED = [name for name in datasets.DATASETS if name.startswith("digits")]


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("split", ["train", "test"])
def test_embedded_sets_are_as_the_facts_say(name, split):
    known, data = datasets.facts(name), datasets.load(name, split)
    assert data.images.shape == (getattr(known, split), 3, known.size, known.size)
    assert data.images.dtype == torch.uint8
    assert data.images.max() > 250
    assert data.labels.dtype == torch.int64
    assert data.labels.unique().tolist() == list(range(known.classes))


def test_train_and_test_digits_are_all_digits_and_share_none():
    parts = [datasets.load("digits", split) for split in ("train", "test")]
    images = torch.cat([part.images for part in parts]).flatten(1)
    assert len(images) == len(torch.unique(images, dim=0)) == 1797


def test_low_and_high_are_the_two_halves():
    for split in ("train", "test"):
        whole, low, high = (datasets.load(name, split) for name in ("digits", "digits-low", "digits-high"))
        assert torch.equal(whole.images[whole.labels < 5], low.images)
        assert torch.equal(whole.images[whole.labels >= 5], high.images)
        assert torch.equal(whole.labels[whole.labels >= 5] - 5, high.labels)


@pytest.mark.parametrize("size", [1, 8, 15, 33])
@pytest.mark.parametrize("limit", [None, 20])
def test_images_are_resized_as_torchvision_does(size, limit, monkeypatch):
    """To the bit as its Resize of uint8 tensors, in parts as at once, and so within rounding of that of floats."""
    monkeypatch.setattr(decoded, "CHUNK", 8 * 7 * 3 * 16 * 16)
    whole, small = datasets.load("digits", "test", limit), datasets.load("digits", "test", limit, size)
    resize = transforms.Resize((size, size), antialias=True)
    assert small.images.dtype == torch.uint8
    assert torch.equal(small.images, resize(whole.images))
    assert (small.images - resize(whole.images.double())).abs().max() <= 0.5 + 1e-3
    assert torch.equal(small.labels, whole.labels)
    assert small.fingerprint != whole.fingerprint
    assert datasets.load("digits", "test", limit, 16).fingerprint == whole.fingerprint


@pytest.mark.parametrize("limit", [10, 57, 100, 1200])
def test_a_limit_is_balanced_nested_and_the_same_every_time(limit):
    whole, part = datasets.load("digits", "train"), datasets.load("digits", "train", limit)
    counts = torch.bincount(part.labels, minlength=10)
    assert counts.sum() == len(part.images) == limit
    assert counts.max() - counts.min() <= (1 if limit < 1000 else 10)  # the smallest class runs out of images
    assert datasets.load("digits", "train", limit).fingerprint == part.fingerprint != whole.fingerprint
    larger = datasets.load("digits", "train", min(limit + 30, 1201))
    pool = {image.numpy().tobytes() for image in larger.images}
    assert all(image.numpy().tobytes() in pool for image in part.images)


@pytest.mark.parametrize("limit", [0, 9, 1202, -5])
def test_a_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(InvalidValue, match=f"expected 10 .* to 1201, got {limit}"):
        datasets.load("digits", "train", limit)


def test_an_unknown_set_gets_the_nearest_names():
    with pytest.raises(UnknownName, match="did you mean cifar100 or cifar10"):
        datasets.load("cifar1000", "train")


@pytest.mark.parametrize(
    ("name", "raw", "labels"),
    [
        ("cifar10", (32, 32, 3), "targets"),
        ("cifar100", (32, 32, 3), "targets"),
        ("svhn", (3, 32, 32), "labels"),
        ("mnist", (28, 28), "targets"),
        ("fashion-mnist", (28, 28), "targets"),
    ],
)
def test_torchvisions_sets_come_out_in_one_layout(monkeypatch, tmp_path, name, raw, labels):
    """Each set's own layout of pixels, as torchvision's class holds it, with every image of one shade."""
    from torchvision import datasets as tv

    known = datasets.DATASETS[name]
    count = known.classes * 3
    small = dataclasses.replace(known, train=count, test=count)
    monkeypatch.setitem(datasets.DATASETS, name, small)
    shades = np.arange(count, dtype=np.uint8)

    class Fake:
        def __init__(self, root, download, **arguments):
            assert arguments in ({"train": True}, {"split": "train"})
            self.data = np.broadcast_to(shades.reshape(-1, *[1] * len(raw)), (count, *raw))
            setattr(self, labels, (shades % known.classes).tolist())

    for cls in ("CIFAR10", "CIFAR100", "SVHN", "MNIST", "FashionMNIST"):
        monkeypatch.setattr(tv, cls, Fake)
    data = datasets.load(name, "train", data_dir=tmp_path)
    assert data.images.shape == (count, 3, known.size, known.size)
    assert torch.equal(data.images[:, 0, 0, 0], torch.from_numpy(shades))
    assert torch.equal(data.labels, torch.from_numpy(shades % known.classes).long())


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_cifar(cifar, name):
    """Shape and balance of the official files, and the first training image against the raw bytes."""
    for split, size in (("train", 50_000), ("test", 10_000)):
        data = datasets.load(name, split, data_dir=cifar)
        assert data.images.shape == (size, 3, 32, 32)
        assert len(data.labels.bincount().unique()) == 1
    first = {"cifar10": "cifar-10-batches-py/test_batch", "cifar100": "cifar-100-python/test"}[name]
    raw = pickle.loads((cifar / first).read_bytes(), encoding="bytes")
    assert torch.equal(data.images[0].flatten(), torch.from_numpy(raw[b"data"][0]))
    assert data.labels[0] == raw.get(b"labels", raw.get(b"fine_labels"))[0]
    meta = {"cifar10": "cifar-10-batches-py/batches.meta", "cifar100": "cifar-100-python/meta"}[name]
    words = pickle.loads((cifar / meta).read_bytes())
    assert list(datasets.facts(name).names) == words.get("label_names", words.get("fine_label_names"))


@pytest.mark.parametrize(("ways", "size"), [(("digits", "digits-8"), 8), (("digits-8", "digits"), 16)])
def test_digits_of_16_and_8_pixels_transfer_both_ways(own_registry, tmp_path, monkeypatch, ways, size):
    """A folder of the digits at 8 pixels; the encoder is built for the size of both, and features have it."""
    monkeypatch.setenv("ROSSBENCH_DATA", str(tmp_path / "data"))
    for split in ("train", "test"):
        data = datasets.load("digits", split, 60, 8)
        for k, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
            file = tmp_path / "digits-8" / split / str(int(label)) / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    registry.register_folder("digits-8", tmp_path / "digits-8", size=8)
    names = dict(zip(("source", "target"), ways, strict=True))
    one = dataclasses.replace(tiny(train_epsilons=(1,), size=size, **names), name="both")
    registry.register(one)
    records = run.run(one, store=tmp_path / "store", device="cpu")
    assert records[1, 1, 0.5].top1_right <= records[1, 1, 0].top1_right
    data = FigureData(tmp_path / "store", device="cpu")
    (model,) = choose(data.matrices(["both"]))
    assert model.spec.pretrain.pixels == size
    assert data.images(model).images.shape[2:] == (size, size)
    assert data.features(model, "encoder", limit=10)[0].shape == (10, 128 * (size // 8) ** 2)
