import pytest
import torch

from rossbench.store import resume
from rossbench.store.resume import Saving
from rossbench.util.errors import StoreError

STATE = {"history": [{"epoch": 1, "loss": 0.5}], "model": {"weight": torch.arange(1000.0)}, "done": (torch.ones(3), 2)}


def saved(path, *states):
    with Saving(path) as saving:
        for state in states:
            saving.save(state)
    return path


def test_the_last_state_comes_back_and_is_all_there_is(tmp_path):
    path = saved(tmp_path / "folder" / "x.pt", {**STATE, "history": []}, STATE)
    found = resume.load(path)
    assert found["history"] == STATE["history"]
    assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert torch.equal(found["done"][0], torch.ones(3))
    assert list(path.parent.iterdir()) == [path]


def test_a_state_is_what_it_was_when_it_was_saved(tmp_path):
    weight = torch.zeros(3)
    with Saving(tmp_path / "x.pt") as saving:
        saving.save({"weight": weight})
        weight += 1
    assert torch.equal(resume.load(tmp_path / "x.pt")["weight"], torch.zeros(3))


def test_it_is_on_the_disk_when_an_error_has_passed(tmp_path):
    def work():
        with Saving(tmp_path / "x.pt") as saving:
            saving.save(STATE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert resume.load(tmp_path / "x.pt")


def test_nowhere_is_fine():
    saved(None, STATE)
    assert resume.load(None) is None


def test_no_file_is_no_state(tmp_path):
    assert resume.load(tmp_path / "x.pt") is None


@pytest.mark.parametrize("states", [1, 2])
def test_a_state_that_cannot_be_written_is_an_error(tmp_path, states):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"store: .*file"):
        saved(tmp_path / "file" / "x.pt", *[STATE] * states)


def test_every_flipped_byte_is_harmless_or_noticed(tmp_path, caplog):
    """torch.load alone gives the wrong numbers back."""
    path = saved(tmp_path / "x.pt", STATE)
    content, noticed = path.read_bytes(), 0
    start = content.index(STATE["model"]["weight"].numpy().tobytes())
    for place in (*range(0, len(content), 97), *range(start, start + 4000, 101)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        caplog.clear()
        found = resume.load(path)
        if found is None:
            noticed += 1
            assert "cannot be read" in caplog.text
        else:
            assert found["history"] == STATE["history"]
            assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert noticed > 40


@pytest.mark.parametrize("content", [b"", b"PK damaged", b"\x80\x04N."])
def test_what_is_no_state_is_said_and_is_none(tmp_path, caplog, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert resume.load(path) is None
    assert f"{path} cannot be read" in caplog.text


def test_a_truncated_state_is_none(tmp_path):
    path = saved(tmp_path / "x.pt", STATE)
    path.write_bytes(path.read_bytes()[:-10])
    assert resume.load(path) is None
