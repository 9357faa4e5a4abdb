"""Verifies candidates: the exact Jaccard similarity of pairs of texts, each pair once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llmjobs.instructions.alike.bands import BandIndex, Pairs
from llmjobs.instructions.alike.shingles import Positions, shingled

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Fetch = Callable[[Positions], dict[int, str]]
"""From sorted row numbers to row number -> text."""

Keys = npt.NDArray[np.int64]
"""A pair of places as one number: the smaller place times the number of rows, plus the larger."""

_CHARACTERS = 1 << 25  # of the texts that are fetched at once
_SKETCHES = 1 << 17  # pairs whose sketches are compared at once: 30 MB
_MARGIN = 0.15  # three and a half standard deviations of an estimate from 128 slots: one near pair in 3,000 is lost
_COLUMNS = (1 << 63) - 1


class Verifier:
    """Knows which pairs have been compared, and how similar the near ones are."""

    def __init__(self, index: BandIndex, fetch: Fetch, threshold: float) -> None:
        self._index = index
        self._fetch = fetch
        self._threshold = threshold
        self._count = len(index.rows)
        self._seen: Keys = np.zeros(0, dtype=np.int64)
        self._near: Keys = np.zeros(0, dtype=np.int64)
        self.similarities: npt.NDArray[np.float64] = np.zeros(0)

    def likely(self, pairs: Pairs) -> Keys:
        """Return those of the pairs, each once, whose sketches do not rule out that they are near.

        Pairs of two rows of evaluation sets are left out: nobody asks for them.
        """
        pairs = pairs[:, (pairs[0] != pairs[1]) & (self._index.rows[pairs] >= 0).any(axis=0)]
        keys: Keys = np.unique(pairs.min(axis=0) * self._count + pairs.max(axis=0))
        portions = [keys[begin : begin + _SKETCHES] for begin in range(0, len(keys), _SKETCHES)]
        least = self._threshold - _MARGIN
        return np.concatenate(
            [keys[:0], *(part[self._index.estimated(self._places(part)) >= least] for part in portions)]
        )

    def verify(self, keys: Keys) -> None:
        """Compare the texts of pairs that were not compared before, and keep the near ones."""
        keys = np.setdiff1d(keys, self._seen)
        self._seen = np.union1d(self._seen, keys)
        for part in self._portions(keys):
            similarities = self._compared(part)
            near = similarities >= self._threshold
            self._near = np.concatenate((self._near, part[near]))
            self.similarities = np.concatenate((self.similarities, similarities[near]))

    def pairs(self) -> Pairs:
        """Return the near pairs, in the order of `similarities`."""
        return self._places(self._near)

    def are_near(self, pairs: Pairs) -> npt.NDArray[np.bool_]:
        """Return which of the pairs were found to be near."""
        return np.isin(pairs.min(axis=0) * self._count + pairs.max(axis=0), self._near)

    def _places(self, keys: Keys) -> Pairs:
        return np.stack(np.divmod(keys, max(self._count, 1)))

    def _portions(self, keys: Keys) -> Iterator[Keys]:
        if not len(keys):
            return
        characters = self._index.characters[self._places(keys)].sum(axis=0, dtype=np.int64)
        portion = np.cumsum(characters) // _CHARACTERS
        yield from np.split(keys, np.flatnonzero(np.diff(portion)) + 1)

    def _compared(self, keys: Keys) -> npt.NDArray[np.float64]:
        pairs = self._index.rows[self._places(keys)]
        rows = np.unique(pairs)
        texts = self._fetch(rows)
        return jaccard([texts[row] for row in rows.tolist()], np.searchsorted(rows, pairs))


def jaccard(texts: Sequence[str], pairs: Pairs) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of the sets of shingles of pairs of texts; 0 where both have none.

    Args:
        texts: Normalised texts.
        pairs: Of shape (2, pairs): positions in the texts.
    """
    sets = _sets(texts)
    sizes = np.diff(sets.indptr)
    common = np.concatenate(
        [np.zeros(0), *(_common(sets, pairs[:, begin : begin + 50_000]) for begin in range(0, pairs.shape[1], 50_000))]
    )
    union = sizes[pairs].sum(axis=0) - common
    return np.asarray(np.divide(common, union, out=np.zeros(len(common)), where=union > 0))


def _sets(texts: Sequence[str]) -> csr_array:
    """Return a row for each text, with a one at the column of each of its shingles: 63 bits of its hash."""
    from scipy.sparse import csr_array

    parts = list(shingled(texts))
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *(part for part, _ in parts)])
    counts = np.concatenate([np.zeros(0, dtype=np.int64), *(np.diff(offsets) for _, offsets in parts)])
    columns = (hashes >> np.uint64(1)).astype(np.int64)
    sets = csr_array((np.ones(len(hashes), np.int32), columns, np.append(0, np.cumsum(counts))), (len(texts), _COLUMNS))
    sets.sum_duplicates()
    sets.data[:] = 1
    return sets


def _common(sets: csr_array, pairs: Pairs) -> npt.NDArray[np.float64]:
    return np.asarray(sets[pairs[0]].multiply(sets[pairs[1]]).sum(axis=1), dtype=np.float64)
