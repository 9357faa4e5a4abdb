"""Tokens of rows: rendered by the model's chat template and counted by its tokenizer, as training would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from llmjobs.instructions.rendered.frame_rendering import FrameRenderer
from llmjobs.models import resolve_model
from llmjobs.rendering import ChatRenderer, load_tokenizer

BATCH_ROWS = 2_000
"""Texts that are tokens at once: memory is bounded by them, and every core has enough to do."""


def token_counter(model: str) -> Callable[[pl.DataFrame], pl.Series]:
    """Return a function that counts the tokens of the rows of a frame.

    It takes ``messages`` and, where there are any, ``tools``; it returns Int64 ``tokens`` of the rendered rows, special
    tokens included, null where the chat template cannot show the row.

    Args:
        model: As in a training's `model.name`.

    Raises:
        BadConfig: There is no such model, or it has no chat template.
        JobError: The model is not on this machine and the hub did not answer.
    """
    tokenizer = load_tokenizer(resolve_model(model).path)
    frames = FrameRenderer(ChatRenderer(tokenizer, name=f"the chat template of {model}"))

    def count(frame: pl.DataFrame) -> pl.Series:
        return token_counts(frames.rendered(frame)["text"], tokenizer)

    return count


def token_counts(texts: pl.Series, tokenizer: Any) -> pl.Series:
    """Return the tokens of rendered texts, Int64, null where there is no text."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    present = texts.drop_nulls()
    counts: list[int] = []
    for start in range(0, len(present), BATCH_ROWS):
        batch = present.slice(start, BATCH_ROWS).to_list()
        counts += map(len, backend.encode_batch_fast(batch, add_special_tokens=False))
    return _spread(pl.Series("tokens", counts, dtype=pl.Int64), texts.is_not_null())


def _spread(values: pl.Series, present: pl.Series) -> pl.Series:
    """Put values back where they belong, with nulls between."""
    if len(values) == len(present):
        return values
    return values.gather(pl.select(pl.when(present).then(present.cum_sum() - 1)).to_series()).alias("tokens")
