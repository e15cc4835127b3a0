"""Data sets as torchvision lays them out on disk: arrays in memory, a file of arrays, and folders of image files.

Those that have been downloaded of themselves so far (ARRAYS) still are where nothing of them is there; those of image
files (FILES) are not, and the error says how they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..util.errors import DataError, one_line
from . import decoded
from .image_folder import Found, balanced, listed

if TYPE_CHECKING:
    import numpy as np

ARRAYS = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "stl10": "STL10",
    "stl10-unlabeled": "STL10",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
}
FILES = {
    "flowers102": ("Flowers102", ("train", "val")),
    "oxford-iiit-pet": ("OxfordIIITPet", ("trainval",)),
    "dtd": ("DTD", ("train", "val")),
    "fgvc-aircraft": ("FGVCAircraft", ("trainval",)),
    "food101": ("Food101", ("train",)),
    "cars": ("StanfordCars", ("train",)),
    "caltech101": ("Caltech101", ()),
}
"""torchvision's class, and those of its splits that are trained on, as in the transfer literature (Kornblith et al.,
2019, table 1)."""
_CALTECH101_TRAIN = 30
"""Images of each class that are trained on; there is no official split."""
Result = TypeVar("Result")
Digests = Sequence[tuple[str, str]]
"""Files of a set and their MD5s, as torchvision has them."""


def _place(name: str, root: Path) -> str:
    return f"{name}: expected its files in {root} (--data-dir or ROSSBENCH_DATA)"


def arrays(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 3, height, width] and labels [n], from ``root``, else downloaded into it. Raises DataError."""
    import numpy as np
    from torchvision import datasets as tv

    if name == "stl10":
        return _obtain(name, split, root, lambda: _stl10(split, root))
    maker = getattr(tv, ARRAYS[name])
    arguments: dict[str, Any] = {"split": split} if name == "svhn" else {"train": split == "train"}
    data = _obtain(name, split, root, lambda: maker(str(root), download=False, **arguments), **arguments)
    images, labels = np.asarray(data.data), np.asarray(getattr(data, "targets", getattr(data, "labels", None)))
    if images.ndim == 3:
        images = np.repeat(images[:, None], 3, axis=1)
    return images.transpose(0, 3, 1, 2) if images.shape[-1] == 3 else images, labels


def _digests(name: str, split: str) -> Digests:
    from torchvision import datasets as tv

    maker = getattr(tv, ARRAYS[name])
    if hasattr(maker, "split_list"):  # SVHN
        return [maker.split_list[split][1:]]
    if not hasattr(maker, "train_list"):  # MNIST, whose archives alone have digests
        return []
    files = [*maker.train_list, *maker.test_list]
    if name.startswith("stl10"):  # the split's alone: torchvision would look at all five, 3 GB, for each
        return [(file, digest) for file, digest in files if file.startswith(f"{split}_")]
    return [*files, (maker.meta["filename"], maker.meta["md5"])]


def _obtain(name: str, part: str, root: Path, read: Callable[[], Result], **arguments: Any) -> Result:
    """What ``read`` returns; where nothing of a set is there, once it is downloaded, or extracted from its archive.

    ``read`` raises RuntimeError, as torchvision does, if a file is not there or has another digest.
    """
    from torchvision import datasets as tv

    maker, files = getattr(tv, ARRAYS[name]), _digests(name, part)
    try:
        try:
            return read()
        except RuntimeError:
            base, archive = getattr(maker, "base_folder", ""), getattr(maker, "filename", "")
            there = any((root / base / file).exists() for file, _ in files)
            wrong = _wrong(root / base, files) if there else _elsewhere(root, base, [file for file, _ in files])
        if wrong and (base or not there):  # a single file may be the rest of a download, which is then begun again
            raise DataError(f"{name}: {wrong}")
        if archive and (root / archive).is_file():
            wrong = _wrong(root, [(archive, maker.tgz_md5)])
        try:
            maker(str(root), download=True, **arguments)  # an archive that is there is taken
        except (OSError, RuntimeError) as error:
            said = f"{_place(name, root)}, {wrong or 'got none'}; a download failed: {error}"
            raise DataError(one_line(said)) from error
        return read()
    except DataError:
        raise
    except Exception as error:  # of files that it has no checksum of, mnist's, it has many words for damage
        raise DataError(one_line(f"{_place(name, root)}, got damaged ones, to be removed: {error!r:.200}")) from error


def _wrong(folder: Path, files: Digests) -> str | None:
    """Which file is not there, or not what it should be; None if all are."""
    from torchvision.datasets.utils import calculate_md5

    for file, expected in files:
        place = folder / file
        if not place.is_file():
            return f"expected {place}, got no such file; remove {folder} to have it downloaded or extracted again"
        got = calculate_md5(place)
        if got != expected:
            size = f"{place.stat().st_size:,} bytes"
            return f"{place}: expected MD5 {expected}, got {got} ({size}), a cut or another file; remove or replace it"
    return None


