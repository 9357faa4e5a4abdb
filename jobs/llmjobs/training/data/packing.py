"""How the rows of one optimiser step are cut into micro batches for the processes. Pure: lengths in, places out.

The cut changes where and in which company a row is computed, never what is learnt: the loss is a sum over the whole
step's answer tokens, and rows that share a pack do not see each other (`llmjobs.training.data.batches.packed`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

Pack = list[int]
"""Rows in one sequence, as places in the step."""

MicroBatch = list[Pack]
"""Packs that a device computes at once; without packing each holds one row. Empty: the process only keeps step."""

_WIDTH_OF_DOUBLE_COST = 1250
"""Tokens at which a pack costs twice as much a token as a short one, for attention with a mask is quadratic. Measured
on a CPU with a hidden size of 576 (sdpa, forward and backward); a larger model could afford wider packs."""

_SLACK = (1.0, 1.05, 1.15)
"""Capacities that are tried for each number of packs, in parts of the tokens that one of them must hold."""

_TRIED_COUNTS = 8


@dataclass(frozen=True)
class Cutter:
    """Cuts steps for one layout.

    Attributes:
        processes: Processes that share a step.
        micro_batch_size: Rows, or packs, that a process computes at once, at most.
        capacity_tokens: Longest pack; 0 packs nothing.
        flat: Whether the packs of a micro batch are laid end to end without padding, for varlen kernels. Then packs
            are as long as they may be; else as wide as pays, for a batch of packs is padded to its longest.
    """

    processes: int
    micro_batch_size: int
    capacity_tokens: int = 0
    flat: bool = False

    def halved(self) -> Cutter | None:
        """Return the cutter of half the micro batch, or None where that is one row or pack already."""
        if self.micro_batch_size == 1:
            return None
        half = self.micro_batch_size // 2
        return Cutter(self.processes, half, self.capacity_tokens, self.flat)

    def cut(self, lengths: Sequence[int]) -> list[list[MicroBatch]]:
        """Return the micro batches of each process: ``[process][micro batch]``, as many for each of them.

        Micro batches hold packs of like length, and those that are computed at the same time are alike too.

        Args:
            lengths: Tokens of the step's rows, ``(rows,)``.
        """
        packs = self._packs(lengths) if self.capacity_tokens else [[row] for row in range(len(lengths))]
        rounds = -(-len(packs) // (self.processes * self.micro_batch_size))
        slots = rounds * self.processes
        packs = sorted(_split(packs, slots), key=lambda pack: -_tokens(pack, lengths))
        few, more = divmod(len(packs), slots)
        # The shorter ones come in larger company.
        sizes = [few + (slot >= slots - more) for slot in range(slots)]
        dealt = [[packs.pop(0) for _ in range(size)] for size in sizes]
        return [dealt[process :: self.processes] for process in range(self.processes)]

    def _packs(self, lengths: Sequence[int]) -> list[Pack]:
        """Return the step's packs. Among several capacities the one whose padded batch costs least is taken."""
        if self.flat:
            return best_fit_decreasing(lengths, self.capacity_tokens)
        total, longest = sum(lengths), max(lengths)
        fewest, most = -(-total // self.capacity_tokens), -(-total // longest)
        widths = {
            min(self.capacity_tokens, max(longest, int(slack * total / count) + 1))
            for count in range(fewest, most + 1, 1 + (most - fewest) // _TRIED_COUNTS)
            for slack in _SLACK
        }
        tried = [best_fit_decreasing(lengths, width) for width in sorted(widths)]
        return min(tried, key=lambda packs: _cost(packs, lengths))


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[Pack]:
    """Return packs of at most `capacity` tokens: the longest row first, each where it leaves the least room.

    Args:
        lengths: Tokens of each row, none above `capacity`.
        capacity: Tokens of a pack.
    """
    packs: list[Pack] = []
    room: list[tuple[int, int]] = []  # tokens left and pack, the fullest pack first
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(room, (lengths[row], -1))
        if place == len(room):
            packs.append([])
            room.append((capacity, len(packs) - 1))
        left, pack = room.pop(place)
        packs[pack].append(row)
        insort(room, (left - lengths[row], pack))
    return packs


def _split(packs: list[Pack], wanted: int) -> list[Pack]:
    """Return at least so many packs, if there are as many rows: no process should idle while another has two rows."""
    packs = list(packs)
    while len(packs) < wanted:
        fullest = max(packs, key=len)
        if len(fullest) == 1:
            break
        packs.remove(fullest)
        packs += [fullest[::2], fullest[1::2]]
    return packs


def padded_tokens(batch: MicroBatch, lengths: Sequence[int]) -> int:
    """Return the positions of a micro batch, padding included: packs times the longest of them."""
    return len(batch) * max((_tokens(pack, lengths) for pack in batch), default=0)


def _tokens(pack: Pack, lengths: Sequence[int]) -> int:
    return sum(lengths[row] for row in pack)


def _cost(packs: list[Pack], lengths: Sequence[int]) -> float:
    width = max(_tokens(pack, lengths) for pack in packs)
    return len(packs) * width * (1 + width / _WIDTH_OF_DOUBLE_COST)
