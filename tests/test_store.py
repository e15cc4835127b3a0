import os

import pytest

from rossbench.config.scenarios import Scenario
from rossbench.store import store as store_module
from rossbench.store.store import Store, write_atomically
from rossbench.util.errors import StoreError

CELL = Scenario("x", "digits", "digits").cells[0, 0, 0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_what_is_written_is_read_and_looking_creates_nothing(store):
    assert CELL not in store
    assert list(store.notes()) == []
    assert not store.root.exists()
    store.write(CELL, {"record.json": b"{}", "more": b"\x00\xff"})
    assert CELL in store
    assert store.read(CELL, "more") == b"\x00\xff"
    assert sorted(p.name for p in store.path(CELL).iterdir()) == ["SHA256SUMS", "more", "record.json", "spec.json"]
    assert list(store.path(CELL).parent.iterdir()) == [store.path(CELL)]
    assert CELL in Store(store.root)
    assert (store.root / "FORMAT").read_text() == "5\n"


def test_an_artifact_is_there_whole_or_not_at_all(store, monkeypatch):
    """The second of its files cannot be written, as on a full disk."""
    real = store_module._write_synced

    def fails(path, content):
        if path.name == "b":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(store_module, "_write_synced", fails)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write(CELL, {"a": b"1", "b": b"2"})
    assert CELL not in store
    assert list((store.root / "evaluate").iterdir()) == []


def test_the_first_writer_wins(store):
    store.write(CELL, {"a": b"first"})
    store.write(CELL, {"a": b"second"})
    assert store.read(CELL, "a") == b"first"


def test_a_finished_artifact_drops_its_resume_state(store):
    write_atomically(store.resume_path(CELL), b"state")
    store.write(CELL, {"a": b"1"})
    assert not store.resume_path(CELL).exists()


def test_a_file_keeps_its_old_content_when_the_new_one_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fails(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StoreError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_runs_are_noted_by_name_and_once_each(store):
    for name, cells in (("b", 1), ("a", 1), ("a", 1), ("a", 2)):
        store.write_note(name, "0" * 8, f"{name} {cells}".encode())
    assert sorted(content for _, content in store.notes()) == [b"a 1", b"a 2", b"b 1"]


def test_what_is_written_can_be_read_by_others(store):
    store.write_note("a", "0" * 8, b"{}")
    store.write(CELL, {"a": b"1"})
    written = [store.root / "FORMAT", *(store.root / "matrices").iterdir(), *store.path(CELL).iterdir()]
    assert {path.stat().st_mode & 0o044 for path in written} == {0o044}


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda root: (root / "FORMAT").write_text("6\n"), "6"),
        (lambda root: (root / "FORMAT").write_text(""), ""),
        (lambda root: (root / "matrices").mkdir(), "1 to 4"),
        (lambda root: (root / "pretrain").mkdir(), "1 to 4"),
    ],
)
def test_a_store_of_another_format_is_refused_in_one_line(tmp_path, made, found):
    made(tmp_path)
    with pytest.raises(StoreError) as raised:
        Store(tmp_path)
    assert f"expected format 5, got {found}, which another version" in str(raised.value)
    assert "--store" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_discarded_is_gone(store):
    store.discard(CELL)
    store.write(CELL, {"a": b"1"})
    store.discard(CELL)
    assert CELL not in store
    assert list(store.path(CELL).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "expected JSON"), (b"\xff", "expected JSON"), (None, "No such")]
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=message) as raised:
        store_module.read_json(path)
    assert str(path) in str(raised.value)
