"""What is tried before the first step: the longest micro batch of the whole run, and that packed rows are isolated.

Memory that does not suffice is then noticed after seconds and not after hours. The trial leaves no trace: random
numbers are put back, gradients are thrown away, the optimiser is not asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import nlargest
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253  (only the training processes import this module)
from torch import distributed  # noqa: TID253
from transformers import TrainerCallback  # noqa: TID253

from llmjobs.contracts.errors import BadConfig
from llmjobs.training.data.batches import packed
from llmjobs.training.data.ordering import Ordering
from llmjobs.training.data.packing import Cutter, MicroBatch, padded_tokens
from llmjobs.training.data.tokenisation import TokenRow

if TYPE_CHECKING:
    from llmjobs.training.trainer import AdapterTrainer

logger = logging.getLogger(__name__)

_LEAK = 1e-3
"""Share of the largest logit by which a row may differ with another neighbour; 0 was seen, a leak gives 0.01 to 1."""

_PACKED_STEPS = 1000
"""Packing takes a millisecond a step: of a long run only the steps with the most tokens are looked at."""


class LongestBatchFirst(TrainerCallback):
    """Tries the longest micro batch when the training begins; where it does not fit, halves the micro batch.

    The global batch stays: twice as many micro batches are accumulated. All processes come to the same end.

    Attributes:
        trainer: Set once it is built.
    """

    trainer: AdapterTrainer

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Try.

        Raises:
            torch.OutOfMemoryError: Not even one row fits.
            BadConfig: Packed rows of this model see each other.
        """
        trainer = self.trainer
        with untouched(args.device):
            if trainer.batches.cutter.capacity_tokens:
                refuse_leaks(trainer.logits, trainer.rows, flat=trainer.batches.cutter.flat)
            if trainer.zero_stage == 3:
                # A process that runs out of memory would leave the others waiting for its part of the weights.
                trainer.note("under ZeRO-3 the longest batch is not tried beforehand")
            else:
                self._fit(state.max_steps, args.device)

    def _fit(self, steps: int, device: Any) -> None:
        batches = self.trainer.batches
        while True:
            rows, batch = longest(self.trainer.ordering, batches.cutter, steps)
            trouble = _memory_trouble(
                self.trainer.trial, batches.tensors([self.trainer.rows[row] for row in rows], batch)
            )
            if not _anywhere(trouble is not None, device):
                logger.info("the longest micro batch fits: %s", _described(rows, batch, self.trainer.ordering))
                return
            smaller = batches.cutter.halved()
            if smaller is None:
                raise trouble or torch.OutOfMemoryError("another process ran out of memory")
            self.trainer.note(
                f"the memory did not suffice for {_described(rows, batch, self.trainer.ordering)}: micro batches of "
                f"{smaller.micro_batch_size} instead of {batches.cutter.micro_batch_size} are computed, twice as many "
                "for each step; the global batch stays"
            )
            batches.cutter = smaller


def longest(ordering: Ordering, cutter: Cutter, steps: int) -> tuple[list[int], MicroBatch]:
    """Return the step's rows and the micro batch with the most positions among those of all processes and steps.

    Args:
        ordering: The order of the run.
        cutter: How steps are cut.
        steps: Optimiser steps of the run.
    """
    best: tuple[int, list[int], MicroBatch] = (-1, [], [])
    looked_at: Iterable[list[int]] = _steps(ordering, steps)
    if cutter.capacity_tokens:
        looked_at = nlargest(_PACKED_STEPS, looked_at, key=lambda rows: sum(ordering.lengths[row] for row in rows))
    for rows in looked_at:
        lengths = [ordering.lengths[row] for row in rows]
        for batch in (batch for share in cutter.cut(lengths) for batch in share):
            if (positions := padded_tokens(batch, lengths)) > best[0]:
                best = (positions, rows, batch)
    return best[1], best[2]


def _steps(ordering: Ordering, steps: int) -> Iterator[list[int]]:
    for epoch in range(-(-steps // ordering.steps_per_epoch)):
        yield from ordering.steps(epoch)[: steps - epoch * ordering.steps_per_epoch]


def _described(rows: list[int], batch: MicroBatch, ordering: Ordering) -> str:
    lengths = [ordering.lengths[row] for row in rows]
    return f"{len(batch)} sequences, {padded_tokens(batch, lengths)} tokens with padding"


def _memory_trouble(trial: Callable[[dict[str, Any]], None], batch: dict[str, Any]) -> RuntimeError | None:
    try:
        trial(batch)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        error.__traceback__ = None  # its frames hold the tensors
        return error
    return None


def _anywhere(flag: bool, device: Any) -> bool:
    """Return whether the flag is set on any process."""
    if not distributed.is_initialized():
        return flag
    flags = torch.tensor(float(flag), device=device)
    distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return bool(flags.item())


@contextmanager
def untouched(device: Any) -> Iterator[None]:
    """Put torch's random numbers back after the block, those of the GPU in use too."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        yield


def refuse_leaks(logits: Callable[[dict[str, Any]], Any], rows: list[TokenRow], *, flat: bool) -> None:
    """Refuse a model whose packed rows see each other: what follows one row must not depend on that row.

    Two packs of the same shape differ in their first row alone; the logits of the second row must be equal.

    Args:
        logits: Batch -> ``(packs, tokens, vocabulary)``, without dropout.
        rows: Rows of the run; the shortest is taken.
        flat: As they are packed.

    Raises:
        BadConfig: They see each other.
    """
    second = min(rows, key=lambda row: len(row.input_ids))
    width = len(second.input_ids)
    others = [TokenRow("", ids, ids) for ids in (second.input_ids, second.input_ids[::-1])]
    seen = [
        logits(packed([[first, second]], pad_token_id=0, flat=flat, device="cpu"))[0, width : 2 * width].float()
        for first in others
    ]
    difference = float((seen[0] - seen[1]).abs().max() / seen[0].abs().max())
    if difference > _LEAK:
        raise BadConfig(
            f"data.packing (bfd): rows in one sequence see each other in this model, whose answers differ by "
            f"{difference:.1%} with another row before them; set data.packing to none"
        )
