import pytest
import torch

from rossbench.util.errors import OutOfMemory
from rossbench.util.memory import AutoBatch, attempt

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


def raising(error):
    def work(*rows):
        raise error

    return work


@pytest.mark.parametrize("error", SHORT, ids=[type(error).__name__ for error in SHORT])
def test_short_memory_is_no_result(error):
    assert attempt(raising(error)) is None


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("no")])
def test_other_errors_are_other_errors(error):
    with pytest.raises(type(error), match=str(error)):
        attempt(raising(error))


def test_the_cpus_own_error_is_known():
    assert attempt(lambda: torch.empty(2**60, dtype=torch.uint8)) is None


def sizes(most, at_once, rows, least=1):
    """The pieces that work gets which has memory for ``most``."""
    tried = []

    def work(piece):
        tried.append(len(piece))
        if len(piece) > most:
            raise torch.OutOfMemoryError
        return piece.clone()

    made = list(AutoBatch(at_once, least).of(work, torch.arange(rows)))
    assert torch.equal(torch.cat([piece for piece, _ in made]), torch.arange(rows))
    assert all(torch.equal(piece, found) for piece, found in made)
    return tried


@pytest.mark.parametrize(
    ("most", "tried"),
    [(100, [16, 16, 8]), (8, [16, 8, 8, 8, 8, 8]), (5, [16, 8, *[4] * 10]), (1, [16, 8, 4, 2, *[1] * 40])],
)
def test_pieces_are_halved_until_they_fit_and_stay_so(most, tried):
    assert sizes(most, 16, 40) == tried


def test_the_next_rows_begin_with_what_fitted():
    pieces, tried = AutoBatch(16), []

    def work(piece):
        tried.append(len(piece))
        if len(piece) > 4:
            raise torch.OutOfMemoryError
        return piece

    for _ in range(2):
        list(pieces.of(work, torch.arange(8)))
    assert tried == [8, 4, 4, 4, 4]


@pytest.mark.parametrize(("least", "rows"), [(1, 16), (9, 16)])
def test_what_cannot_be_halved_any_more_is_said(least, rows):
    with pytest.raises(OutOfMemory, match="to fit the memory of cpu, got out of memory"):
        sizes(0, rows, rows, least)


def test_nothing_is_no_work():
    assert list(AutoBatch(4).of(raising(SHORT[0]), torch.arange(0))) == []
