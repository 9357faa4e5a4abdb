"""Cuts the MinHash signature of each row into bands: rows that agree on a whole band may be nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rensa  # type: ignore[import-untyped]

from llmjobs.instructions.alike.mixing import mixed
from llmjobs.instructions.alike.shingles import Hashes, Positions, shingled

Pairs = npt.NDArray[np.int64]
"""Of shape (2, pairs): places of rows."""

SLOTS = 128
MISSED = 0.015
CROWD = 32
"""Rows of a bucket that are compared all with all; in a larger one the pairs would be too many."""

_SEED = 20_260_101


def band_sizes(threshold: float) -> tuple[int, int]:
    """Return how many of 128 slots make a band, and how many bands there are.

    Two texts of similarity s share no band with a probability of (1 - s**width)**bands (Leskovec et al., Mining of
    Massive Datasets, 3.4). Of the widths that miss at most 1.5% at the threshold the largest has the fewest candidates.
    """
    widths = range(1, SLOTS + 1)
    fitting = [width for width in widths if (1 - threshold**width) ** (SLOTS // width) <= MISSED]
    width = max(fitting, default=1)
    return width, SLOTS // width


@dataclass(frozen=True)
class BandIndex:
    """What is kept of each row that has a shingle, about 250 bytes. A row's place in the arrays stands for it.

    Attributes:
        rows: Row numbers; those of evaluation sets are negative.
        contents: Sum of all shingles: equal where rows have the same shingles equally often.
        characters: Lengths of the texts.
        sketches: Last byte of each slot of the signatures, of shape (rows, slots).
        chunks: Bands of the rows, chunk by chunk, each of shape (bands, rows).
    """

    rows: Positions
    contents: Hashes
    characters: npt.NDArray[np.uint32]
    sketches: npt.NDArray[np.uint8]
    chunks: list[npt.NDArray[np.uint32]]

    @classmethod
    def of(cls, batches: Iterable[tuple[npt.NDArray[Any], Sequence[str]]], threshold: float) -> BandIndex:
        """Read all texts once. Those without a token are left out: they are near nothing."""
        width, count = band_sizes(threshold)
        nothing = (np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))
        parts = [(*nothing, np.zeros((0, width * count), np.uint8), np.zeros((count, 0), np.uint32))]
        for numbers, texts in batches:
            lengths = np.fromiter(map(len, texts), dtype=np.uint32, count=len(texts))
            begin = 0
            for hashes, offsets in shingled(texts):
                chunk = slice(begin, begin + len(offsets) - 1)
                begin = chunk.stop
                full = np.diff(offsets) > 0
                starts = offsets[:-1][full]
                if not len(starts):
                    continue
                slots = _signed(hashes, np.append(starts, offsets[-1]), width * count)
                contents = np.add.reduceat(hashes, starts)
                kept = (numbers[chunk][full].astype(np.int64), contents, lengths[chunk][full])
                parts.append((*kept, slots.astype(np.uint8), _banded(slots, width)))
        rows, contents, characters, sketches = (np.concatenate([part[column] for part in parts]) for column in range(4))
        return cls(rows, contents, characters, sketches, [part[4] for part in parts])

    def estimated(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """Return the similarity of pairs of places as their signatures tell it, within about 0.04."""
        return np.asarray((self.sketches[pairs[0]] == self.sketches[pairs[1]]).mean(axis=1))

    def buckets(self, places: Positions) -> Iterator[tuple[Pairs, tuple[Positions, Positions]]]:
        """Yield for each band the pairs of places that share it; and the crowds, places whose pairs are too many.

        Args:
            places: The places that are looked at; pairs and crowds keep their order.

        Yields:
            The pairs; and the places of all crowds, one after the other, with the sizes of the crowds.
        """
        for band in range(len(self.chunks[0])):
            pairs, crowded, sizes = _shared(np.concatenate([chunk[band] for chunk in self.chunks])[places])
            yield places[pairs], (places[crowded], sizes)

    def equal(self, order: Positions) -> tuple[Positions, Pairs]:
        """Return the first place of each content, in this order, and the pairs that tie the others to it."""
        grouped = order[np.argsort(self.contents[order], kind="stable")]
        contents = self.contents[grouped]
        new = np.ones(len(grouped), dtype=np.bool_)
        new[1:] = contents[1:] != contents[:-1]
        first = grouped[new][np.cumsum(new) - 1]
        is_first = np.zeros(len(order), dtype=np.bool_)
        is_first[grouped[new]] = True
        return order[is_first[order]], np.stack((first[~new], grouped[~new]))


def _signed(hashes: Hashes, offsets: Positions, count: int) -> npt.NDArray[np.uint32]:
    """Return the signatures of texts that have at least one shingle, of shape (texts, slots)."""
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), count, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _banded(slots: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint32]:
    """Return the bands of signatures, of shape (bands, texts)."""
    banded = slots.reshape(len(slots), -1, width)
    values = np.zeros(banded.shape[:2], dtype=np.uint64)
    for slot in range(width):
        values = mixed(values + banded[:, :, slot] + np.uint64(slot))
    return np.ascontiguousarray((values >> np.uint64(32)).astype(np.uint32).T)


def _shared(band: npt.NDArray[np.uint32]) -> tuple[Pairs, Positions, Positions]:
    """Return the pairs of positions with the same value, the positions in crowds, and the sizes of the crowds."""
    order = np.argsort(band, kind="stable")
    values = band[order]
    begins = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(band)])
    sizes = np.diff(np.append(begins, len(band)))
    crowded = sizes > CROWD
    last = np.repeat(np.where(crowded, begins, begins + sizes - 1), sizes)  # of a crowd no position has a follower
    place = np.arange(len(band))
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for ahead in range(1, CROWD):
        follows = place + ahead <= last
        if not follows.any():
            break
        place, last = place[follows], last[follows]
        pairs.append(np.stack((order[place], order[place + ahead])))
    return np.concatenate(pairs, axis=1), order[np.repeat(crowded, sizes)], sizes[crowded]
