"""Chat rows -> token ids and labels: the loss is on the assistant's turns and nothing else.

A row is rendered once through the model's own chat template and tokenised once, so the ids are those that the model
meets in use. Which characters an assistant said follows from the template itself: its turn begins where the rendering
of everything before it, with the generation prompt, ends; and it ends with the first special token after its text.
This needs no generation marks in the template, and holds for templates that render earlier turns differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmjobs.contracts.errors import BadConfig, BadData

IGNORED = -100
"""Label of a token without loss (the convention of torch's cross entropy)."""

_BATCH_ROWS = 512
_CHECKED_ROWS = 200

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class ChatRow:
    """One row of a dataset version."""

    row_id: str
    messages: Messages
    origin: str = ""


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


def tokenise(rows: Iterable[ChatRow], tokenizer: Any, *, max_length_tokens: int) -> Tokenised:
    """Tokenise rows; none is ever cut.

    Args:
        rows: Rows with at least one assistant turn each.
        tokenizer: A fast tokenizer with a chat template.
        max_length_tokens: Longer rows are set apart.

    Raises:
        BadConfig: The tokenizer has no chat template, or cannot say which characters a token stands for.
        BadData: A row has nothing to train on, or its labels do not read as the assistant's words.
    """
    _check_tokenizer(tokenizer)
    fitting: list[TokenRow] = []
    over_long: dict[str, int] = {}
    pending = iter(rows)
    while batch := list(islice(pending, _BATCH_ROWS)):
        for row in _tokenise_batch(batch, tokenizer):
            if len(row.input_ids) > max_length_tokens:
                over_long[row.row_id] = len(row.input_ids)
            else:
                fitting.append(row)
    return Tokenised(fitting, over_long)


def _check_tokenizer(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise BadConfig(f"{tokenizer.name_or_path}: no chat template; take the instruct form of the model")
    if not tokenizer.is_fast:
        raise BadConfig(f"{tokenizer.name_or_path}: no fast tokenizer, so tokens cannot be traced to the assistant")


def _tokenise_batch(rows: list[ChatRow], tokenizer: Any) -> Iterator[TokenRow]:
    texts = [render(row.messages, tokenizer) for row in rows]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    special = frozenset(tokenizer.all_special_ids) | _added_special_ids(tokenizer)
    for row, text, ids, offsets in zip(rows, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        labels = [IGNORED] * len(ids)
        for start, end in _assistant_spans(row, text, tokenizer):
            blank = [text[left:right].isspace() for left, right in offsets]
            _label_turn(row, labels, ids=ids, offsets=offsets, blank=blank, span=(start, end), special=special)
        yield TokenRow(row.row_id, list(ids), labels)


def _added_special_ids(tokenizer: Any) -> frozenset[int]:
    return frozenset(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)


def render(messages: Messages, tokenizer: Any, *, for_generation: bool = False) -> str:
    """Return the text of a conversation in the model's own form."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=for_generation))


def _assistant_spans(row: ChatRow, text: str, tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Yield ``(start, end)`` in characters of what each assistant turn says, its end-of-turn mark not included."""
    spoken = 0
    for index, message in enumerate(row.messages):
        if message["role"] != "assistant":
            continue
        prompt = render(row.messages[:index], tokenizer, for_generation=True)
        content = message["content"].strip()
        found = text.find(content, len(prompt)) if text.startswith(prompt) else -1
        if found < 0 or not content:
            raise BadData(
                f"{row.origin or row.row_id}: turn {index + 1}: the chat template does not render the assistant's "
                "words after its prompt, so they cannot be told from the rest"
            )
        spoken += 1
        yield len(prompt), found + len(content)
    if not spoken:
        raise BadData(f"{row.origin or row.row_id}: no assistant turn, so there is nothing to learn")


def _label_turn(
    row: ChatRow,
    labels: list[int],
    *,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    blank: Sequence[bool],
    span: tuple[int, int],
    special: frozenset[int],
) -> None:
    """Label the tokens of one turn, white space after it, and its end-of-turn token.

    A token that also holds characters of the prompt stays unlabelled: in use the prompt's tokens are fixed.
    """
    start, end = span
    inside = [index for index, (left, right) in enumerate(offsets) if start <= left < end and right > left]
    after = inside[-1] + 1 if inside else len(ids)
    while after < len(ids) and blank[after] and ids[after] not in special:
        inside.append(after)
        after += 1
    if not inside or after >= len(ids) or ids[after] not in special:
        raise BadData(
            f"{row.origin or row.row_id}: the chat template puts no end-of-turn token right after the assistant's "
            "words, so the model would never learn to stop"
        )
    for index in [*inside, after]:
        labels[index] = ids[index]


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
            if message["role"] == "assistant" and _squeezed(message["content"]) not in learnt:
                raise BadData(
                    f"{by_id[row.row_id].origin or row.row_id}: the labels read {learnt[:60]!r} and lack the "
                    f"assistant's {message['content'][:60]!r}"
                )


def _squeezed(text: str) -> str:
    """Return `text` without white space, which some tokenizers do not give back exactly."""
    return "".join(text.split())
