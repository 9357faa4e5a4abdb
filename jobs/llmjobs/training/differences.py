"""How sure a difference between two models on the same rows is: a paired bootstrap, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from llmjobs.training.scoring import RowScore

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


def paired_difference(
    mine: list[RowScore], other: list[RowScore], metric: Literal["exact_match", "loss"]
) -> Difference:
    """Compare two models row by row.

    The interval is the percentile bootstrap over rows (Efron and Tibshirani, 1993), each row drawn with both models'
    scores; the loss is a ratio of sums, as in `summarise`.

    Args:
        mine: Scores of one model.
        other: Scores of the other on the same rows, in the same order.
        metric: ``exact_match`` or ``loss``.
    """
    import numpy as np

    pairs = list(zip(mine, other, strict=True))
    p_value = None
    if metric == "loss":
        # The other model's comes first: less is better.
        sums = np.array([[b.nats, a.nats] for a, b in pairs])
        weights = np.array([[b.tokens, a.tokens] for a, b in pairs], dtype=float)
    else:
        sums = np.array([[a.exact, b.exact] for a, b in pairs], dtype=float)
        weights = np.ones_like(sums)
        p_value = mcnemar(sum(a.exact > b.exact for a, b in pairs), sum(b.exact > a.exact for a, b in pairs))
    better, worse = (sums.sum(0) / weights.sum(0)).tolist()
    low, high = np.percentile(np.concatenate(list(_resampled(sums, weights))), [2.5, 97.5]).tolist()
    return Difference(better - worse, low, high, p_value)


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
