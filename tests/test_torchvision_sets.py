"""Data sets in the layouts that torchvision reads, made small by these tests: what is read, and what is said of a
folder that is not one. Nothing here goes to the network."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import tarfile
import urllib.request

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

from rossbench.data import datasets, decoded, torchvision_sets

CIFAR = {"cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """What was asked of the network, which is not there."""
    asked = []

    def urlopen(request, **_):
        asked.append(request.full_url)
        raise OSError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


@pytest.fixture
def counts(monkeypatch):
    """Sets the facts of a data set."""
    return lambda name, **facts: monkeypatch.setitem(
        datasets.DATASETS, name, dataclasses.replace(datasets.DATASETS[name], **facts)
    )


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch, counts):
    """Name, folder and archive of a small CIFAR whose digests torchvision holds for the right ones."""
    name, maker, root = request.param, CIFAR[request.param], tmp_path / "data"
    place, key = root / maker.base_folder, "labels" if request.param == "cifar10" else "fine_labels"
    place.mkdir(parents=True)
    classes = datasets.DATASETS[name].classes
    rng, lists = np.random.default_rng(0), {}
    for part in ("train_list", "test_list"):
        for file, _ in getattr(maker, part):
            entry = {"data": rng.integers(0, 256, (classes, 3072), dtype=np.uint8), key: list(range(classes))}
            (place / file).write_bytes(pickle.dumps(entry))
        lists[part] = [[file, md5(place / file)] for file, _ in getattr(maker, part)]
        monkeypatch.setattr(maker, part, lists[part])
    meta = place / maker.meta["filename"]
    meta.write_bytes(pickle.dumps({maker.meta["key"]: list(datasets.DATASETS[name].names)}))
    monkeypatch.setattr(maker, "meta", {**maker.meta, "md5": md5(meta)})
    archive = tmp_path / maker.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, maker.base_folder)
    monkeypatch.setattr(maker, "tgz_md5", md5(archive))
    counts(name, train=classes * len(lists["train_list"]), test=classes)
    return name, root, place, archive


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def deeper(place):
    inside = place.rename(place.with_name("x"))
    place.mkdir()
    inside.rename(place / place.name)


def renamed(ending):
    def rename(place):
        for file in list(place.iterdir()):
            file.rename(f"{file}{ending}")
        place.rename(place.with_name("other"))

    return rename


SPOILED = [
    (lambda place, first, meta: cut(place / first), "{place}/{first}: expected MD5 {digest}, got "),
    (lambda place, first, meta: (place / first).write_bytes(b""), "{place}/{first}: expected MD5 {digest}, got "),
    (lambda place, first, meta: (place / first).unlink(), "expected {place}/{first}, got no such file; remove {place}"),
    (lambda place, first, meta: cut(place / meta), "{place}/{meta}: expected MD5 "),
    (lambda place, *_: deeper(place), "expected the folder that holds {base}, got {root}: --data-dir {place}"),
    (lambda place, *_: renamed("")(place), "expected a folder {base} in {root}, got its files in {root}/other"),
    (lambda place, *_: renamed(".bin")(place), "expected the Python version, {base}, in {root}, got the binary"),
    (lambda place, *_: renamed(".mat")(place), "expected the Python version, {base}, in {root}, got the Matlab"),
]


@pytest.mark.parametrize(("spoil", "expected"), SPOILED)
def test_files_that_are_wrong_or_elsewhere_are_named_and_nothing_is_downloaded(cifar, asked, spoil, expected):
    name, root, place, _ = cifar
    first, digest = CIFAR[name].train_list[0]
    meta = CIFAR[name].meta["filename"]
    spoil(place, first, meta)
    expected = expected.format(first=first, meta=meta, digest=digest, place=place, root=root, base=place.name)
    for split in ("train", "test"):
        assert refusal(lambda split=split: datasets.load(name, split, data_dir=root)).startswith(f"{name}: {expected}")
    assert not asked


def test_the_folder_itself_given_for_the_one_that_holds_it_is_told(cifar, asked):
    name, root, place, _ = cifar
    said = refusal(lambda: datasets.load(name, "test", data_dir=place))
    assert said == f"{name}: expected the folder that holds {place.name}, got {place}: --data-dir {root}"
    assert not asked


def test_an_archive_is_extracted_and_a_cut_one_is_named_with_its_digest(cifar, asked):
    name, root, place, archive = cifar
    before = datasets.load(name, "train", data_dir=root)
    shutil.rmtree(place)
    shutil.copy(archive, root)
    assert torch.equal(datasets.load(name, "train", data_dir=root).images, before.images)
    assert not asked
    shutil.rmtree(place)
    cut(root / archive.name)
    said = refusal(lambda: datasets.load(name, "train", data_dir=root))
    assert f"{root / archive.name}: expected MD5 {CIFAR[name].tgz_md5}, got " in said
    assert "a download failed: no network here" in said


@pytest.mark.parametrize("name", ["cifar10", "stl10", "stl10-unlabeled", "svhn", "mnist"])
def test_where_nothing_is_there_a_download_is_tried_and_its_failure_told(tmp_path, asked, name):
    said = refusal(lambda: datasets.load(name, "train", data_dir=tmp_path))
    assert f"{name}: expected its files in {tmp_path} (--data-dir or ROSSBENCH_DATA), got none; a download" in said
    assert asked


def test_a_cut_svhn_is_named_and_one_in_a_folder_within_is_found(tmp_path, asked, monkeypatch):
    (tmp_path / "svhn").mkdir()
    file = tmp_path / "svhn" / "test_32x32.mat"
    file.write_bytes(b"cut")
    assert f"--data-dir {file.parent}" in refusal(lambda: datasets.load("svhn", "test", data_dir=tmp_path))
    assert not asked
    said = refusal(lambda: datasets.load("svhn", "test", data_dir=file.parent))
    assert f"{file}: expected MD5 eb5a983be6a315427106f1b164d9cef3, got " in said


# --- STL-10 --------------------------------------------------------------------------------------------------


@pytest.fixture
def stl10(tmp_path, monkeypatch, counts):
    """Its folder, and by split the images [n, 3, 96, 96] that its files hold column by column."""
    place = tmp_path / tv.STL10.base_folder
    place.mkdir()
    rng, images = np.random.default_rng(0), {}
    for split, count in (("train", 20), ("test", 30), ("unlabeled", 40)):
        images[split] = np.repeat(rng.integers(0, 256, (count, 3, 96, 12), dtype=np.uint8), 8, 3)
        (place / f"{split}_X.bin").write_bytes(images[split].transpose(0, 1, 3, 2).tobytes())
        if split != "unlabeled":
            (place / f"{split}_y.bin").write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(tv.STL10, part, [[file, md5(place / file)] for file, _ in getattr(tv.STL10, part)])
    counts("stl10", train=20, test=30)
    counts("stl10-unlabeled", train=40)
    return place, images


def test_stl10_is_read_as_torchvision_reads_it(stl10, tmp_path):
    place, images = stl10
    for split in ("train", "test"):
        data, theirs = datasets.load("stl10", split, data_dir=tmp_path), tv.STL10(str(tmp_path), split)
        assert torch.equal(data.images, torch.from_numpy(images[split]))
        assert (data.images.numpy() == theirs.data).all()
        assert data.labels.tolist() == theirs.labels.tolist()
    for file in ("unlabeled_X.bin", "test_X.bin"):  # a target needs no other file than its own
        (place / file).unlink()
    assert datasets.load("stl10", "train", data_dir=tmp_path).images.shape == (20, 3, 96, 96)


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("limit", [None, 7])
def test_unlabeled_images_are_mapped_and_a_part_of_them_is_that_part(stl10, tmp_path, monkeypatch, limit, size):
    monkeypatch.setattr(decoded, "CHUNK", 5 * 3 * 96 * 96)
    data = datasets.load("stl10-unlabeled", "train", limit, size, tmp_path)
    whole = datasets.load("stl10-unlabeled", "train", None, size, tmp_path)
    assert datasets.load("stl10-unlabeled", "train", limit, size, tmp_path).fingerprint == data.fingerprint
    assert (data.fingerprint == whole.fingerprint) == (limit is None)
    assert data.images.shape == (limit or 40, 3, size or 96, size or 96)
    assert np.load(data.file).shape == data.images.shape
    if limit is None:
        assert size or torch.equal(data.images, torch.from_numpy(stl10[1]["unlabeled"]))
    else:
        pool = {image.numpy().tobytes() for image in whole.images}
        assert all(image.numpy().tobytes() in pool for image in data.images)


def test_unlabeled_images_that_are_cut_or_not_those_are_named(stl10, tmp_path, asked):
    file = stl10[0] / "unlabeled_X.bin"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    said = refusal(lambda: datasets.load("stl10-unlabeled", "train", data_dir=tmp_path))
    assert said.startswith(f"stl10-unlabeled: {file}: expected MD5 ")
    cut(file)
    said = refusal(lambda: datasets.load("stl10-unlabeled", "train", data_dir=tmp_path))
    assert said == f"{file}: expected {len(raw):,} bytes, got {len(raw) - 1:,}"
    assert "expected a split with images" in refusal(lambda: datasets.load("stl10-unlabeled", "test"))
    assert not asked


# --- sets of image files -------------------------------------------------------------------------------------


def image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 40), (8 * shade,) * 3).save(path, quality=100)


def flowers102(root, monkeypatch):
    place = root / "flowers-102"
    for k in range(1, 8):
        image(place / "jpg" / f"image_{k:05d}.jpg", k)
    savemat(place / "imagelabels.mat", {"labels": [1, 2, 3, 1, 2, 3, 3]})
    savemat(place / "setid.mat", {"trnid": [1, 5], "valid": [6, 7], "tstid": [4, 2, 3]})
    for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        monkeypatch.setitem(tv.Flowers102._file_dict, key, (file, md5(place / file)))
    return [(1, 0), (5, 1), (6, 2), (7, 2)], [(4, 0), (2, 1), (3, 2)]


def oxford_iiit_pet(root, monkeypatch):
    place = root / "oxford-iiit-pet"
    for k, name in enumerate(["Abyssinian_1", "beagle_2", "pug_10", "Abyssinian_3", "beagle_4", "pug_5"], 1):
        image(place / "images" / f"{name}.jpg", k)
    (place / "annotations").mkdir()
    (place / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_2 2 2 1\npug_10 3 2 2\n")
    (place / "annotations" / "test.txt").write_text("pug_5 3 2 2\nAbyssinian_3 1 1 1\nbeagle_4 2 2 1\n")
    return [(1, 0), (2, 1), (3, 2)], [(6, 2), (4, 0), (5, 1)]


def dtd(root, monkeypatch):
    place, names = root / "dtd" / "dtd", ["banded", "dotted", "woven"]
    (place / "labels").mkdir(parents=True)
    for k, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(names):
            image(place / "images" / name / f"{name}_{k}.jpg", 3 * k + label + 1)
        (place / "labels" / f"{split}1.txt").write_text("".join(f"{name}/{name}_{k}.jpg\n" for name in names))
    return [(k + 1, k % 3) for k in range(6)], [(k + 7, k) for k in range(3)]


def fgvc_aircraft(root, monkeypatch):
    place = root / "fgvc-aircraft-2013b" / "data"
    for k in range(1, 7):
        image(place / "images" / f"{k:07d}.jpg", k)
    (place / "variants.txt").write_text("707-320\nF/A-18\nYak-42\n")
    (place / "images_variant_trainval.txt").write_text("0000001 707-320\n0000002 F/A-18\n0000003 Yak-42\n")
    (place / "images_variant_test.txt").write_text("0000006 Yak-42\n0000004 707-320\n0000005 F/A-18\n")
    return [(1, 0), (2, 1), (3, 2)], [(6, 2), (4, 0), (5, 1)]


def food101(root, monkeypatch):
    place, names = root / "food-101", ["apple_pie", "pizza", "waffles"]
    (place / "meta").mkdir(parents=True)
    for k, split in enumerate(("train", "test")):
        for label, name in enumerate(names):
            image(place / "images" / name / f"{k}.jpg", 3 * k + label + 1)
        (place / "meta" / f"{split}.json").write_text(json.dumps({name: [f"{name}/{k}"] for name in names}))
    return [(1, 0), (2, 1), (3, 2)], [(4, 0), (5, 1), (6, 2)]


def cars(root, monkeypatch):
    place, kind = root / "stanford_cars", [("fname", "O"), ("class", "i4")]
    for k in range(1, 7):
        image(place / ("cars_train" if k < 4 else "cars_test") / f"{k:05d}.jpg", k)
    (place / "devkit").mkdir()
    savemat(place / "devkit" / "cars_meta.mat", {"class_names": np.array(["a", "b", "c"], object)})
    for file, first in ((place / "devkit" / "cars_train_annos.mat", 1), (place / "cars_test_annos_withlabels.mat", 4)):
        rows = [(f"{first + k:05d}.jpg", k + 1) for k in range(3)]
        savemat(file, {"annotations": np.array(rows, kind)})
    return [(1, 0), (2, 1), (3, 2)], [(4, 0), (5, 1), (6, 2)]


def caltech101(root, monkeypatch):
    place = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(["BACKGROUND_Google", "Faces", "accordion", "yin_yang"]):
        for k in range(2 if label else 5):
            image(place / name / f"image_{k + 1:04d}.jpg", 10 * label + k)
    (place / ".DS_Store").write_text("")
    image(place / "Faces" / "._image_0001.jpg", 9)
    monkeypatch.setattr(torchvision_sets, "_CALTECH101_TRAIN", 1)
    return None, None


SETS = {
    "flowers102": flowers102,
    "oxford-iiit-pet": oxford_iiit_pet,
    "dtd": dtd,
    "fgvc-aircraft": fgvc_aircraft,
    "food101": food101,
    "cars": cars,
    "caltech101": caltech101,
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_image_files_is_read_split_by_split_and_decoded_once(tmp_path, monkeypatch, counts, asked, name):
    expected = SETS[name](tmp_path, monkeypatch)
    sizes = [len(part) if part else 3 for part in expected]
    counts(name, names=("1", "2", "3"), train=sizes[0], test=sizes[1], size=24)
    seen = []
    for split, pairs in zip(("train", "test"), expected, strict=True):
        data = datasets.load(name, split, data_dir=tmp_path)
        assert data.images.shape == (len(data.labels), 3, 24, 24)
        assert data.file.exists()
        shades, labels = (data.images[:, 0].float().mean((1, 2)) / 8).round().int().tolist(), data.labels.tolist()
        seen += shades
        if pairs:
            assert list(zip(shades, labels, strict=True)) == pairs
        else:
            assert [shade // 10 - 1 for shade in shades] == labels == [0, 1, 2]
        part = datasets.load(name, split, 3, 12, tmp_path)
        assert part.images.shape == (3, 3, 12, 12)
        assert sorted(part.labels.tolist()) == [0, 1, 2]
    assert len(set(seen)) == sum(sizes)
    assert not asked


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_image_files_that_is_not_there_says_how_to_get_it_and_is_not_downloaded(tmp_path, asked, name):
    said = refusal(lambda: datasets.load(name, "test", data_dir=tmp_path))
    assert said.startswith(f"{name}: expected its files in {tmp_path} (--data-dir or ROSSBENCH_DATA), got none")
    assert ("offer it no more" if name == "cars" else f"D({str(tmp_path)!r}, download=True)") in said
    assert not asked


@pytest.mark.parametrize("name", SETS)
def test_a_set_with_other_counts_or_without_a_file_is_refused(tmp_path, monkeypatch, counts, name):
    SETS[name](tmp_path, monkeypatch)
    said = refusal(lambda: datasets.load(name, "test", data_dir=tmp_path))
    known = datasets.DATASETS[name]
    assert f"expected the {known.test} images of {known.classes} classes that were there, got 3 of 3" in said
    counts(name, names=("1", "2", "3"), test=3)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    said = refusal(lambda: datasets.load(name, "test", data_dir=tmp_path))
    assert str(tmp_path) in said
    assert ".jpg: expected a file that can be read" in said or "got 0 of" in said or "got none of" in said


def test_the_splits_of_the_literature_are_those_of_the_table():
    """Kornblith et al., 2019, table 1; caltech101 without its background class."""
    found = {name: (one.train, one.test) for name, one in datasets.DATASETS.items() if name in torchvision_sets.FILES}
    assert found.pop("caltech101") == (101 * 30, 8677 - 101 * 30)
    assert found == {
        "flowers102": (2040, 6149),
        "oxford-iiit-pet": (3680, 3669),
        "dtd": (3760, 1880),
        "fgvc-aircraft": (6667, 3333),
        "food101": (75750, 25250),
        "cars": (8144, 8041),
    }
