"""Batches of token rows as tensors, and the columns of a batch that hold answers."""

from __future__ import annotations

from typing import Any

from llmjobs.rendering import IGNORED
from llmjobs.training.tokenisation import TokenRow


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
