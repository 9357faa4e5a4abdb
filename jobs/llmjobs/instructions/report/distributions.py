"""Distributions of the rows of a dataset: shares, quantiles, histograms, and how far two of them are apart.

Everything is counted by value first: rows have few distinct lengths and categories, so what follows costs next to
nothing, however many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

NO_VALUE = "(none)"
"""What rows without a value are counted as."""

QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}

_BINS = 24
_TAIL = 0.005
"""Share of the rows at each end that the first and the last bin take in, however far away they are."""

_NARROW = 8
"""From this ratio of the longest to the shortest row on, bins grow with the length."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Rows by length, of one or several groups of rows over the same bins.

    Attributes:
        edges: Edges of the bins, rising, one more than bins; whole numbers. The first and the last bin also hold what
            lies beyond.
        rows: Name of the group -> rows in each bin.
    """

    edges: tuple[int, ...]
    rows: dict[str, tuple[int, ...]]

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1


def counts(values: pl.Series) -> dict[str, int]:
    """Return category -> rows, the most frequent first, of equal ones the first in the alphabet; null is `NO_VALUE`."""
    counted = values.cast(pl.String).fill_null(NO_VALUE).value_counts(name="rows")
    name = counted.columns[0]
    return dict(counted.sort(["rows", name], descending=[True, False]).iter_rows())


def quantiles(lengths: pl.Series) -> dict[str, float]:
    """Return the `QUANTILES` of lengths, each the length of a row; empty without rows."""
    found = {name: lengths.quantile(share, interpolation="nearest") for name, share in QUANTILES.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def kolmogorov_smirnov(one: pl.Series, other: pl.Series) -> float:
    """Return the largest distance of the two distribution functions, 0 to 1, over all rows; nulls do not count.

    It is the statistic of ``scipy.stats.ks_2samp``.

    Raises:
        ValueError: One of both has no row.
    """
    lengths, rows = _aligned(one, other)
    total = rows.sum(axis=1, keepdims=True)
    if not lengths.size or not total.all():
        raise ValueError("no rows on one side: there is no distance")
    functions = rows.cumsum(axis=1) / total
    return float(np.abs(functions[0] - functions[1]).max())


def jensen_shannon(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon distance of the shares in two counts, base 2: 0 the same, 1 nothing in common.

    It is the square root of the divergence, as ``scipy.spatial.distance.jensenshannon(p, q, base=2)`` (Endres and
    Schindelin, IEEE Transactions on Information Theory 49, 2003).

    Raises:
        ValueError: One of both has no row.
    """
    names = list({**one, **other})
    rows = np.array([[side.get(name, 0) for name in names] for side in (one, other)], dtype=np.float64)
    total = rows.sum(axis=1, keepdims=True)
    if not names or not total.all():
        raise ValueError("no rows on one side: there is no distance")
    shares = rows / total
    middle = shares.mean(axis=0)
    # 0 log 0 is 0; where a share is above 0 the middle is too.
    ratio = np.divide(shares, middle, out=np.ones_like(shares), where=shares > 0)
    divergence = float((shares * np.log2(ratio)).sum(axis=1).mean())
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def histogram(groups: Mapping[str, pl.Series]) -> Histogram | None:
    """Return the rows of each group by length, over bins that suit all of them together; None without rows.

    Args:
        groups: Name -> lengths (characters or tokens), Int64; nulls do not count.
    """
    counted = {name: _counted(lengths) for name, lengths in groups.items()}
    lengths, rows = _together(list(counted.values()))
    if not lengths.size:
        return None
    edges = _edges(lengths, rows)
    binned = {name: _binned(*of_group, edges) for name, of_group in counted.items()}
    return Histogram(tuple(int(edge) for edge in edges), binned)


def _edges(lengths: Integers, rows: Integers) -> Integers:
    """Return at most `_BINS` + 1 whole numbers: even steps where rows are alike in length, growing ones else."""
    reached = np.cumsum(rows) / rows.sum()
    ends = np.searchsorted(reached, [_TAIL, 1 - _TAIL]).clip(max=lengths.size - 1)
    low, high = int(lengths[ends[0]]), int(lengths[ends[1]]) + 1
    grows = high / max(low, 1) >= _NARROW
    steps = np.geomspace(max(low, 1), high, _BINS + 1) if grows else np.linspace(low, high, _BINS + 1)
    return np.unique(np.rint(steps).astype(np.int64))


def _binned(lengths: Integers, rows: Integers, edges: Integers) -> tuple[int, ...]:
    places = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, edges.size - 2)
    return tuple(int(count) for count in np.bincount(places, weights=rows, minlength=edges.size - 1))


def _counted(lengths: pl.Series) -> tuple[Integers, Integers]:
    """Return the distinct lengths, rising, and the rows of each."""
    found = lengths.drop_nulls().cast(pl.Int64).rename("length").value_counts(name="rows").sort("length")
    return found["length"].to_numpy(), found["rows"].cast(pl.Int64).to_numpy()


def _together(counted: list[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    lengths, rows = _table(counted)
    return lengths, rows.sum(axis=0)


def _aligned(one: pl.Series, other: pl.Series) -> tuple[Integers, Integers]:
    """Return all distinct lengths ``(n,)``, rising, and the rows of both sides ``(2, n)``."""
    return _table([_counted(one), _counted(other)])


def _table(counted: list[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    """Return all distinct lengths ``(n,)``, rising, and the rows of each group ``(groups, n)``."""
    lengths = np.unique(np.concatenate([of_group[0] for of_group in counted])) if counted else np.empty(0, np.int64)
    rows = np.zeros((len(counted), lengths.size), dtype=np.int64)
    for place, (of_group, of_rows) in enumerate(counted):
        rows[place, np.searchsorted(lengths, of_group)] = of_rows
    return lengths, rows
