"""Chat rows -> token ids and labels: the loss is on the assistant's turns and nothing else (`llmjobs.rendering`).

The trainer, the audit and the evaluation take their tokens from here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.rendering import IGNORED, ChatRenderer, ChatRow

logger = logging.getLogger(__name__)

_BATCH_ROWS = 512
_CHECKED_ROWS = 200


@dataclass(frozen=True)
class TokenRow:
    """One row as the trainer takes it.

    Attributes:
        row_id: The dataset's id of the row.
        input_ids: ``(tokens,)``.
        labels: ``(tokens,)``: the id where the assistant speaks or ends its turn, else `IGNORED`.
    """

    row_id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def trainable(self) -> int:
        """Number of tokens with a loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Tokenised:
    """A split as tokens, every row accounted for: ``rows_in = len(rows) + len(over_long)``.

    Attributes:
        rows: Rows that fit.
        over_long: Row id -> tokens, of the rows that do not.
        truncated: Row id -> tokens before the cut, of the rows whose first question was cut so that they fit.
    """

    rows: list[TokenRow]
    over_long: dict[str, int]
    truncated: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of all rows that fit."""
        return sum(len(row.input_ids) for row in self.rows)

    @property
    def trainable_tokens(self) -> int:
        """Tokens with a loss of all rows that fit."""
        return sum(row.trainable for row in self.rows)


@dataclass(frozen=True)
class TrainingRows:
    """The rows of one run as tokens.

    Attributes:
        tokenizer: What made them.
        validation: Empty when the validation loss is not asked for.
    """

    tokenizer: Any
    train: Tokenised
    validation: list[TokenRow]


def tokenise(
    rows: Iterable[ChatRow], tokenizer: Any, *, max_length_tokens: int, model: str = "", truncate_prompt: bool = False
) -> Tokenised:
    """Tokenise rows; an answer is never cut.

    Args:
        rows: Rows with at least one assistant turn each.
        tokenizer: A fast tokenizer with a chat template.
        max_length_tokens: Longer rows are set apart.
        model: Name of the model, for sentences.
        truncate_prompt: Whether the first question of a longer row is cut at its beginning; a row that is too long
            even so is set apart.

    Raises:
        BadConfig: The tokenizer has no chat template, or cannot say which characters a token stands for.
        BadData: A row has nothing to train on, or its labels do not read as the assistant's words.
    """
    renderer = ChatRenderer(tokenizer, name=f"the chat template of {model}" if model else "")
    done = Tokenised([], {})
    untold = 0
    pending = iter(rows)
    while batch := list(islice(pending, _BATCH_ROWS)):
        untold += sum(bool(row.tools) for row in batch) if not renderer.knows("tools") else 0
        for chat, row in zip(batch, _tokenise_batch(batch, renderer), strict=True):
            length = len(row.input_ids)
            fits = length <= max_length_tokens
            kept = row if fits else _without_beginning(chat, length, renderer, max_length_tokens, cut=truncate_prompt)
            if kept is None:
                done.over_long[row.row_id] = length
                continue
            done.rows.append(kept)
            if not fits:
                done.truncated[row.row_id] = length
    if untold:
        logger.warning("%d rows name tools, which the chat template of %s does not show", untold, model)
    return done


def _without_beginning(row: ChatRow, length: int, renderer: ChatRenderer, limit: int, *, cut: bool) -> TokenRow | None:
    """Return a row whose first question lacks its beginning, so that it has at most `limit` tokens; None if none can.

    The conversation is rendered anew with what is left of the question, so system turn, roles and end marks are whole
    and the ids are those that the model meets in use. Cutting moves the borders of tokens, hence the loop.
    """
    turn = next((n for n, one in enumerate(row.messages) if one["role"] not in {"system", "developer"}), 0)
    if not cut or row.messages[turn]["role"] == "assistant":
        return None
    question = row.messages[turn]["content"] or ""
    offsets = renderer.encode([question])[0].offsets
    excess = length - limit
    while excess < len(offsets):
        shorter = {**row.messages[turn], "content": question[offsets[excess][0] :]}
        messages = [*row.messages[:turn], shorter, *row.messages[turn + 1 :]]
        one = next(_tokenise_batch([replace(row, messages=messages)], renderer))
        if len(one.input_ids) <= limit:
            return one
        excess += len(one.input_ids) - limit
    return None


def _tokenise_batch(rows: list[ChatRow], renderer: ChatRenderer) -> Iterator[TokenRow]:
    encoded = renderer.encode([renderer.text(row) for row in rows])
    for row, one in zip(rows, encoded, strict=True):
        yield TokenRow(row.row_id, one.ids, renderer.labels(row, one, renderer.spans(row, one.text)))


def audit(tokenised: Tokenised, rows: Sequence[ChatRow], tokenizer: Any) -> None:
    """Refuse a split whose labels do not read as what the assistant said.

    Every row must have trainable tokens and the end of each of its answers; up to 200 rows, evenly spread, are decoded
    and compared.

    Raises:
        BadData: Names the first row that fails, and how many do.
    """
    by_id = {row.row_id: row for row in rows}
    _refuse_any("no trainable token", [by_id[row.row_id] for row in tokenised.rows if not row.trainable])
    step = max(1, len(tokenised.rows) // _CHECKED_ROWS)
    for row in tokenised.rows[::step]:
        learnt = _squeezed(tokenizer.decode([label for label in row.labels if label != IGNORED]))
        for message in by_id[row.row_id].messages:
            content = message["content"] or ""
            if message["role"] == "assistant" and _squeezed(content) not in learnt:
                raise BadData(
                    f"{_named(by_id[row.row_id])}: the labels read {learnt[:60]!r} and lack the "
                    f"assistant's {content[:60]!r}"
                )
    ends = end_tokens(tokenised.rows, tokenizer)
    endless = [by_id[row.row_id] for row in tokenised.rows if ended(row, ends) < answers(by_id[row.row_id])]
    _refuse_any("an answer without the token that ends it, so the model would never learn to stop", endless)


def end_tokens(rows: Iterable[TokenRow], tokenizer: Any) -> set[int]:
    """Return the special tokens that end an unbroken run of labels, read off the labels themselves."""
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return special & {
        label
        for row in rows
        for label, after in zip(row.labels, [*row.labels[1:], IGNORED], strict=True)
        if label != IGNORED and after == IGNORED
    }


def ended(row: TokenRow, ends: Collection[int]) -> int:
    """Return how many labels of a row are ends of answers.

    Args:
        row: The row.
        ends: What `end_tokens` returned.
    """
    return sum(label in ends for label in row.labels)


def answers(row: ChatRow) -> int:
    """Return how many turns of a row are the assistant's."""
    return sum(message["role"] == "assistant" for message in row.messages)


def _refuse_any(what: str, rows: list[ChatRow]) -> None:
    if rows:
        more = f"; {len(rows)} rows are like it" if len(rows) > 1 else ""
        raise BadData(f"{_named(rows[0])}: {what}{more}")


def _named(row: ChatRow) -> str:
    return row.origin or row.row_id


def _squeezed(text: str) -> str:
    """Return `text` without white space, which some tokenizers do not give back exactly."""
    return "".join(text.split())
