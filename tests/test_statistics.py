import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rossbench.util.errors import InvalidValue
from rossbench.util.statistics import kendall, mcnemar, mean_deviation, wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3, as printed
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_printed_by_newcombe(right, n, low, high):
    assert wilson(right, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_the_rate_within_0_and_1_and_is_symmetric_in_right_and_wrong(counts):
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    other = wilson(n - right, n)
    assert (1 - other[1], 1 - other[0]) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_counts_that_are_none(right, n):
    with pytest.raises(InvalidValue, match=f"got {right} of {n}"):
        wilson(right, n)


def coin(only, other):
    """The exact test from its definition: as far from half, or further, of so many throws."""
    n, k = only + other, min(only, other)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(only, other):
    assert mcnemar(only, other) == pytest.approx(coin(only, other), rel=1e-9)
    assert mcnemar(only, other) == mcnemar(other, only)


@pytest.mark.parametrize(
    ("only", "other", "p"), [(0, 0, 1), (5, 5, 1), (0, 5, 0.0625), (0, 6, 0.03125), (1, 9, 22 / 1024)]
)
def test_mcnemar_by_hand(only, other, p):
    assert mcnemar(only, other) == pytest.approx(p)


def test_deviation_is_that_of_a_sample():
    assert mean_deviation([1, 2, 3, 6]) == (3, pytest.approx(math.sqrt(14 / 3)))
    for values in ([], [1.0]):
        with pytest.raises(InvalidValue, match="expected at least two values"):
            mean_deviation(values)


@pytest.mark.parametrize(
    ("ours", "theirs", "tau"),
    [((1, 2, 3), (4, 5, 6), 1), ((3, 2, 1), (4, 5, 6), -1), ((1, 1), (1, 2), None), ((), (), None)],
)
def test_kendalls_tau(ours, theirs, tau):
    assert kendall(ours, theirs) == (tau if tau is None else pytest.approx(tau))
