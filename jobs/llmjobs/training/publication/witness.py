"""A few rows and the loss that the trainer's own model has on them: what the published files have to reproduce."""

from __future__ import annotations

from typing import Any, Literal

from llmjobs.contracts.base import Strict
from llmjobs.training.data.batches import padded
from llmjobs.training.data.tokenisation import TokenRow, TrainingRows

WITNESS = "witness.json"
"""File of a checkpoint that may be published. It stays in the work area: it holds rows."""

_ROWS = 4


class Witness(Strict):
    """What the trainer's model said at one step.

    Attributes:
        split: Where the rows are from.
        rows: As tokens, so that nothing has to be read or tokenised again.
        loss: Mean negative log-likelihood per answer token, in nats; None before the model was asked.
    """

    split: Literal["train", "validation"]
    rows: list[TokenRow]
    loss: float | None = None


def witness_of(rows: TrainingRows) -> Witness:
    """Return at most four rows to ask: of the shorter half those of the lowest ids, which are hashes, so a fair draw.

    Of the validation rows where the run has them, else of the train rows. Long rows would cost memory for logits that
    the training itself never holds at once.
    """
    given = rows.validation or rows.train.rows
    by_length = sorted(given, key=lambda row: (len(row.input_ids), row.row_id))
    shorter = by_length[: max(_ROWS, len(by_length) // 2)]
    drawn = sorted(shorter, key=lambda row: row.row_id)[:_ROWS]
    return Witness(split="validation" if rows.validation else "train", rows=drawn)


def loss_on(model: Any, rows: list[TokenRow], device: str) -> float:
    """Return the mean loss per answer token, in nats; the model is left in the mode in which it was.

    One row at a time, so that no padding and no shape differs between the trainer's model and the loaded one. Under
    ZeRO-3 every process has to call it. Nothing random is drawn.

    Args:
        model: A causal language model with its adapter.
        rows: Tokenised rows.
        device: ``cpu`` or ``cuda:0``.
    """
    import torch

    from llmjobs.training.measuring.scoring import same_precision_as_training, score_batch

    training = model.training
    model.eval()
    # Not inference mode: ZeRO-3 gathers weights in place, and the training goes on with them.
    with torch.no_grad(), same_precision_as_training(model, device):
        batches = [score_batch(model, [row], padded([row], pad_token_id=0, device=device)) for row in rows]
    model.train(training)
    scores = [score for batch in batches for score in batch.values()]
    return sum(score.nats for score in scores) / sum(score.tokens for score in scores)
