"""Rows as the trainer takes them, token by token: what is learnt, what is not, what ends an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from llmjobs.rendering import IGNORED
from llmjobs.training.data.splits import Split
from llmjobs.training.data.tokenisation import TokenRow, end_tokens

EXAMPLES = 20

_SHOWN_TOKENS = 800
"""Of a row; from the middle of a longer one's prompt nothing is shown, so that its answer always is."""

Kind = Literal["masked", "learnt", "end", "gap"]
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """One token as text, or a few that make one character together; of a gap how many tokens it hides."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        origin: File and line, or the row's id.
        whole_tokens: Before the cut; ``tokens`` where nothing was cut.
    """

    origin: str
    tokens: int
    trainable: int
    whole_tokens: int
    pieces: list[Piece]


def examples(split: Split, tokenizer: Any, count: int = EXAMPLES) -> list[Example]:
    """Return rows from the shortest to the longest, evenly spread; the longest of the cut ones are always there."""
    tokenised = split.tokenised
    rows = sorted(tokenised.rows, key=lambda row: (len(row.input_ids), row.row_id))
    cut = [row for row in rows if row.row_id in tokenised.truncated][-count // 4 :]
    spread = [row for row in _spread(rows, count) if row not in cut]
    chosen = sorted([*cut, *spread[: count - len(cut)]], key=lambda row: len(row.input_ids))
    origins = {row.row_id: row.origin for row in split.rows}
    ends = end_tokens(tokenised.rows, tokenizer)
    return [
        Example(
            origin=origins[row.row_id] or row.row_id,
            tokens=len(row.input_ids),
            trainable=row.trainable,
            whole_tokens=tokenised.truncated.get(row.row_id, len(row.input_ids)),
            pieces=list(pieces(row, ends, tokenizer)),
        )
        for row in chosen
    ]


def _spread(rows: list[TokenRow], count: int) -> list[TokenRow]:
    if len(rows) <= count:
        return rows
    return [rows[round(n * (len(rows) - 1) / (count - 1))] for n in range(count)]


def pieces(row: TokenRow, ends: Collection[int], tokenizer: Any) -> Iterator[Piece]:
    """Return a row's own ids as text, so that the report shows what is trained on and not what was meant.

    Each id is decoded behind the one before it, since some tokenizers drop the space of a first token; ids that are a
    part of a character wait for the rest of it.

    Args:
        row: The row.
        ends: What `end_tokens` returned.
        tokenizer: What made the row.
    """
    first, after = _gap(row)
    held: list[int] = []
    for n, index in enumerate(row.input_ids):
        if first <= n < after:
            if n == first:
                yield Piece(f"{after - first:,} tokens are not shown", "gap")
            continue
        before = row.input_ids[max(0, n - len(held) - 1) : n - len(held)]
        held.append(index)
        text = _decoded(tokenizer, [*before, *held])[len(_decoded(tokenizer, before)) :]
        if text.endswith(_UNFINISHED) and n + 1 not in {first, len(row.input_ids)} and _alike(row, n):
            continue
        held = []
        yield Piece(text, _kind(row.labels[n], ends))


def _alike(row: TokenRow, n: int) -> bool:
    """Return whether a token and the next one are both learnt or both not."""
    return (row.labels[n] == IGNORED) == (row.labels[n + 1] == IGNORED)


def _kind(label: int, ends: Collection[int]) -> Kind:
    if label == IGNORED:
        return "masked"
    return "end" if label in ends else "learnt"


def _gap(row: TokenRow) -> tuple[int, int]:
    """Return the first token that is not shown and the one after the last; equal where all are."""
    excess = len(row.input_ids) - _SHOWN_TOKENS
    answer = next((n for n, label in enumerate(row.labels) if label != IGNORED), 0)
    first = min(answer // 2, _SHOWN_TOKENS // 4)
    return (first, min(first + excess, answer)) if excess > 0 else (0, 0)


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""
