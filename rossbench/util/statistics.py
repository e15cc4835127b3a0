"""How sure a rate or a difference is. The home of scipy, imported when it is asked: that takes longer than a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from .errors import expect


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a rate of ``right`` in ``n``, in [0, 1] (Wilson, 1927). InvalidValue if n is 0.

    By its formula, without scipy: every table asks for it.
    """
    expect(0 <= right <= n > 0, "interval", "counts with 0 <= right <= n and n above 0", f"{right} of {n}")
    z, rate = statistics.NormalDist().inv_cdf(0.975), right / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2) / scale
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))  # the rate is inside, not by an ulp


def mcnemar(only_first: int, only_second: int) -> float:
    """How likely counts as unequal as these, or more, are of samples that one of two classifiers alone gets right.

    McNemar's test (1947), exact and two-sided: by chance each is a coin's throw. In (0, 1]; 1 where there are none.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the sample standard deviation, over n - 1. InvalidValue for fewer than two values."""
    expect(len(values) >= 2, "deviation", "at least two values", len(values))
    return statistics.fmean(values), statistics.stdev(values)


def wilson_over(mean: float, n: int, rates: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean of rates of the same ``n`` samples, one a seed, in [0, 1].

    Wilson's, with each sample counted once, and at least as wide as the rates' sample deviation.
    """
    low, high = wilson(round(mean * n), n)
    deviation = mean_deviation(rates)[1] if len(rates) > 1 else 0.0
    return min(low, max(0.0, mean - deviation)), max(high, min(1.0, mean + deviation))


def kendall(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders of the same things, in [-1, 1]; None where it is not defined: one is all equal."""
    from scipy.stats import kendalltau

    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return float(kendalltau(ours, theirs).statistic)
