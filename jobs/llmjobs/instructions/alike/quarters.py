"""A quarter of each key, 32 bits, where whole keys of all rows at once would take too much memory.

Rows whose quarters differ have different keys; of the few others the whole keys are compared.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import polars as pl


def quarter(key: str) -> pl.Expr:
    """Return the lowest 32 bits of a key (Int128): rows where these differ have different keys."""
    return (pl.col(key) & pl.lit(2**32 - 1, dtype=pl.Int128)).cast(pl.UInt32)


class Shared:
    """A set of numbers of 32 bits that may claim to have others too, for a few nanoseconds a question.

    A table of hashes as `is_in` makes one, anew for each chunk, cost ten times the joins that it spares.
    """

    _BITS = 25

    def __init__(self, numbers: Iterable[pl.Series]) -> None:
        self._there = np.zeros(1 << self._BITS, dtype=np.bool_)
        for series in numbers:
            self._there[self._places(series)] = True

    def has(self, numbers: pl.Series) -> npt.NDArray[np.bool_]:
        """Return for each number whether it may be in the set; of one that is, always True."""
        return np.asarray(self._there[self._places(numbers)])

    def _places(self, numbers: pl.Series) -> npt.NDArray[np.uint32]:
        return np.asarray(numbers.to_numpy() & np.uint32((1 << self._BITS) - 1))


def repeated(numbers: pl.Series) -> pl.Series:
    """Return the numbers that are there more than once, each once."""
    ordered = np.sort(numbers.to_numpy())
    return pl.Series(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
