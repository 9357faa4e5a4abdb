"""Batches of token rows as tensors, and the columns of a batch that hold answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmjobs.rendering import IGNORED
from llmjobs.training.data.ordering import Ordering
from llmjobs.training.data.packing import Cutter, MicroBatch
from llmjobs.training.data.tokenisation import TokenRow


def answer_columns(labels: Any) -> tuple[Any, Any]:
    """Return what each position of a batch has to predict, for the columns where any row predicts anything.

    The head's matrix is the largest of a small model, and most columns hold no answer.

    Args:
        labels: ``(batch, tokens)``, `IGNORED` where there is no loss.

    Returns:
        Targets ``(batch, columns)``: the label of the token after; and the columns' positions ``(columns,)``.
    """
    import torch

    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    columns = (following != IGNORED).any(0).nonzero().flatten()
    return following[:, columns], columns


def padded(rows: list[TokenRow], *, pad_token_id: int, device: str) -> dict[str, Any]:
    """Return rows as one batch, padded on the right.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each ``(batch, tokens)``.
    """
    import torch

    width = max(len(row.input_ids) for row in rows)

    def filled(values: list[list[int]], filler: int) -> Any:
        return torch.tensor([value + [filler] * (width - len(value)) for value in values], device=device)

    return {
        "input_ids": filled([row.input_ids for row in rows], pad_token_id),
        "attention_mask": filled([[1] * len(row.input_ids) for row in rows], 0),
        "labels": filled([row.labels for row in rows], IGNORED),
    }


def packed(packs: list[list[TokenRow]], *, pad_token_id: int, flat: bool, device: str) -> dict[str, Any]:
    """Return packs as one batch whose rows do not see each other.

    Positions begin anew with each row and there is no attention mask: of that transformers (5.23, masking_utils.py,
    `find_packed_sequence_indices`) makes a mask in blocks for sdpa and eager, and sequence bounds for FlashAttention.
    With a mask of ones, or with a cache, the rows would see each other without a word; `llmjobs.training.probe` looks.
    Padding counts as one more row of its own.

    Args:
        packs: Rows of each pack.
        pad_token_id: Fills what is shorter than the longest pack.
        flat: Lay all packs end to end, as FlashAttention's varlen kernels want it; they take no batch of packs.
        device: Where to.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, each ``(packs, tokens)``, or ``(1, tokens)`` if `flat`; then
        also the bounds ``cu_seq_lens_q/k`` ``(rows + 1,)`` and the longest row's ``max_length_q/k``.
    """
    import torch

    lines = [[row for pack in packs for row in pack]] if flat else packs
    width = max(sum(len(row.input_ids) for row in line) for line in lines)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for line in lines:
        empty = width - sum(len(row.input_ids) for row in line)
        batch["input_ids"].append([one for row in line for one in row.input_ids] + [pad_token_id] * empty)
        # What follows the row before is no answer to it.
        batch["labels"].append([one for row in line for one in (IGNORED, *row.labels[1:])] + [IGNORED] * empty)
        batch["position_ids"].append([at for row in line for at in range(len(row.input_ids))] + list(range(empty)))
    tensors = {name: torch.tensor(values, device=device) for name, values in batch.items()}
    return tensors | (_bounds(lines[0], device) if flat else {})


def _bounds(rows: list[TokenRow], device: str) -> dict[str, Any]:
    """Return what flash_attn_varlen_func asks for. Not run where there is no GPU; as in TRL 1.16's collator."""
    import torch

    lengths = torch.tensor([0, *(len(row.input_ids) for row in rows)], device=device)
    bounds, longest = lengths.cumsum(0).to(torch.int32), int(lengths.max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


@dataclass(frozen=True)
class Step:
    """One process' share of an optimiser step.

    Attributes:
        micro_batches: Tensors of each, as `padded` or `packed` gives them.
        answers: Tokens with a loss in the whole step, over all processes; the loss is divided by them.
        tokens: Tokens of the whole step, padding not counted.
        squares: Sum of the squares of its rows' lengths, to which the work of attention is proportional.
    """

    micro_batches: list[dict[str, Any]]
    answers: int
    tokens: int
    squares: int


class StepBatches:
    """Makes the tensors of a step out of its rows; the collator of the training's data loader.

    Args:
        cutter: How steps are cut; may be replaced between two steps.
        process: Which process this is.
        pad_token_id: For padding.
    """

    def __init__(self, cutter: Cutter, *, process: int, pad_token_id: int) -> None:
        """Remember how."""
        self.cutter = cutter
        self._process = process
        self._pad_token_id = pad_token_id

    def __call__(self, rows: list[TokenRow]) -> Step:
        """Return this process' share of a step of `rows`."""
        lengths = [len(row.input_ids) for row in rows]
        share = self.cutter.cut(lengths)[self._process]
        return Step(
            [self.tensors(rows, batch) for batch in share],
            answers=sum(answers(row) for row in rows),
            tokens=sum(lengths),
            squares=sum(length**2 for length in lengths),
        )

    def tensors(self, rows: list[TokenRow], batch: MicroBatch) -> dict[str, Any]:
        """Return one micro batch of a step's rows. For an empty one the shortest row is computed, without a loss."""
        packs = [[rows[place] for place in pack] for pack in batch] or [[_silent(rows)]]
        if self.cutter.capacity_tokens:
            return packed(packs, pad_token_id=self._pad_token_id, flat=self.cutter.flat, device="cpu")
        return padded([row for pack in packs for row in pack], pad_token_id=self._pad_token_id, device="cpu")


def answers(row: TokenRow) -> int:
    """Return the tokens of a row that are predicted and have a loss; the first is predicted by nothing."""
    return sum(label != IGNORED for label in row.labels[1:])


def _silent(rows: list[TokenRow]) -> TokenRow:
    """Return the shortest row without its answers, for a process that has nothing to do but to keep step."""
    shortest = min(rows, key=lambda row: len(row.input_ids))
    return TokenRow(shortest.row_id, shortest.input_ids, [IGNORED] * len(shortest.labels))


class StepSampler:
    """Gives torch's data loader the rows of each optimiser step, in the run's order.

    A run that goes on skips whole steps, as lists of indices: no row is read for them.

    Args:
        ordering: The order.
    """

    def __init__(self, ordering: Ordering) -> None:
        """Begin with the first epoch."""
        self.ordering = ordering
        self._epoch = 0

    @property
    def batch_sampler(self) -> StepSampler:
        """This sampler: transformers (5.23, `Trainer._run_epoch`) tells the epoch to the inner one of two."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go on with this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.ordering.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.ordering.steps(self._epoch)
