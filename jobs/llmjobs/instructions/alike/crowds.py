"""Compares the rows of crowded buckets without comparing all with all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmjobs.instructions.alike.bands import Pairs
from llmjobs.instructions.alike.shingles import Positions
from llmjobs.instructions.alike.similarity import Verifier

ROUNDS = (2, 6, 8, 16)
"""Rows of a crowd that all others are compared with, round by round; of a cluster the first two take nearly all."""

OUTSIDERS = 32
"""Rows of evaluation sets in a crowd that are compared with all of it."""

_WORTH = 1 / 16  # share of a crowd that a round must find near its heads, or the crowd is no cluster


@dataclass(frozen=True)
class Crowds:
    """Buckets, one after the other.

    Attributes:
        places: Of their rows, in each the most preferred first and those of evaluation sets last.
        sizes: Of the buckets, in rows.
    """

    places: Positions
    sizes: Positions

    @classmethod
    def joined(cls, parts: list[tuple[Positions, Positions]]) -> Crowds:
        """Return the crowds of all bands, each given as `places` and `sizes`."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(*(np.concatenate([nothing, *column]) for column in zip((nothing, nothing), *parts, strict=True)))

    @property
    def starts(self) -> Positions:
        """Where each crowd begins in `places`."""
        return np.cumsum(self.sizes) - self.sizes

    def kept(self, stay: npt.NDArray[np.bool_]) -> Crowds:
        """Return the crowds with these rows only, without those of a single row."""
        crowd = np.repeat(np.arange(len(self.sizes)), self.sizes)
        sizes = np.bincount(crowd[stay], minlength=len(self.sizes))
        many = sizes > 1
        return Crowds(self.places[stay & many[crowd]], sizes[many])


def compare_crowds(crowds: Crowds, rows: Positions, verifier: Verifier) -> None:
    """Compare the rows of each crowd with its first 2, those near none of them with the next 6, and so on: `ROUNDS`.

    A crowd in which a round finds next to nothing only shares some phrases, and is left. Rows of evaluation sets are
    compared with all others, up to 32 of them in a crowd.
    """
    _compare_outsiders(crowds, rows, verifier)
    for heads in ROUNDS:
        if not len(crowds.sizes):
            return
        pairs = [_with_head(crowds, head) for head in range(heads)]
        verifier.verify(np.concatenate([verifier.likely(part) for part in pairs]))
        crowds = _remaining(crowds, pairs, rows, verifier)


def _with_head(crowds: Crowds, head: int) -> Pairs:
    """Return the pairs of each row of a crowd with the one at this position; one that comes before with itself."""
    position = np.minimum(head, crowds.sizes - 1)
    return np.stack((np.repeat(crowds.places[crowds.starts + position], crowds.sizes), crowds.places))


def _remaining(crowds: Crowds, pairs: list[Pairs], rows: Positions, verifier: Verifier) -> Crowds:
    crowd = np.repeat(np.arange(len(crowds.sizes)), crowds.sizes)
    near = np.zeros(len(crowds.places), dtype=np.bool_)
    for part in pairs:
        near |= verifier.are_near(part)
    near &= rows[crowds.places] >= 0
    worth = np.bincount(crowd[near], minlength=len(crowds.sizes)) >= _WORTH * crowds.sizes
    after = np.arange(len(crowd)) - crowds.starts[crowd] >= len(pairs)
    return crowds.kept(after & ~near & worth[crowd])


def _compare_outsiders(crowds: Crowds, rows: Positions, verifier: Verifier) -> None:
    keys = [np.zeros(0, dtype=np.int64)]
    for before_last in range(1, OUTSIDERS + 1):
        place = crowds.places[np.maximum(np.cumsum(crowds.sizes) - before_last, 0)]
        outside = (rows[place] < 0) & (crowds.sizes >= before_last)
        if not outside.any():
            break
        members = crowds.places[np.repeat(outside, crowds.sizes)]
        keys.append(verifier.likely(np.stack((np.repeat(place[outside], crowds.sizes[outside]), members))))
    verifier.verify(np.concatenate(keys))
