import contextlib
import random

import numpy as np
import pytest
import torch

from rossbench.util.seeds import derive, seeded


def test_every_purpose_has_a_stream_of_its_own():
    purposes = [("pretrain", 1, 2), ("pretrain", 12), ("pretrain", 1), ("finetune", 1), ()]
    seeds = {derive(seed, *purpose) for seed in (0, 1) for purpose in purposes}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_never_change():
    """Results of stored runs hang on them."""
    assert derive(0, "pretrain", 3) == PINNED


PINNED = 7780664066313659538


def test_the_global_state_is_as_before_also_after_an_error():
    before, drawn = states(), []
    for seed in (5, 5, 2**62):
        with contextlib.suppress(ZeroDivisionError), seeded(seed):
            drawn.append([torch.rand(1).item(), np.random.rand(), random.random()])
            raise ZeroDivisionError
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))
    assert states() == before


def states():
    return torch.get_rng_state().tolist(), [*map(str, np.random.get_state())], random.getstate()


def test_the_stream_is_that_of_manual_seed():
    with seeded(5):
        ours = torch.rand(3)
    assert torch.equal(ours, torch.rand(3, generator=torch.Generator().manual_seed(5)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_devices_state_is_as_before_too():
    device = torch.device("cuda", torch.cuda.current_device())
    before = torch.cuda.get_rng_state(device)
    with seeded(5, device):
        first = torch.rand(3, device=device)
    with seeded(5, device):
        second = torch.rand(3, device=device)
    assert torch.equal(first, second)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
