"""Which rows each optimiser step takes. Pure: seed, epoch and lengths in, indices out; no process knows another order.

The order belongs to the optimisation, not to the machine: it is told in global batches. How a global batch is cut
into micro batches for so many processes is `llmjobs.training.data.packing`'s affair. Therefore a run that goes on with
another number of processes, or another micro batch, goes on with the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_GROUPED_STEPS = 50
"""Steps whose rows are sorted together: as many as transformers' group_by_length takes."""


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in its data.

    Attributes:
        epoch: Passes that are over.
        samples: Rows of this pass that were trained on.
    """

    epoch: int
    samples: int


@dataclass(frozen=True)
class Ordering:
    """The order of the rows of a run.

    In each epoch every row comes exactly once; the last step of an epoch takes what is left.

    Attributes:
        lengths: Tokens of each row, ``(rows,)``; read only when `grouped`.
        seed: Of the recipe.
        global_batch_size: Rows of one optimiser step, over all processes.
        grouped: Whether a step's rows are of like length (``train.group_by_length``).
    """

    lengths: Sequence[int]
    seed: int
    global_batch_size: int
    grouped: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over the rows."""
        return -(-len(self.lengths) // self.global_batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the rows of each step of an epoch, as indices.

        The same seed, epoch and rows give the same steps on every machine and Python: only `random.Random.random`
        is drawn from, whose sequence Python promises to keep.
        """
        draw = random.Random(f"{self.seed}/{epoch}")  # noqa: S311 (an order, no secret)
        shuffled = _permutation(len(self.lengths), draw)
        size = self.global_batch_size
        if not self.grouped:
            return _cut(shuffled, size)
        # The rest is set aside before anything is sorted: else it would always be the shortest rows.
        whole = len(shuffled) - len(shuffled) % size
        steps: list[list[int]] = []
        for block in _cut(shuffled[:whole], size * _GROUPED_STEPS):
            like = _cut(sorted(block, key=lambda row: self.lengths[row]), size)
            steps += [like[place] for place in _permutation(len(like), draw)]
        return steps + _cut(shuffled[whole:], size)

    def cursor(self, step: int) -> Cursor:
        """Return where a run stands after so many optimiser steps."""
        epoch, done = divmod(step, self.steps_per_epoch)
        return Cursor(epoch, done * self.global_batch_size)

    def step_at(self, cursor: Cursor) -> int:
        """Return the optimiser steps that were done where a run stands.

        Raises:
            ValueError: The cursor lies within a step: it was written under another global batch size.
        """
        done, within = divmod(cursor.samples, self.global_batch_size)
        if within:
            raise ValueError(
                f"the data cursor stands at sample {cursor.samples}, which is no multiple of "
                f"train.global_batch_size ({self.global_batch_size})"
            )
        return cursor.epoch * self.steps_per_epoch + done


def _permutation(count: int, draw: random.Random) -> list[int]:
    keys = [draw.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def _cut(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
