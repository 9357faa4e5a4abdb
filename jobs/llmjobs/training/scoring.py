"""How well a model gives the answers of held-out rows: loss and exact match, from one forward pass."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.training import Score
from llmjobs.rendering import IGNORED
from llmjobs.training.batches import answer_columns, padded
from llmjobs.training.tokenisation import TokenRow


@dataclass(frozen=True)
class RowScore:
    """One row under one model.

    Attributes:
        exact: Every answer token, the end included, is the likeliest given the ones before it. Then, and only
            then, greedy decoding gives exactly this answer.
        nats: Sum of the negative log-likelihoods of the answer's tokens.
        tokens: Number of them.
    """

    row_id: str
    exact: bool
    nats: float
    tokens: int


def score_rows(
    model: Any, rows: list[TokenRow], *, pad_token_id: int, micro_batch_size: int, device: str
) -> list[RowScore]:
    """Score rows under `model` as it stands, with the adapter that is active on it.

    Args:
        model: A causal language model, or one with adapters.
        rows: Tokenised rows, in any order.
        pad_token_id: For the padding.
        micro_batch_size: Rows at once.
        device: ``cpu`` or ``cuda:0``.

    Returns:
        One score for each row, in the order of `rows`.
    """
    import torch

    model.eval()
    by_length = sorted(rows, key=lambda row: len(row.input_ids))
    scores: dict[str, RowScore] = {}
    for start in range(0, len(by_length), micro_batch_size):
        batch = by_length[start : start + micro_batch_size]
        with torch.inference_mode(), _same_precision_as_training(model, device):
            scores |= _score_batch(model, batch, padded(batch, pad_token_id=pad_token_id, device=device))
    return [scores[row.row_id] for row in rows]


def _same_precision_as_training(model: Any, device: str) -> Any:
    import torch

    if model.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)


def _score_batch(model: Any, rows: list[TokenRow], inputs: dict[str, Any]) -> dict[str, RowScore]:
    import torch

    targets, columns = answer_columns(inputs.pop("labels"))
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(targets)
    answers = targets != IGNORED
    exact = ((logits.argmax(-1) == targets) | ~answers).all(1)
    return {
        row.row_id: RowScore(row.row_id, bool(exact[i]), float(losses[i].sum()), int(answers[i].sum()))
        for i, row in enumerate(rows)
    }


def summarise(version: str, scores: list[RowScore]) -> Score:
    """Return the figures of one model over all rows; the loss is per answer token."""
    exact = sum(score.exact for score in scores)
    return Score(
        version=version,
        rows=len(scores),
        exact=exact,
        exact_match=exact / len(scores),
        loss=sum(score.nats for score in scores) / sum(score.tokens for score in scores),
    )
