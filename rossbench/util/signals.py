"""SIGINT and SIGTERM end a run between two steps, where its state can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came, and nothing is half done."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_held = 0
"""How many pieces of work that must not be torn are under way, one in the other."""
_waiting: int | None = None
"""The signal that came meanwhile."""


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Signals raise Interrupted inside: at once, or when held work is done. A second one does not wait for that."""
    if not _is_told():
        yield
        return
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, _receive)
        yield


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Handlers of signals are afterwards as before, whatever a library does to them."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    try:
        yield
    finally:
        if _is_told():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """What is done inside is done as a whole, unless it raises."""
    global _held, _waiting
    if not _is_told():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and (number := _waiting) is not None:
            _waiting = None
            raise Interrupted(number)


def waiting() -> int | None:
    """The signal that came while work is held."""
    return _waiting


def _is_told() -> bool:
    """Python tells its main thread alone of signals."""
    return threading.current_thread() is threading.main_thread()


def _receive(number: int, frame: FrameType | None) -> None:
    global _waiting
    if not _held:
        raise Interrupted(number)
    if _waiting is not None:
        _waiting = None
        raise KeyboardInterrupt(signal.Signals(number).name)
    _waiting = number
