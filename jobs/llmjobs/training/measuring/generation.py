"""Greedy answers of a model to the prompts of held-out rows, in batches, within a stated budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmjobs.rendering import IGNORED
from llmjobs.training.data.tokenisation import TokenRow
from llmjobs.training.measuring.answers import Answer, compare


@dataclass(frozen=True)
class Question:
    """A row cut where its last answer begins.

    Attributes:
        prompt: ``(tokens,)`` before it.
        reference: ``(tokens,)`` of it, its end included.
    """

    row_id: str
    prompt: list[int]
    reference: list[int]


def questions(rows: list[TokenRow], count: int) -> list[Question]:
    """Return at most `count` rows as questions: those of the lowest ids, which are hashes and so a fair draw."""
    return [_question(row) for row in sorted(rows, key=lambda row: row.row_id)[:count]]


def _question(row: TokenRow) -> Question:
    end = max(place for place, label in enumerate(row.labels) if label != IGNORED) + 1
    start = end
    while start and row.labels[start - 1] != IGNORED:
        start -= 1
    return Question(row.row_id, row.input_ids[:start], row.input_ids[start:end])


def generate_answers(
    model: Any, asked: list[Question], tokenizer: Any, *, max_new_tokens: int, micro_batch_size: int
) -> dict[str, Answer]:
    """Return a model's greedy answers, by row id.

    What ends an answer is the token that ends the references: that of the chat template, which need not be the
    tokenizer's own end of text.

    Args:
        model: A causal language model, or one with an adapter, in the precision and on the device it is measured in.
        asked: The questions.
        tokenizer: Of the model.
        max_new_tokens: After so many an answer is cut; it then has no end.
        micro_batch_size: Questions at once.
    """
    ends = {one.reference[-1] for one in asked} | {tokenizer.eos_token_id}
    found: dict[str, Answer] = {}
    by_length = sorted(asked, key=lambda one: len(one.prompt))
    with _greedy(model, max_new_tokens=max_new_tokens, ends=ends, pad_token_id=tokenizer.pad_token_id):
        for start in range(0, len(by_length), micro_batch_size):
            batch = by_length[start : start + micro_batch_size]
            for one, ids in zip(batch, _generate(model, batch, tokenizer.pad_token_id), strict=True):
                found[one.row_id] = _answer(one, ids, ends, tokenizer)
    return found


def _generate(model: Any, batch: list[Question], pad_token_id: int) -> list[list[int]]:
    """Return the new tokens of each question, padding behind them included; the prompts are padded on the left."""
    import torch

    width = max(len(one.prompt) for one in batch)
    gaps = [width - len(one.prompt) for one in batch]
    prompts = [[pad_token_id] * gap + one.prompt for gap, one in zip(gaps, batch, strict=True)]
    masks = [[0] * gap + [1] * (width - gap) for gap in gaps]
    given = {
        "input_ids": torch.tensor(prompts, device=model.device),
        "attention_mask": torch.tensor(masks, device=model.device),
    }
    with torch.inference_mode():
        made = model.generate(**given)
    return [list(map(int, row)) for row in made[:, width:].tolist()]


def _answer(one: Question, ids: list[int], ends: set[int], tokenizer: Any) -> Answer:
    stop = next((place + 1 for place, index in enumerate(ids) if index in ends), None)
    said = ids[:stop]
    text, reference = (tokenizer.decode(some, skip_special_tokens=True) for some in (said, one.reference))
    return compare(text.strip(), reference.strip(), said, one.reference, ended=stop is not None)


@contextmanager
def _greedy(model: Any, *, max_new_tokens: int, ends: set[int], pad_token_id: int) -> Iterator[None]:
    """Let `model.generate` decode greedily and by nothing else.

    The model's own settings have to go: where others say nothing they count (transformers 5.23,
    `_prepare_generation_config`), and several models bring a repetition penalty along, which is not greedy.
    """
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(ends), pad_token_id=pad_token_id,
        use_cache=True,
    )  # fmt: skip
    try:
        yield
    finally:
        model.generation_config = before
