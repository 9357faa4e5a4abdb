"""Verifies candidates: the exact Jaccard similarity of pairs of texts, each pair once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from llmjobs.instructions.bands import BandIndex, Pairs
from llmjobs.instructions.shingles import Positions, shingled

Fetch = Callable[[Positions], dict[int, str]]
"""From sorted row numbers to row number -> text."""

Keys = npt.NDArray[np.int64]
"""A pair of places as one number: the smaller place times the number of rows, plus the larger."""

_CHARACTERS = 1 << 25  # of the texts that are fetched at once
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

    def keys_of(self, pairs: Pairs) -> Keys:
        """Return the pairs as numbers, without those of two rows of evaluation sets: nobody asks for them."""
        pairs = pairs[:, (self._index.rows[pairs] >= 0).any(axis=0)]
        keys: Keys = pairs.min(axis=0) * self._count + pairs.max(axis=0)
        return keys

    def verify(self, keys: Keys) -> None:
        """Compare the pairs that were not compared before, and keep the near ones."""
        keys = np.setdiff1d(keys, self._seen)
        self._seen = np.union1d(self._seen, keys)
        for part in self._portions(keys):
            similarities = self._compared(part)
            near = similarities >= self._threshold
            self._near = np.concatenate((self._near, part[near]))
            self.similarities = np.concatenate((self.similarities, similarities[near]))

    def pairs(self) -> Pairs:
        """Return the near pairs, in the order of `similarities`."""
        return np.stack(np.divmod(self._near, self._count)) if self._count else np.zeros((2, 0), dtype=np.int64)

    def near_any(self, places: Positions, heads: Positions) -> npt.NDArray[np.bool_]:
        """Return for each place whether it is near one of the heads."""
        keys = [np.minimum(places, head) * self._count + np.maximum(places, head) for head in heads]
        found = np.isin(np.reshape(keys, (len(heads), len(places))), self._near)
        return np.asarray(found.any(axis=0), dtype=np.bool_)

    def _portions(self, keys: Keys) -> Iterator[Keys]:
        if not len(keys):
            return
        characters = self._index.characters[np.stack(np.divmod(keys, self._count))].sum(axis=0, dtype=np.int64)
        portion = np.cumsum(characters) // _CHARACTERS
        yield from np.split(keys, np.flatnonzero(np.diff(portion)) + 1)

    def _compared(self, keys: Keys) -> npt.NDArray[np.float64]:
        one, other = np.divmod(keys, self._count)
        rows = np.unique(self._index.rows[np.concatenate((one, other))])
        texts = self._fetch(rows)
        ends = [np.searchsorted(rows, self._index.rows[places]) for places in (one, other)]
        return jaccard([texts[row] for row in rows.tolist()], np.stack(ends))


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