def _elsewhere(root: Path, base: str, files: Sequence[str]) -> str | None:
    """Which folder is meant, where the files are near ``root`` but not in ``base`` in it; None if they are not."""
    inner = sorted(place for place in root.iterdir() if place.is_dir()) if root.is_dir() else []
    for parent in (root.absolute().parent, root.absolute().parent.parent, *inner):
        if any((parent / base / file).is_file() for file in files):
            return f"expected the folder that holds {base or files[0]}, got {root}: --data-dir {parent}"
    for folder in (root, *inner) if base else ():
        if any((folder / file).is_file() for file in files):
            return f"expected a folder {base} in {root}, got its files in {folder}: rename or move it"
        for kind, ending in (("binary", "bin"), ("Matlab", "mat")):
            if any((folder / f"{file}.{ending}").is_file() for file in files):
                return f"expected the Python version, {base}, in {root}, got the {kind} version in {folder}"
    return None


def _stl10(split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    folder = root / "stl10_binary"
    if wrong := _wrong(folder, _digests("stl10", split)):
        raise RuntimeError(wrong)
    images, labels = (np.fromfile(folder / f"{split}_{part}.bin", np.uint8) for part in "Xy")
    return _upright(images), labels - 1


def _upright(values: np.ndarray) -> np.ndarray:
    """STL-10's pixels, column by column, as [n, 3, height, width]."""
    return values.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)


def unlabeled(root: Path) -> Path:
    """The file of STL-10's unlabeled images, downloaded if nothing of STL-10 is there. Raises DataError."""
    file = root / "stl10_binary" / "unlabeled_X.bin"

    def find() -> Path:
        if not file.is_file():
            raise RuntimeError(file)
        return file

    return _obtain("stl10-unlabeled", "unlabeled", root, find)


def unlabeled_pixels(root: Path, chosen: np.ndarray) -> Iterator[bytes]:
    """Bytes of unlabeled images by their places, uint8 [some, 3, 96, 96]. DataError if the file has another digest."""
    import numpy as np

    folder = root / "stl10_binary"
    if wrong := _wrong(folder, _digests("stl10-unlabeled", "unlabeled")):
        raise DataError(f"stl10-unlabeled: {wrong}")
    images = _upright(np.memmap(folder / "unlabeled_X.bin", np.uint8, "r"))
    for places in np.array_split(chosen, 1 + len(chosen) * images[0].size // decoded.CHUNK):
        yield images[places].tobytes()


def files(name: str, split: str, root: Path) -> Found:
    """The image files of a split, relative to ``root``; none is opened. DataError, which says how to get them."""
    maker, train = FILES[name]
    try:
        if name == "caltech101":
            return _caltech101(split, root)
        found = [item for part in (train if split == "train" else ("test",)) for item in _listed(maker, part, root)]
    except RuntimeError as error:  # torchvision's word for "not there, or its checksum is wrong"
        get = f'python -c "from torchvision.datasets import {maker} as D; D({str(root)!r}, download=True)"'
        way = "its authors offer it no more; torchvision's StanfordCars says what goes where" if name == "cars" else get
        raise DataError(f"{_place(name, root)}, got none, or other ones; to get them: {way}") from error
    except Exception as error:  # of lists that it has no checksum of
        raise DataError(one_line(f"{_place(name, root)}, got damaged ones: {error!r:.300}")) from error
    return Found(root, (), [file.removeprefix(f"{root}/") for file, _ in found], [label for _, label in found])


def _listed(maker: str, split: str, root: Path) -> list[tuple[str, int]]:
    """Path and label of each image."""
    from torchvision import datasets as tv

    if maker == "OxfordIIITPet":  # the one that opens images itself
        data = tv.OxfordIIITPet(str(root), split=split)
        return list(zip(map(str, data._images), data._labels, strict=True))
    data = getattr(tv, maker)(str(root), split=split, loader=str)
    return [data[k] for k in range(len(data))]


def _caltech101(split: str, root: Path) -> Found:
    """30 images of each class to train on, drawn by ``balanced``, the rest to test on; without the background."""
    import numpy as np

    folder = root / "caltech101" / "101_ObjectCategories"
    if not folder.is_dir():
        raise RuntimeError(folder)
    whole = listed(folder)
    kept = np.flatnonzero([not file.startswith("BACKGROUND_Google/") for file in whole.files])
    _, labels = np.unique(np.asarray(whole.labels)[kept], return_inverse=True)
    train = balanced(labels, _CALTECH101_TRAIN * (labels.max() + 1))
    chosen = train if split == "train" else np.delete(np.arange(len(kept)), train)
    return Found(folder, (), [whole.files[k] for k in kept[chosen]], labels[chosen].tolist())
