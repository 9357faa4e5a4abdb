"""Which gaps between pieces become borders of chunks: a choice that an edit elsewhere does not change.

A greedy packer that fills chunk after chunk moves all later borders when something is inserted. Here a gap is an
anchor when it is the best one within half a chunk to either side: by its kind, then by a hash of the words around it.
That depends on nothing further away. Anchors are at least half a chunk apart, and mostly less than two; where they are
more than a chunk apart, the best gaps between them are taken, from left to right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

REACH = 0.5
"""Share of a chunk within which an anchor is the best gap."""

LEAST = 0.3
"""Share of a chunk below which none is made by a cut between anchors, where that can be helped."""

Rank = tuple[int, int]
"""Of a gap: its kind and a hash; the greater, the better."""


def borders(sizes: Sequence[int], ranks: Sequence[Rank], room: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks as ranges of pieces, first and behind the last.

    Args:
        sizes: Tokens of each piece, none more than `room`.
        ranks: Of the gap before each piece; that of the first counts for nothing.
        room: Most tokens of a chunk.
    """
    return _Gaps([0, *accumulate(sizes)], ranks, room).ranges()


@dataclass(frozen=True)
class _Gaps:
    """The gaps of one section: gap `i` is before piece `i`, `places[i]` tokens behind the section's begin."""

    places: Sequence[int]
    ranks: Sequence[Rank]
    room: int

    def ranges(self) -> Iterator[tuple[int, int]]:
        last = len(self.ranks)
        if self.places[last] <= self.room:
            yield 0, last
            return
        for one, other in pairwise([0, *self._anchors(), last]):
            yield from self._filled(one, other)

    def _anchors(self) -> Iterator[int]:
        """Yield the gaps that are better than all others within reach, and further than that from both ends."""
        reach = REACH * self.room
        for gap in range(1, len(self.ranks)):
            if reach <= self.places[gap] <= self.places[-1] - reach and self._is_best(gap, reach):
                yield gap

    def _is_best(self, gap: int, reach: float) -> bool:
        place, rank = self.places[gap], self.ranks[gap]
        left = gap - 1
        while left > 0 and place - self.places[left] < reach:
            if self.ranks[left] >= rank:  # of equal ones the first
                return False
            left -= 1
        right = gap + 1
        while right < len(self.ranks) and self.places[right] - place < reach:
            if self.ranks[right] > rank:
                return False
            right += 1
        return True

    def _filled(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the chunks between two anchors, as few as there can be where two are enough."""
        while (rest := self.places[last] - self.places[first]) > self.room:
            low, high = LEAST * self.room, float(self.room)
            if rest <= 2 * self.room:
                low, high = max(low, rest - self.room), min(high, rest - low)
            cut = self._best_cut(first, last, low, high)
            yield first, cut
            first = cut
        yield first, last

    def _best_cut(self, first: int, last: int, low: float, high: float) -> int:
        """Return the best gap that leaves `low` to `high` tokens before it, or else the last one that fits."""
        fitting = first + 1
        chosen: list[int] = []
        for gap in range(first + 1, last):
            size = self.places[gap] - self.places[first]
            if size > self.room:
                break
            fitting = gap
            if low <= size <= high:
                chosen.append(gap)
        return max(chosen, key=lambda gap: (self.ranks[gap], gap), default=fitting)
