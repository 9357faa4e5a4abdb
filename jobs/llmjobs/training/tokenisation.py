"""Chat rows -> token ids and labels: the loss is on the assistant's turns and nothing else (`llmjobs.rendering`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    """

    rows: list[TokenRow]
    over_long: dict[str, int]

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


def tokenise(rows: Iterable[ChatRow], tokenizer: Any, *, max_length_tokens: int, model: str = "") -> Tokenised:
    """Tokenise rows; none is ever cut.

    Args:
        rows: Rows with at least one assistant turn each.
        tokenizer: A fast tokenizer with a chat template.
        max_length_tokens: Longer rows are set apart.
        model: Name of the model, for sentences.

    Raises:
        BadConfig: The tokenizer has no chat template, or cannot say which characters a token stands for.
        BadData: A row has nothing to train on, or its labels do not read as the assistant's words.
    """
    renderer = ChatRenderer(tokenizer, name=f"the chat template of {model}" if model else "")
    fitting: list[TokenRow] = []
    over_long: dict[str, int] = {}
    untold = 0
    pending = iter(rows)
    while batch := list(islice(pending, _BATCH_ROWS)):
        untold += sum(bool(row.tools) for row in batch) if not renderer.knows("tools") else 0
        for row in _tokenise_batch(batch, renderer):
            if len(row.input_ids) > max_length_tokens:
                over_long[row.row_id] = len(row.input_ids)
            else:
                fitting.append(row)
    if untold:
        logger.warning("%d rows name tools, which the chat template of %s does not show", untold, model)
    return Tokenised(fitting, over_long)


def _tokenise_batch(rows: list[ChatRow], renderer: ChatRenderer) -> Iterator[TokenRow]:
    encoded = renderer.encode([renderer.text(row) for row in rows])
    for row, one in zip(rows, encoded, strict=True):
        yield TokenRow(row.row_id, one.ids, renderer.labels(row, one, renderer.spans(row, one.text)))


def audit(tokenised: Tokenised, rows: Sequence[ChatRow], tokenizer: Any) -> None:
    """Refuse a split whose labels do not read as what the assistant said.

    Every row must have trainable tokens; up to 200 rows, evenly spread, are decoded and compared.

    Raises:
        BadData: Names the first row that fails.
    """
    by_id = {row.row_id: row for row in rows}
    for row in tokenised.rows:
        if not row.trainable:
            raise BadData(f"{by_id[row.row_id].origin or row.row_id}: no trainable token")
    step = max(1, len(tokenised.rows) // _CHECKED_ROWS)
    for row in tokenised.rows[::step]:
        learnt = _squeezed(tokenizer.decode([label for label in row.labels if label != IGNORED]))
        for message in by_id[row.row_id].messages:
            content = message["content"] or ""
            if message["role"] == "assistant" and _squeezed(content) not in learnt:
                raise BadData(
                    f"{by_id[row.row_id].origin or row.row_id}: the labels read {learnt[:60]!r} and lack the "
                    f"assistant's {content[:60]!r}"
                )


def _squeezed(text: str) -> str:
    """Return `text` without white space, which some tokenizers do not give back exactly."""
    return "".join(text.split())
