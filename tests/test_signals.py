import os
import signal
import threading

import pytest

from rossbench.util.signals import SIGNALS, Interrupted, defer_signals, listening


def send(number):
    os.kill(os.getpid(), number)


def under(*works):
    """Listening, with the works done one after the other."""
    with listening():
        for work in works:
            work()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_is_not_held_at_once(number):
    with pytest.raises(Interrupted, match=number.name) as raised:
        under(lambda: send(number), lambda: pytest.fail("went on"))
    assert raised.value.number == number


@pytest.mark.parametrize("number", SIGNALS)
def test_held_work_is_done_before(number):
    done = []

    def work():
        with defer_signals():
            with defer_signals():
                send(number)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Interrupted):
        under(work, lambda: done.append("after"))
    assert done == ["inner", "outer"]


def test_a_second_signal_does_not_wait():
    def work():
        with defer_signals():
            send(signal.SIGTERM)
            send(signal.SIGINT)
            pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt):
        under(work)
    with listening(), defer_signals():
        pass  # nothing is left of the first


def test_what_held_work_raises_does_not_keep_the_signal_back():
    def work():
        with defer_signals():
            send(signal.SIGINT)
            raise ValueError("disk full")

    with pytest.raises(Interrupted) as raised:
        under(work)
    assert isinstance(raised.value.__context__, ValueError)


def test_handlers_are_afterwards_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with listening():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_holds_nothing_up():
    """It is the main thread that is told of signals, and it may be anywhere while another writes."""
    entered, leave = threading.Event(), threading.Event()

    def work():
        with listening(), defer_signals():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    try:
        with pytest.raises(Interrupted):
            under(lambda: send(signal.SIGINT))
    finally:
        leave.set()
        thread.join()
