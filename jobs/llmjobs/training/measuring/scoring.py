"""How well a model gives the answers of held-out rows: loss and exact match, from one forward pass; and the summary."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.training_results import Generated, Score
from llmjobs.rendering import IGNORED
from llmjobs.training.data.batches import answer_columns, padded
from llmjobs.training.data.tokenisation import TokenRow
from llmjobs.training.measuring.answers import Answer

ANSWER_METRICS = tuple(name for name in Generated.model_fields if name != "rows")


@dataclass(frozen=True)
class RowScore:
    """One row under one model.

    Attributes:
        exact: Every answer token, the end included, is the likeliest given the ones before it. Then, and only
            then, greedy decoding gives exactly this answer.
        nats: Sum of the negative log-likelihoods of the answer's tokens.
        tokens: Number of them.
        answer: What it generated, where it was asked to.
    """

    row_id: str
    exact: bool
    nats: float
    tokens: int
    answer: Answer | None = None


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
        with torch.inference_mode(), same_precision_as_training(model, device):
            scores |= score_batch(model, batch, padded(batch, pad_token_id=pad_token_id, device=device))
    return [scores[row.row_id] for row in rows]


def same_precision_as_training(model: Any, device: str) -> Any:
    """Return the context in which `model` computes as it did in training."""
    import torch

    if model.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)


def score_batch(model: Any, rows: list[TokenRow], inputs: dict[str, Any]) -> dict[str, RowScore]:
    """Score the rows of one padded batch under a model in evaluation mode; return them by row id."""
    import torch

    logits, targets = answer_logits(model, inputs)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(targets)
    answers = targets != IGNORED
    exact = ((logits.argmax(-1) == targets) | ~answers).all(1)
    return {
        row.row_id: RowScore(row.row_id, bool(exact[i]), float(losses[i].sum()), int(answers[i].sum()))
        for i, row in enumerate(rows)
    }


def answer_logits(model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """Return a model's logits ``(batch, columns, vocabulary)`` where any row of a padded batch answers, in float32.

    Beside them what each has to predict ``(batch, columns)``, `IGNORED` where its row does not answer.
    """
    targets, columns = answer_columns(inputs.pop("labels"))
    return model(**inputs, logits_to_keep=columns, use_cache=False).logits.float(), targets


def share(score: RowScore, metric: str) -> tuple[float, float]:
    """Return what a row adds to a metric's numerator and denominator: each metric is a ratio of sums over rows.

    Args:
        score: One row; of a metric of answers, one that has an answer.
        metric: A field of `Score` or of `Generated`.
    """
    if metric == "exact_match":
        return float(score.exact), 1.0
    if metric == "loss":
        return score.nats, float(score.tokens)
    answer = score.answer
    if answer is None:
        raise ValueError(f"row {score.row_id} has no generated answer, so it has no {metric}")
    if metric == "length_ratio":
        return float(answer.tokens), float(answer.reference_tokens)
    return float(getattr(answer, metric)), 1.0


def _mean(scores: list[RowScore], metric: str) -> float:
    shares = [share(score, metric) for score in scores]
    return sum(above for above, _ in shares) / sum(below for _, below in shares)


def summarise(version: str, scores: list[RowScore]) -> Score:
    """Return the figures of one model over all rows; the loss is per answer token."""
    answered = [score for score in scores if score.answer]
    means = {metric: _mean(answered, metric) for metric in ANSWER_METRICS} if answered else {}
    return Score(
        version=version,
        rows=len(scores),
        exact=sum(score.exact for score in scores),
        exact_match=_mean(scores, "exact_match"),
        loss=_mean(scores, "loss"),
        generated=Generated(rows=len(answered), **means) if answered else None,
    )
