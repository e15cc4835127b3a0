"""Folders of images as data sets: what is found, what is refused, and that they are decoded once into a file."""

import dataclasses
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from conftest import refusal, tiny
from PIL import Image
from torchvision import datasets as tv
from torchvision import transforms

from rossbench import registry
from rossbench.config.scenarios import Scenario
from rossbench.data import datasets, decoded, image_folder, pixels
from rossbench.report import figures
from rossbench.report.figure_data import FigureData, choose
from rossbench.runner import run as runner
from rossbench.stages import evaluate, finetune, pretrain
from rossbench.stages.train_loop import Hooks
from rossbench.util.errors import DataError, InvalidValue

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where images are decoded to."""
    monkeypatch.setenv("ROSSBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "decoded"


@pytest.fixture
def opened(monkeypatch):
    """The files that are decoded."""
    files, decode = [], pixels.decode
    monkeypatch.setattr(pixels, "decode", lambda path, size: (files.append(path), decode(path, size))[1])
    return files


def test_the_facts_are_found_without_torch(world):
    code = (
        "import sys; from rossbench.registry import register_folder; import rossbench.data.datasets as d\n"
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


def test_what_is_hidden_is_no_class_and_no_image(own, birds):
    """Names that tools of notebooks, macOS, Windows and archives leave."""
    before = datasets.load("birds", "train")
    for split in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
            picture(np.random.default_rng(1)).save(own / split / CLASSES[0] / "hidden.png")
            (own / split / name / "more").mkdir(parents=True)
            (own / split / CLASSES[0] / "hidden.png").rename(own / split / name / "more" / "x.png")
            shutil.copytree(own / split / name, own / split / CLASSES[1] / name)
        for name in ("._9 0.jpg", ".DS_Store", "Thumbs.db", ".hidden.png", "desktop.ini"):
            (own / split / CLASSES[1] / name).write_bytes(b"\0\5\x16\7")
            (own / split / name).write_bytes(b"x")
    own_info = registry.register_folder("own", own, size=SIZE)
    assert (own_info.names, own_info.train, own_info.test) == (birds.names, birds.train, birds.test)
    assert datasets.load("own", "train").fingerprint == before.fingerprint


def spelled(root, **names):
    """Two more classes of a train and a test split, under these names, with an image each."""
    for split, several in names.items():
        for k, name in enumerate(several):
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (k, k, k)).save(root / split / name / "x.png")


COMPOSED, APART = "\u00e9cu", "e\u0301cu"


@pytest.mark.parametrize(("train", "test"), [(COMPOSED, APART), (APART, COMPOSED), (APART, APART)])
def test_unicodes_two_spellings_of_a_class_are_one_in_the_order_of_train(tmp_path, train, test):
    """Composed it is behind f, and decomposed before it."""
    shades = {name: k for k, name in enumerate(sorted((train, "f")))}
    spelled(tmp_path, train=sorted((train, "f")), test=[test, "f"] if shades["f"] else ["f", test])
    assert registry.register_folder("own", tmp_path, size=8).names == tuple(sorted((train, "f")))
    for split in ("train", "test"):
        data = datasets.load("own", split)
        assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"train": (COMPOSED, APART), "test": (COMPOSED, APART)}, r"spelled 'e\u0301cu' and '\xe9cu'"),
        ({"train": ("cat", "dog"), "test": ("Cat", "dog")}, "got 'cat' in train alone and 'Cat' in test alone"),
        ({"train": ("cat", "x"), "test": ("c\u0430t", "x")}, r"got 'cat' in train alone and 'c\u0430t' in test alone"),
    ],
)
def test_names_that_look_alike_can_be_told_apart_in_the_error(tmp_path, names, expected):
    spelled(tmp_path, **names)
    assert expected in refusal(lambda: registry.register_folder("own", tmp_path, size=8))


@pytest.mark.parametrize("limit", [None, 9])
def test_a_folder_is_resized_from_its_own_size_into_a_mapped_file(birds, cache, monkeypatch, limit):
    monkeypatch.setattr(decoded, "CHUNK", 8 * 5 * 3 * SIZE**2)
    whole, small = datasets.load("birds", "train", limit), datasets.load("birds", "train", limit, 20)
    assert torch.equal(small.images, transforms.Resize(20)(whole.images))
    assert sorted(cache.iterdir()) == sorted([whole.file, small.file])
    assert small.fingerprint != whole.fingerprint
    assert torch.equal(datasets.load("birds", "train", limit, SIZE).images, whole.images)


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
        (lambda root: shutil.rmtree(root), "expected a folder .*own/train, got none"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "expected a folder .*own/train, got none"),
        (lambda root: shutil.rmtree(root / "test"), "expected a folder .*own/test or .*own/val, got none"),
        (lambda root: shutil.rmtree(root / "test" / CLASSES[0]), "one set .* of .*own, got 'Zaunkönig' in train alone"),
        (lambda root: (root / "train" / CLASSES[2]).rename(root / "train" / "tit"), "'tit' in train alone and 'great"),
        (lambda root: (root / "train" / "empty").mkdir(), "images .* of every class in .*, got none of 'empty'"),
        (lambda root: [shutil.rmtree(root / "train" / n) for n in CLASSES[1:]], r"at least 2 classes in .*\['Zaunk"),
        (lambda root: (root / "train" / CLASSES[2]).rename(root / "train" / "a\nb"), r"printable names .* got 'a\\nb'"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_one_line(own, spoil, expected):
    spoil(own)
    said = refusal(lambda: registry.register_folder("own", own, size=SIZE))
    assert re.match(f"data set 'own': expected .*{expected.removeprefix('expected ')}", said), said
    assert "own" not in datasets.DATASETS


@pytest.mark.parametrize(
    ("name", "path", "size", "expected"),
    [
        *((name, ".", SIZE, "data set name: expected lower-case letters") for name in ("Birds", "", "../x", "a b", 3)),
        *((name, ".", SIZE, "is registered already; choose another name") for name in ("cifar10", "digits", "birds")),
        *(("own", ".", size, "a whole number of pixels in") for size in (0, -1, 5000, 32.0, "32", True, None)),
        *(("own", path, SIZE, "data set 'own': ") for path in (3, None, "a\0b", "~nobody-of-that-name/x")),
    ],
)
def test_a_wrong_name_size_or_path_is_refused(world, birds, monkeypatch, name, path, size, expected):
    monkeypatch.chdir(world)
    before = dict(datasets.DATASETS)
    assert expected in refusal(lambda: registry.register_folder(name, path, size=size))
    assert before == datasets.DATASETS


@pytest.mark.parametrize("name", ["\U0001f469\u200d\U0001f467", "می\u200cخواهم", "鳥\u3000a", "a\u00a0b"])
def test_joiners_and_spaces_of_other_scripts_are_of_a_name(own, name):
    for split in ("train", "test"):
        (own / split / CLASSES[2]).rename(own / split / name)
    assert name in registry.register_folder("own", own, size=SIZE).names


def test_a_folder_that_has_changed_since_is_said_to(own):
    registry.register_folder("own", own, size=SIZE)
    picture(np.random.default_rng(1)).save(own / "test" / CLASSES[0] / "new.png")
    with pytest.raises(DataError, match="own test: expected the 24 images of 4 classes that were there, got 25 of 4"):
        datasets.load("own", "test")
    shutil.rmtree(own)
    assert "own: expected a folder" in refusal(lambda: datasets.load("own", "test"))


def test_a_file_that_is_not_there_any_more_is_named(own):
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
def test_a_limit_is_that_part_of_all_and_opens_nothing_else(birds, opened, limit):
    part = datasets.load("birds", "train", limit)
    assert len(opened) == len(set(opened)) == limit
    whole = datasets.load("birds", "train")
    chosen = torch.from_numpy(datasets.balanced(whole.labels.numpy(), limit))
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.labels, whole.labels[chosen])
    assert part.labels.bincount().max() - part.labels.bincount().min() <= 1


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_decoded_once_into_a_file_that_is_mapped(birds, opened, cache, caplog, monkeypatch, threads):
    monkeypatch.setenv("ROSSBENCH_WORKERS", str(threads))
    monkeypatch.setattr(decoded, "CHUNK", 5 * 3 * SIZE**2)
    first = datasets.load("birds", "train").images
    (file,) = cache.iterdir()
    assert re.fullmatch(f"birds-train-{SIZE}px-[0-9a-f]{{16}}.npy", file.name)
    assert f"{file}: 0.000147 GB for 48 decoded images of {birds.folder}/train" in caplog.text
    assert torch.equal(datasets.load("birds", "train").images, first)
    assert len(opened) == 48


def test_other_lists_sizes_and_contents_are_other_files(own, cache, birds):
    """A replaced image too, which has as many bytes and so is no news to the fingerprint."""
    registry.register_folder("own", own, size=SIZE)
    before = datasets.load("own", "train")
    for limit in (20, 30):
        datasets.load("own", "train", limit)
    registry.register_folder("small", own, size=SIZE - 1)
    datasets.load("small", "train")
    assert len(list(cache.iterdir())) == 4
    old, new = sorted((own / "train" / CLASSES[1]).glob("*.jpg"))[:2]
    size = max(file.stat().st_size for file in (old, new))
    for file in (old, new):
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
    padded = datasets.load("own", "train")
    old.write_bytes(new.read_bytes())
    after = datasets.load("own", "train")
    assert before.fingerprint != padded.fingerprint == after.fingerprint
    assert torch.equal(padded.images, before.images)
    assert (after.images != before.images).any((1, 2, 3)).sum() == 1


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"not\nan image", lambda raw: raw[:30] + b"x" * 99],
)
def test_what_cannot_be_decoded_is_named_in_one_line(own, cache, damage):
    broken = sorted((own / "train" / CLASSES[1]).glob("*.jpg"))[0]
    broken.write_bytes(damage(broken.read_bytes()))
    registry.register_folder("own", own, size=SIZE)
    said = refusal(lambda: datasets.load("own", "train"))
    assert said.startswith(f"{broken}: expected an image that can be decoded, got ")
    assert list(cache.iterdir()) == []
    assert datasets.load("own", "test").images.shape == (24, 3, SIZE, SIZE)


def scenario(**changes):
    recipe = dataclasses.replace(
        tiny().recipe,
        pretraining=dataclasses.replace(tiny().recipe.pretraining, epochs=2, batch_size=14, normalize=True),
        evaluation=dataclasses.replace(tiny().recipe.evaluation, batch_size=9),
    )
    basics = {"recipe": recipe, "encoder": "conv3", "train_epsilons": (0, 1), "eval_epsilons": (0, 0.5)}
    return Scenario("birds-to-birds", source="birds", target="birds", **{**basics, **changes})


def test_a_run_its_audit_and_figures_are_those_of_a_tensor(birds, monkeypatch, tmp_path):
    """Weights to the bit, records and verdicts."""
    one, real, found = registry.register(scenario(train_epsilons=(1,))), datasets.load, []

    def in_memory(*arguments):
        data = real(*arguments)
        return dataclasses.replace(data, images=data.images.clone())

    for load in (in_memory, real):
        monkeypatch.setattr(datasets, "load", load)
        store = tmp_path / load.__name__
        cells = runner.run(one, store=store, device="cpu")
        audits = runner.audit([one.name], store=store, device="cpu")
        told = {place: dataclasses.asdict(record) for place, record in cells.items()}
        for record in told.values():
            for name in ("seconds", "created", "provenance"):
                record.pop(name)
        weights = {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}
        assert weights
        found.append((told, weights, [audit.verdicts for audit in audits.values()]))
    assert found[0] == found[1]
    data = FigureData(store, device="cpu")
    models = choose(data.matrices([one.name]))
    features, labels = data.features(models[0], "encoder", limit=12)
    assert len(features) == len(labels) == 12
    assert figures.examples(data, models, epsilon=20.0, count=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("trained", ["linear", "full"])
def test_images_that_do_not_fit_a_gpu_are_moved_to_it_in_batches(birds, monkeypatch, trained):
    """All stages, each recorded, with the same result as with the images on the GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one, device = scenario(train_epsilons=(1,)), torch.device("cuda", 0)
    recipe = dataclasses.replace(one.recipe, finetuning=dataclasses.replace(one.recipe.finetuning, trained=trained))
    cell = dataclasses.replace(one, recipe=recipe).cells[1, 1, 0.5]
    small = namedtuple("properties", "total_memory")(4 * 48 * 3 * SIZE**2 - 1)
    whole, found = datasets.load("birds", "train"), []
    there = whole.to(device)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_properties", lambda device: small)
        away = whole.to(device)
    for data, kind in ((there, "cuda"), (away, "cpu")):
        assert (data.images.device.type, data.labels.device.type) == (kind, "cuda")
        model, losses = pretrain.pretrain(cell.finetune.pretrain, data.images, Hooks(), device)
        classifier, more = finetune.finetune(cell.finetune, model.encoder, data.images, data.labels, 4, Hooks())
        ranked = evaluate.evaluate([cell], classifier, data.images, data.labels, Hooks())
        found.append(([entry["loss"] for entry in (*losses, *more)], ranked))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert (found[0][1].natural[:, 0] == found[1][1].natural[:, 0]).float().mean() > 0.9


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "²", "99999"])
def test_a_number_of_workers_that_is_none_is_refused(birds, monkeypatch, number):
    monkeypatch.setenv("ROSSBENCH_WORKERS", number)
    with pytest.raises(InvalidValue, match="ROSSBENCH_WORKERS: expected a whole number in"):
        datasets.load("birds", "test")
