"""Folders of images as data sets: what is found, what is refused, and that files give what tensors give."""

import dataclasses
import random
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import refusal, tiny
from PIL import Image
from torchvision import datasets as tv
from torchvision import transforms

from rossbench import registry
from rossbench.config.scenarios import Scenario
from rossbench.data import datasets, image_folder
from rossbench.data.image_folder import ImageFiles
from rossbench.models.classifier import Classifier
from rossbench.models.simclr import build
from rossbench.report.figure_data import Gallery, choose
from rossbench.runner import run as runner
from rossbench.stages import pretrain, train_loop
from rossbench.stages.finetune import finetune
from rossbench.stages.train_loop import Hooks
from rossbench.util.errors import DataError, InvalidValue
from rossbench.util.signals import Interrupted

pytestmark = pytest.mark.usefixtures("own_registry")
CLASSES = ["Zaunkönig", "a & b|c", "great tit", "ξ 50% $x_$"]
SIZE = 32


def picture(rng, mode="RGB", size=(40, 36)):
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)).resize(size))
    return (
        Image.fromarray(pixels, "RGBA").convert(mode) if mode != "P" else Image.fromarray(pixels[..., 0]).convert("P")
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Of each of four classes 12 images in train/ and 6 in test/, in several forms, some of them in deeper folders."""
    root, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name in CLASSES:
            place = root / split / name
            (place / "more" / "still").mkdir(parents=True)
            for k in range(count):
                deeper = place / "more" / "still" if k == 3 else place / "more" if k == 4 else place
                ending, mode = [("jpg", "RGB"), ("PNG", "RGB"), ("jpeg", "L"), ("png", "RGBA"), ("png", "P")][k % 5]
                picture(rng, mode, (36 + 5 * (k % 3), 33 + 4 * (k % 4))).save(deeper / f"{9 - k} {k}.{ending}")
            (place / "notes.txt").write_text("no image")
        (root / split / "list.csv").write_text("no class")
    return root


@pytest.fixture
def own(world, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(world, tmp_path / "own")


@pytest.fixture
def birds(world):
    return registry.register_folder("birds", world, size=SIZE)


@pytest.fixture
def in_files(monkeypatch):
    """Nothing is little enough to be decoded at once."""
    monkeypatch.setattr(image_folder, "IN_MEMORY", 0)


def test_the_facts_are_found_without_torch(world):
    code = (
        "import sys; from rossbench.registry import register_folder; import rossbench.datasets as d\n"
        f"register_folder('birds', {str(world)!r}, size={SIZE}); known = d.facts('birds')\n"
        f"assert (known.names, known.size, known.train, known.test) == ({tuple(sorted(CLASSES))!r}, {SIZE}, 48, 24)\n"
        "assert not {'torch', 'numpy', 'PIL', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_labels_and_pixels_are_those_of_torchvision(world, birds, split):
    square = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()])
    theirs = tv.ImageFolder(str(world / split), square)
    found, data = image_folder.find(world, split), datasets.load("birds", split)
    assert [str(world / split / file) for file in found.files] == [path for path, _ in theirs.samples]
    assert found.names == tuple(theirs.classes) == birds.names
    assert image_folder.ENDINGS == tv.folder.IMG_EXTENSIONS
    assert torch.equal(data.images, torch.stack([image for image, _ in theirs]))
    assert data.labels.tolist() == theirs.targets
    assert (data.images.dtype, data.labels.dtype) == (torch.uint8, torch.int64)


def test_gray_palette_and_transparent_images_become_rgb(tmp_path):
    """Each of one colour, which is known; a palette with transparency warns of nothing."""
    made = {
        "L": ((90,), 90, 90, 90),
        "RGB": ((1, 2, 3), 1, 2, 3),
        "RGBA": ((9, 8, 7, 3), 9, 8, 7),
        "1": ((1,), *[255] * 3),
    }
    for mode, (colour, *_) in made.items():
        Image.new(mode, (40, 50), colour if len(colour) > 1 else colour[0]).save(tmp_path / f"{mode}.png")
    palette = Image.new("P", (40, 50), 1)
    palette.putpalette([0, 0, 0, 50, 60, 70])
    palette.save(tmp_path / "P.png", transparency=bytes([0, 128]))
    made["P"] = (None, 50, 60, 70)
    images = ImageFiles(tmp_path, [f"{mode}.png" for mode in made], 8)[:]
    for image, (_, *rgb) in zip(images, made.values(), strict=True):
        assert torch.equal(image, torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8))


def test_val_is_taken_for_test_unless_there_is_a_test(own, birds):
    (own / "test").rename(own / "val")
    assert registry.register_folder("other", own, size=SIZE).test == 24
    same, other = datasets.load("birds", "test"), datasets.load("other", "test")
    assert torch.equal(same.images, other.images)
    assert same.fingerprint == other.fingerprint
    shutil.copytree(own / "train", own / "test")
    assert registry.register_folder("third", own, size=SIZE).test == 48


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: shutil.rmtree(root), "expected a folder, got .*, which is not there"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "expected a folder, got .*, which is a file"),
        (lambda root: shutil.rmtree(root / "train"), "expected train/ in .*, got none"),
        (lambda root: shutil.rmtree(root / "test"), "expected test/ or val/ in .*, got none"),
        (
            lambda root: shutil.rmtree(root / "test" / CLASSES[0]),
            "one set of classes, got Zaunkönig in one split alone",
        ),
        (lambda root: (root / "train" / CLASSES[2]).rename(root / "train" / "tit"), "got great tit, tit in one split"),
        (lambda root: (root / "train" / "empty").mkdir(), "of every class in .*, got none of empty"),
        (lambda root: [shutil.rmtree(root / "train" / n) for n in CLASSES[1:]], r"at least 2 classes in .*\['Zaunk"),
        (lambda root: (root / "train" / CLASSES[2]).rename(root / "train" / "a\nb"), r"printable .*, got 'a\\nb'"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_one_line(own, spoil, expected):
    spoil(own)
    said = refusal(lambda: registry.register_folder("own", own, size=SIZE))
    assert re.match(f"data set 'own': expected .*{expected.removeprefix('expected ')}", said), said
    assert "own" not in datasets.DATASETS


@pytest.mark.parametrize("name", ["Birds", "", "../x", "a b", "-x", "x" * 65, 3, None])
def test_a_badly_spelled_name_is_refused(world, name):
    with pytest.raises(InvalidValue, match="data set name: expected lower-case letters"):
        registry.register_folder(name, world, size=SIZE)


@pytest.mark.parametrize("name", ["cifar10", "digits", "birds"])
def test_a_name_that_is_taken_is_refused(world, birds, name):
    before = dict(datasets.DATASETS)
    with pytest.raises(InvalidValue, match=f"data set '{name}' is registered already; choose another name"):
        registry.register_folder(name, world, size=SIZE)
    assert before == datasets.DATASETS


@pytest.mark.parametrize("size", [0, -1, 5000, 32.0, "32", True, None])
def test_a_size_that_is_none_is_refused(world, size):
    with pytest.raises(InvalidValue, match=r"'own': expected a whole number of pixels in \[1, 4096\] as size, got"):
        registry.register_folder("own", world, size=size)


@pytest.mark.parametrize("path", [3, None, "a\0b", "~nobody-of-that-name/x"])
def test_what_is_no_path_is_refused(path):
    assert refusal(lambda: registry.register_folder("own", path, size=SIZE)).startswith("data set 'own': ")


def test_a_folder_that_has_changed_since_is_said_to(own):
    registry.register_folder("own", own, size=SIZE)
    picture(np.random.default_rng(1)).save(own / "test" / CLASSES[0] / "new.png")
    with pytest.raises(DataError, match="own test: expected the 24 images of 4 classes that were there, got 25 of 4"):
        datasets.load("own", "test")
    shutil.rmtree(own)
    assert "is not there" in refusal(lambda: datasets.load("own", "test"))


def test_a_file_that_is_not_there_any_more_is_named(own, in_files):
    registry.register_folder("own", own, size=SIZE)
    gone = next((own / "train" / CLASSES[0]).glob("*.jpg"))
    gone.unlink()
    gone.symlink_to("nothing")
    assert refusal(lambda: datasets.load("own", "train")).startswith(f"{gone}: expected a file that can be read, got")


def test_names_of_results_hold_no_path(world, own):
    keys = []
    for root in (world, own):
        registry.register_folder("birds", root, size=SIZE)
        keys.append([spec.key for spec in scenario().cells.values()])
        del datasets.DATASETS["birds"]
    assert keys[0] == keys[1]


def test_the_fingerprint_is_of_names_sizes_labels_and_pixels_but_not_of_the_place(world, own, birds):
    registry.register_folder("moved", own, size=SIZE)
    whole = datasets.load("birds", "train").fingerprint
    assert datasets.load("moved", "train").fingerprint == whole
    registry.register_folder("smaller", own, size=SIZE - 1)
    prints = {whole, datasets.load("birds", "test").fingerprint, datasets.load("birds", "train", 20).fingerprint}
    prints.add(datasets.load("smaller", "train").fingerprint)
    file = next((own / "train" / CLASSES[1]).glob("*.jpg"))
    file.write_bytes(file.read_bytes() + b"\0")
    prints.add(datasets.load("moved", "train").fingerprint)
    file.rename(file.with_name("other.jpg"))
    prints.add(datasets.load("moved", "train").fingerprint)
    file.with_name("other.jpg").rename(own / "train" / CLASSES[0] / "other.jpg")
    prints.add(datasets.load("moved", "train").fingerprint)
    assert len(prints) == 7


@pytest.mark.parametrize("limit", [4, 10, 30])
def test_a_limit_is_that_part_of_all_and_opens_nothing_else(birds, monkeypatch, limit):
    whole, opened = datasets.load("birds", "train"), []
    decode = ImageFiles.decode
    monkeypatch.setattr(
        ImageFiles, "decode", lambda self, place, into: (opened.append(self.files[place]), decode(self, place, into))
    )
    part = datasets.load("birds", "train", limit)
    chosen = torch.from_numpy(datasets.balanced(whole.labels.numpy(), limit))
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.labels, whole.labels[chosen])
    assert len(opened) == len(set(opened)) == limit
    assert part.labels.bincount().max() - part.labels.bincount().min() <= 1


def test_what_stands_for_a_tensor_gives_what_it_gives(birds, monkeypatch):
    """Whatever order it is asked in, and whatever was begun before."""
    images = datasets.load("birds", "train").images
    monkeypatch.setattr(image_folder, "IN_MEMORY", images.numel() - 1)
    files = datasets.load("birds", "train").images
    assert isinstance(files, ImageFiles)
    assert (files.shape, len(files), files.device) == (images.shape, len(images), images.device)
    mask = torch.arange(48) % 3 == 0
    indices = [0, -1, 47, slice(0, 7), slice(7, 14), slice(14, 21), slice(3, None, 2), slice(5, 5), slice(40, 90), mask]
    indices += [torch.arange(10), torch.arange(10, 20), torch.tensor([3, 3, 1]), torch.tensor([-1, 5]), slice(None)]
    random.Random(0).shuffle(indices)
    for index in [*indices, *reversed(indices)]:
        assert torch.equal(files[index], images[index]), index
    for size in (1, 7, 24, 48, 100):
        ours, theirs = list(files.split(size)), images.split(size)
        assert len(ours) == len(theirs)
        assert all(map(torch.equal, ours, theirs))
    for index in (48, torch.tensor([3, 48])):
        with pytest.raises(IndexError):
            files[index]


def test_batches_are_read_ahead_and_in_a_step_it_is_work_on_the_device(birds, in_files, no_waiting):
    files = datasets.load("birds", "train").images
    images, order = files.decoded(), torch.randperm(48, generator=torch.Generator().manual_seed(0))
    for size in (7, 5, 48):
        seen, places = [], set()
        for indices in image_folder.ahead(files, order.split(size)):
            with no_waiting:
                batch = files[indices]
                half = files[indices.flip(0)[: len(indices) // 2]]
            assert torch.equal(batch, images[indices])
            assert torch.equal(half, images[indices.flip(0)[: len(indices) // 2]])
            places.add(files._batch.pixels.data_ptr())
            seen += indices.tolist()
        assert seen == order.tolist()
        assert len(places) == 1  # where a recorded step looks for it
    for indices in image_folder.ahead(files, order.split(7)):
        outside = next(k for k in range(48) if k not in indices.tolist())
        with pytest.raises(IndexError):
            files[torch.tensor([outside])]
        break
    assert torch.equal(files[order], images[order])  # as before
    assert list(image_folder.ahead(files, [])) == []


def test_what_is_not_wanted_any_more_is_not_decoded(birds, in_files, monkeypatch):
    monkeypatch.setenv("ROSSBENCH_WORKERS", "1")
    files, gate, decoded = datasets.load("birds", "train").images, threading.Event(), []
    monkeypatch.setattr(files, "decode", lambda place, into: (gate.wait(10), decoded.append(place)))
    reading = image_folder._Reading(files, list(range(40)))
    reading.cancel()
    gate.set()
    files.pool.shutdown()
    assert len(decoded) <= 1


@pytest.mark.parametrize("how", ["tensor", "files"])
@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"not\nan image", lambda raw: raw[:30] + b"x" * 99],
)
def test_what_cannot_be_decoded_is_named_in_one_line(own, monkeypatch, how, damage):
    if how == "files":
        monkeypatch.setattr(image_folder, "IN_MEMORY", 0)
    broken = sorted((own / "train" / CLASSES[1]).glob("*.jpg"))[0]
    broken.write_bytes(damage(broken.read_bytes()))
    registry.register_folder("own", own, size=SIZE)
    said = refusal(lambda: list(datasets.load("own", "train").images.split(5)))
    assert said.startswith(f"{broken}: expected an image that can be decoded, got ")
    assert datasets.load("own", "test").images[:].shape == (24, 3, SIZE, SIZE)


def scenario(**changes):
    recipe = dataclasses.replace(
        tiny().recipe,
        pretraining=dataclasses.replace(tiny().recipe.pretraining, epochs=2, batch_size=14, normalize=True),
        evaluation=dataclasses.replace(tiny().recipe.evaluation, batch_size=9),
    )
    basics = {"recipe": recipe, "encoder": "conv3", "train_epsilons": (0, 1), "eval_epsilons": (0, 0.5)}
    return Scenario("birds-to-birds", source="birds", target="birds", **{**basics, **changes})


def outcome(store, **changes):
    """Of a run and its audit: all that is not a time."""
    one = scenario(**changes)
    if one.name not in registry.names():
        registry.register(one)
    cells = runner.run(one, store=store, device="cpu")
    audits = runner.audit([one.name], store=store, device="cpu")
    told = {place: dataclasses.asdict(record) for place, record in cells.items()}
    for record in told.values():
        for name in ("seconds", "created", "provenance"):
            record.pop(name)
    prints = [[record.provenance[stage]["data"] for stage in ("pretrain", "evaluate")] for record in cells.values()]
    weights = {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}
    assert weights
    return told, prints, weights, [audit.verdicts for audit in audits.values()]


@pytest.fixture(scope="module")
def in_memory(world, tmp_path_factory):
    """What a run gives with its images in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "DATASETS", dict(datasets.DATASETS))
        patch.setattr(registry, "_scenarios", dict(registry._scenarios))
        registry.register_folder("birds", world, size=SIZE)
        return outcome(tmp_path_factory.mktemp("in-memory"))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_from_files_is_the_run_in_memory(in_memory, birds, in_files, monkeypatch, tmp_path, threads):
    """Weights to the bit, records and verdicts, with any number of workers."""
    monkeypatch.setenv("ROSSBENCH_WORKERS", str(threads))
    monkeypatch.setattr(ImageFiles, "decoded", None)
    assert outcome(tmp_path) == in_memory


