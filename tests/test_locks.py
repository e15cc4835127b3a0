import os
import subprocess
import sys
import time

import pytest

from rossbench.util import locks
from rossbench.util.errors import StoreError
from rossbench.util.locks import Locks

HOLD = "import sys, time; from pathlib import Path; from rossbench.util.locks import Locks; "
HOLD += "one = Locks(Path(sys.argv[1])); print(one.take('a'), flush=True); time.sleep(100)"


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the lock a."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_holds_a_lock_and_others_hold_others(tmp_path):
    first, second = Locks(tmp_path), Locks(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    assert second.take("b")
    first.give("a")
    assert second.take("a")


def test_what_is_given_back_leaves_nothing(tmp_path):
    one = Locks(tmp_path / "locks")
    one.take("a")
    one.give("a")
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_living_process_keeps_its_lock_and_is_named(tmp_path, other):
    one = Locks(tmp_path)
    assert not one.take("a")
    assert f"process {other.pid} on " in one.holder("a")


def test_a_dead_process_of_this_machine_loses_it_at_once(tmp_path, other):
    other.kill()
    other.wait()
    began = time.monotonic()
    assert Locks(tmp_path).take("a")
    assert time.monotonic() - began < 10  # and not DEAD


def elsewhere(path):
    """The lock's file says that its holder is on another machine."""
    lines = path.read_text().splitlines()
    assert any(line.startswith("host=") for line in lines)
    beat = path.stat()
    path.write_text("".join(("host=far-away" if line.startswith("host=") else line) + "\n" for line in lines))
    os.utime(path, ns=(beat.st_atime_ns, beat.st_mtime_ns))


def test_of_another_machine_a_holder_is_dead_when_its_heart_has_not_beaten_while_we_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "DEAD", 1.5)
    monkeypatch.setattr(locks, "BEAT", 0.1)
    theirs = Locks(tmp_path)
    theirs.take("a")
    lease = theirs._leases["a"]
    lease._stop_heartbeat()
    elsewhere(tmp_path / "a.lock")
    ours = Locks(tmp_path)
    assert not ours.take("a")  # however old the file: their clock may be wrong
    time.sleep(1)
    os.utime(tmp_path / "a.lock")  # a beat
    assert not ours.take("a")
    time.sleep(1)
    assert not ours.take("a")
    time.sleep(1)
    assert ours.take("a")


def test_a_heart_beats_while_a_lock_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    one = Locks(tmp_path)
    one.take("a")
    before = (tmp_path / "a.lock").stat().st_mtime_ns
    time.sleep(0.3)
    assert (tmp_path / "a.lock").stat().st_mtime_ns > before


def test_where_no_file_can_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot lock: .* \(.*file/locks\)"):
        Locks(tmp_path / "file" / "locks").take("a")
