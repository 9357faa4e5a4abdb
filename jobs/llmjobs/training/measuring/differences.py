"""How sure a difference between two models on the same rows is: a paired bootstrap, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from llmjobs.contracts.training_results import Gain
from llmjobs.training.measuring.scoring import ANSWER_METRICS, RowScore, share

LESS_IS_BETTER = frozenset({"loss", "repeated"})

RESAMPLES = 4_000
_CELLS = 4_000_000
"""Numbers held at once, 32 MB."""

_SEED = 7


@dataclass(frozen=True)
class Difference:
    """By how much a model is better than another; negative is worse.

    Attributes:
        gain: Of the metric, over all rows.
        low: Lower end of its 95% interval; ``high``: the upper end.
        p_value: Two-sided, of McNemar's exact test; None where the metric is the loss.
    """

    gain: float
    low: float
    high: float
    p_value: float | None


def paired_difference(mine: list[RowScore], other: list[RowScore], metric: str) -> Difference:
    """Compare two models row by row.

    The interval is the percentile bootstrap over rows (Efron and Tibshirani, 1993), each row drawn with both models'
    scores; each metric is a ratio of sums, as in `summarise`.

    Args:
        mine: Scores of one model.
        other: Scores of the other on the same rows, in the same order.
        metric: A field of `Score`, or of `Generated` where the rows have answers.
    """
    import numpy as np

    pairs = list(zip(mine, other, strict=True))
    shares = np.array([[share(a, metric), share(b, metric)] for a, b in pairs])
    sums, weights = shares[:, :, 0], shares[:, :, 1]
    sign = -1 if metric in LESS_IS_BETTER else 1
    better, worse = (sums.sum(0) / weights.sum(0)).tolist()
    drawn = sign * np.concatenate(list(_resampled(sums, weights)))
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    p_value = None
    if metric == "exact_match":
        p_value = mcnemar(sum(a.exact > b.exact for a, b in pairs), sum(b.exact > a.exact for a, b in pairs))
    return Difference(sign * (better - worse), low, high, p_value)


def gains(mine: list[RowScore], other: list[RowScore], against: Literal["base", "champion"]) -> list[Gain]:
    """Return the gain of each metric over a rival; metrics of answers over the rows that have some."""
    answered = [(a, b) for a, b in zip(mine, other, strict=True) if a.answer and b.answer]
    answers = ([a for a, _ in answered], [b for _, b in answered])
    of = dict.fromkeys(("exact_match", "loss"), (mine, other)) | dict.fromkeys(
        ANSWER_METRICS if answered else (), answers
    )
    return [_gain(*rows, metric, against) for metric, rows in of.items()]


def _gain(mine: list[RowScore], other: list[RowScore], metric: str, against: Literal["base", "champion"]) -> Gain:
    found = paired_difference(mine, other, metric)
    return Gain(against=against, metric=metric, rows=len(mine), gain=found.gain, low=found.low, high=found.high)


def _resampled(sums: Any, weights: Any) -> Iterator[Any]:
    """Yield differences of the two weighted means, for rows drawn with replacement."""
    import numpy as np

    chance, rows, left = np.random.default_rng(_SEED), len(sums), RESAMPLES
    while left > 0:
        size = min(left, max(1, _CELLS // rows))
        times = chance.multinomial(rows, np.full(rows, 1 / rows), size=size)
        means = (times @ sums) / (times @ weights)
        yield means[:, 0] - means[:, 1]
        left -= size


def mcnemar(only_mine: int, only_other: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (a sign test on the rows that only one model has right)."""
    rows, fewer = only_mine + only_other, min(only_mine, only_other)
    if rows == 0:
        return 1.0
    tail = sum(math.comb(rows, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**rows))