def test_a_run_of_files_that_is_interrupted_goes_on_where_it_was(birds, in_files, monkeypatch, tmp_path):
    spec = next(iter(scenario(train_epsilons=(1,)).cells.values())).finetune.pretrain
    images = datasets.load("birds", "train").images
    whole, _ = pretrain.pretrain(spec, images, Hooks())

    def stop(tick):
        if "epoch 2" in tick.position:
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        pretrain.pretrain(spec, images, Hooks(stop, tmp_path / "state"))
    again, _ = pretrain.pretrain(spec, images, Hooks(resume=tmp_path / "state"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_full_finetuning_reads_files_too(birds, monkeypatch):
    one = scenario(train_epsilons=(1,))
    recipe = dataclasses.replace(one.recipe, finetuning=dataclasses.replace(one.recipe.finetuning, trained="full"))
    spec = next(iter(dataclasses.replace(one, recipe=recipe).cells.values())).finetune
    found = []
    for bound in (2**32, 0):
        monkeypatch.setattr(image_folder, "IN_MEMORY", bound)
        data = datasets.load("birds", "train")
        model = build(spec.pretrain).encoder
        classifier, _ = finetune(spec, model, data.images, data.labels, 4, Hooks())
        assert isinstance(classifier, Classifier)
        found.append(classifier.state_dict())
    assert all(map(torch.equal, found[0].values(), found[1].values()))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_step_that_reads_files_waits_for_nothing(birds, in_files, monkeypatch, no_waiting, stage):
    """What is recorded on CUDA: the images are there before."""
    steps = []

    def watched(step):
        def call(indices):
            steps.append(len(indices))
            with no_waiting:
                return step(indices)

        return call

    monkeypatch.setattr(train_loop, "Replayed", watched)
    spec = next(iter(scenario(train_epsilons=(1,)).cells.values())).finetune
    data = datasets.load("birds", "train")
    if stage == 0:
        pretrain.pretrain(spec.pretrain, data.images, Hooks())
    else:
        finetune(spec, build(spec.pretrain).encoder, data.images, data.labels, 4, Hooks())
    assert len(steps) > 3


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "²", "99999"])
def test_a_number_of_workers_that_is_none_is_refused(birds, monkeypatch, number):
    monkeypatch.setenv("ROSSBENCH_WORKERS", number)
    with pytest.raises(InvalidValue, match="ROSSBENCH_WORKERS: expected a whole number in"):
        datasets.load("birds", "test")


def test_figures_are_drawn_from_files_too(birds, in_files, tmp_path):
    one = registry.register(scenario(train_epsilons=(0,)))
    runner.run(one, store=tmp_path, device="cpu")
    gallery = Gallery(tmp_path, device="cpu")
    models = choose(gallery.matrices([one.name]))
    features, labels = gallery.features(models[0], "encoder", limit=12)
    assert len(features) == len(labels) == 12
    assert gallery.examples(models, epsilon=20.0, count=2)
    assert gallery.confusion(models)
