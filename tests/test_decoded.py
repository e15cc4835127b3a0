"""A file of images is written once, whole or not at all, by one process, and is then mapped."""

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import refusal

from rossbench.data import decoded
from rossbench.util.errors import DataError
from rossbench.util.locks import Locks
from rossbench.util.signals import Interrupted

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 3, 5, 5), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decoded" / "x.npy"


@pytest.fixture
def load(path):
    """Reads the file; its ``made`` counts how often the images were made."""

    def make():
        load.made += 1
        yield from (part.tobytes() for part in np.array_split(IMAGES, 7))

    def load():
        return decoded.read(path, IMAGES.shape, "images", make)

    load.made = 0
    return load


def test_images_are_written_once_into_a_file_that_numpy_reads(load, path, caplog):
    assert torch.equal(load(), torch.from_numpy(IMAGES))
    assert (np.load(path) == IMAGES).all()
    assert re.search(f"{path}: 3.6e-06 GB for 48 images; images are decoded once", caplog.text)
    path.chmod(0o400)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(load(), torch.from_numpy(IMAGES))
    assert (load.made, [file.name for file in path.parent.iterdir()]) == (1, [path.name])


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: b"not an array",
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: raw.replace(b"(48, 3", b"(47, 3"),
        lambda raw: raw.replace(b"|u1", b"|i1"),
        lambda raw: raw.replace(b"'fortran_order': False", b"'fortran_order': True "),
    ],
)
def test_a_file_that_is_not_whole_is_written_again(load, path, damage):
    load()
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(load(), torch.from_numpy(IMAGES))
    assert load.made == 2


@pytest.mark.parametrize("broken", [Interrupted(15), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_of_a_writing_that_breaks_off_nothing_is_left(load, path, monkeypatch, broken):
    def breaks(handle):
        raise broken

    expected = DataError if isinstance(broken, OSError) else type(broken)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", breaks)
        with pytest.raises(expected) as raised:
            load()
    assert expected is not DataError or "No space left on device; --data-dir names another folder" in str(raised.value)
    assert list(path.parent.iterdir()) == []
    assert torch.equal(load(), torch.from_numpy(IMAGES))


def test_what_a_killed_writing_left_is_not_taken_for_whole_and_is_removed(load, path):
    """A process of its own is killed while it writes; it held the lock."""
    code = (
        "import os, signal; from pathlib import Path; from rossbench.data import decoded\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"decoded.read(Path({str(path)!r}), (2, 3, 5, 5), 'images', lambda: [bytes(150)])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    left = [file.name for file in path.parent.iterdir()]
    assert any(".part-" in name for name in left)
    assert path.name not in left
    assert torch.equal(load(), torch.from_numpy(IMAGES))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_one_writes_while_the_others_wait(load, path, caplog):
    path.parent.mkdir()
    locks = Locks(path.parent)
    assert locks.take(path.name)
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        time.sleep(0.7)
        assert not load.made
        locks.give(path.name)
    assert torch.equal(*(one.result() for one in loads))
    assert load.made == 1
    assert f"waiting for process {os.getpid()}" in caplog.text


def test_a_disk_that_is_too_small_is_one_line_before_anything_is_made(load, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("usage", "free")(1000))
    expected = f"{path.parent}: expected 3.6e-06 GB for 48 images, got 1e-06 GB free; --data-dir names another folder"
    assert refusal(load) == expected
    assert not load.made


def test_a_folder_that_cannot_be_written_to_is_one_line(load, path):
    path.parent.write_text("")
    said = refusal(load)
    assert "expected to write decoded images there, got [Errno" in said
    assert "--data-dir" in said
