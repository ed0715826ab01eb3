"""Whole samples for each source from weights, so that a larger mixture never takes fewer of any source."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

from filters.errors import ConfigError

# Samples that are given out one by one, at some 2 µs each, before weights are called too fine.
_MAX_STEPS = 1_000_000


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Counts that add up to `total`, each less than one away from its exact share, and none falling as it grows.

    The quota method of Balinski and Young ("The quota method of apportionment", American Mathematical Monthly 82,
    1975): the next sample goes to the source with the largest weight / (count + 1) of those whose count would stay
    below their share of the new total, rounded up; ties go to the one listed first. Largest remainders meet the
    shares too, but a source may get fewer of a larger total (the Alabama paradox), and subsets would not be nested.

    The shares are exact at each multiple of the period, the sum of the weights as coprime whole numbers, and what
    follows is the same after each: only the rest is given out one by one. Weights are taken as written, 0.1 as a
    tenth. Raises ConfigError where that rest is too long.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    whole = [weight // divisor for weight in whole]
    periods, rest = divmod(total, sum(whole))
    if rest > _MAX_STEPS:
        raise ConfigError(
            f"weights {', '.join(map(str, weights))} are too fine for {total} samples: round the weights, so that as "
            f"whole numbers without a common divisor they add up to {_MAX_STEPS} at most"
        )
    return [periods * weight + count for weight, count in zip(whole, _first(whole, rest), strict=True)]


def _first(weights: Sequence[int], steps: int) -> list[int]:
    """The counts after the first `steps` samples of a period."""
    period = sum(weights)
    counts = [0] * len(weights)
    # A source's next sample may be given from the step on at which its count falls behind its exact share.
    waiting = [(1, i) for i in range(len(weights))]
    # (count + 1) / weight over one denominator: exact, and five times as fast as fractions.
    places = [math.lcm(*weights) // weight for weight in weights]
    ready: list[tuple[int, int]] = []
    for step in range(1, steps + 1):
        while waiting and waiting[0][0] <= step:
            _, i = heapq.heappop(waiting)
            heapq.heappush(ready, ((counts[i] + 1) * places[i], i))
        _, i = heapq.heappop(ready)
        counts[i] += 1
        heapq.heappush(waiting, (counts[i] * period // weights[i] + 1, i))
    return counts
