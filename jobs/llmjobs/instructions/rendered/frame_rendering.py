"""Renders whole frames through a chat template without calling it for every row.

For most shapes of a conversation (which roles follow each other) a template only puts fixed text before, between and
after what is said. Those pieces are read off one rendering of marker texts; a row is then a concatenation of columns.
What is read off is checked against the template itself on real rows of every frame; rows for which it might not hold
(tool calls, tools, empty turns, text that the template looks for) go through the template one by one.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from itertools import product
from typing import Any

import polars as pl

from llmjobs.rendering import CannotRender, ChatRenderer, ChatRow, Span

logger = logging.getLogger(__name__)

SPANS = pl.List(pl.Struct({"start": pl.Int64, "end": pl.Int64}))
RENDERED = pl.Schema({"text": pl.String(), "spans": SPANS, "problem": pl.String()})
"""One row per row: its text, the characters ``[start, end)`` of each answer in it, and why there is no text."""

_FEWEST_ROWS = 16
"""Of one shape in a frame; fewer are not worth a layout."""

_CHECKED_ROWS = 8
_LONGEST_SHAPE = 24

_WHITE_SPACE = (("\t \n", "\n  "), ("\n", "\n"), (" ", " "))
"""Put around what is said, to see which of it a template keeps; all of it or none, or there is no layout."""

_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1).)+)\1""", re.DOTALL)
_BEFORE_IN = re.compile(rf"{_QUOTED.pattern}\s+(?:not\s+)?in\b", re.DOTALL)
_CALL = re.compile(r"(\w+)\s*\(([^()]*)\)")
_OTHER_CALLS = frozenset(
    ("in", "join", "selectattr", "rejectattr", "map", "namespace", "raise_exception", "strftime_now")
)
"""What takes texts in a template without looking for them in what is said."""

_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\'": "'", r"\"": '"', r"\\": "\\"}


@dataclass(frozen=True)
class _Turn:
    """One turn of a layout.

    Attributes:
        before: Text between the turn before and this one.
        left: Whether white space before its words is kept; `right`: after them.
        begins: Characters from the start of its words to where the assistant begins; None of another's turn.
    """

    before: str
    left: bool
    right: bool
    begins: int | None


@dataclass(frozen=True)
class _Layout:
    """The fixed text around the turns of one shape.

    Attributes:
        masked: Whether it is known where the assistant speaks.
    """

    turns: tuple[_Turn, ...]
    after: str
    masked: bool

    def text(self) -> pl.Expr:
        """Return the text of the rows of a frame with ``messages``."""
        parts = [part for n, turn in enumerate(self.turns) for part in (pl.lit(turn.before), self._words(n))]
        return pl.concat_str(*parts, pl.lit(self.after))

    def spans(self) -> pl.Expr:
        """Return where the assistant speaks, of the same frame."""
        at: pl.Expr = pl.lit(0, dtype=pl.Int64)
        found = []
        for n, turn in enumerate(self.turns):
            words = self._words(n)
            start = at + len(turn.before)
            at = start + words.str.len_chars()
            if turn.begins is not None:
                end = start + words.str.strip_chars_end().str.len_chars()
                found.append(pl.struct(start=start + turn.begins, end=end))
        return pl.concat_list(found).cast(SPANS)

    def _words(self, n: int) -> pl.Expr:
        words, turn = _content(n), self.turns[n]
        if turn.left and turn.right:
            return words
        if not (turn.left or turn.right):
            return words.str.strip_chars()
        return words.str.strip_chars_end() if turn.left else words.str.strip_chars_start()


class FrameRenderer:
    """Renders frames as `ChatRenderer` renders rows.

    Args:
        renderer: What decides the text of a row.
    """

    def __init__(self, renderer: ChatRenderer) -> None:
        """Know no shape yet."""
        self.renderer = renderer
        self._layouts: dict[str, _Layout | None] = {}
        self._avoided = _looked_for(renderer.source)

    def rendered(self, frame: pl.DataFrame, *, spans: bool = False) -> pl.DataFrame:
        """Return `RENDERED` for a frame with ``messages`` and ``tools``, in its order.

        Args:
            frame: ``messages`` as in a dataset version, null where there are none; ``tools`` and ``row_id`` may be
                absent.
            spans: Whether to say where the assistant speaks; else the column is null.
        """
        rows = _rows(frame).with_columns(shape=self._shape(frame))
        groups = rows.partition_by("shape", as_dict=True, maintain_order=True)
        found = [self._group(shape, group, spans=spans) for (shape,), group in groups.items()]
        empty = pl.DataFrame(schema={"row": pl.UInt32, **RENDERED})
        return pl.concat([empty, *found]).sort("row").drop("row")

    def _shape(self, frame: pl.DataFrame) -> pl.Expr:
        """Return the roles of a row whose layout could be known, else null."""
        content = pl.element().struct.field("content")
        odd = content.is_null() | (content.str.strip_chars() == "") | content.str.contains(r"[\x1c-\x1f]")
        if self._avoided:
            # Found anywhere in what is said, not only where the template looks: such rows are few.
            odd |= content.str.contains_any(self._avoided)
        if "tool_calls" in message_fields(frame):
            odd |= pl.element().struct.field("tool_calls").is_not_null()
        messages = pl.col("messages")
        plain = ~messages.list.eval(odd).list.any() & pl.col("tools").is_null()
        plain &= messages.list.len().is_between(1, _LONGEST_SHAPE)
        return pl.when(plain).then(messages.list.eval(pl.element().struct.field("role")).list.join(" "))

    def _group(self, shape: str | None, group: pl.DataFrame, *, spans: bool) -> pl.DataFrame:
        layout = self._layout(shape) if shape and group.height >= _FEWEST_ROWS else None
        if layout is None or (spans and not layout.masked):
            return self._one_by_one(group, spans=spans)
        whole = _laid_out(group, layout, spans=spans)
        chosen = list(range(0, group.height, -(-group.height // _CHECKED_ROWS)))
        if whole[chosen].equals(self._one_by_one(group[chosen], spans=spans)):
            return whole
        logger.info("the chat template renders '%s' not with fixed text; those rows are rendered one by one", shape)
        self._layouts[shape or ""] = None
        return self._one_by_one(group, spans=spans)

    def _layout(self, shape: str) -> _Layout | None:
        if shape not in self._layouts:
            self._layouts[shape] = _read_off(self.renderer, shape.split(" "))
        return self._layouts[shape]

    def _one_by_one(self, group: pl.DataFrame, *, spans: bool) -> pl.DataFrame:
        found = [
            (number, *self._row(row, spans=spans)) for number, row in zip(group["row"], chat_rows(group), strict=True)
        ]
        return pl.DataFrame(found, schema={"row": pl.UInt32, **RENDERED}, orient="row")

    def _row(self, row: ChatRow | None, *, spans: bool) -> tuple[str | None, list[dict[str, int]] | None, str | None]:
        if row is None:
            return None, None, "there are no messages"
        try:
            text = self.renderer.text(row)
            found = self.renderer.spans(row, text) if spans else None
        except CannotRender as error:
            return None, None, error.why
        return text, [{"start": start, "end": end} for start, end in found] if found else None, None


def chat_rows(frame: pl.DataFrame) -> list[ChatRow | None]:
    """Return the rows of a frame with ``row_id``, ``messages`` and ``tools`` as the renderer takes them."""
    rows = frame.select("row_id", "messages", "tools").iter_rows()
    return [ChatRow(row_id, messages, "", tools) if messages else None for row_id, messages, tools in rows]


def message_fields(frame: pl.DataFrame) -> list[str]:
    """Return the fields of the turns of a frame; early versions have no ``tool_calls``."""
    turns: Any = frame.schema["messages"]
    return [field.name for field in turns.inner.fields]


def _rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that rendering reads, whatever the version of the dataset."""
    number = pl.int_range(pl.len(), dtype=pl.UInt32)
    tools = pl.col("tools") if "tools" in frame.columns else pl.lit(None, dtype=pl.String).alias("tools")
    row_id = pl.col("row_id") if "row_id" in frame.columns else number.cast(pl.String).alias("row_id")
    return frame.select(number.alias("row"), row_id, "messages", tools)


def _content(n: int) -> pl.Expr:
    return pl.col("messages").list.get(n).struct.field("content")


def _laid_out(group: pl.DataFrame, layout: _Layout, *, spans: bool) -> pl.DataFrame:
    where = layout.spans() if spans else pl.lit(None, dtype=SPANS)
    problem = pl.lit(None, dtype=pl.String)
    return group.select("row", text=layout.text(), spans=where, problem=problem)


def _looked_for(source: str) -> list[str]:
    """Return the texts that a template may look for in what is said: before ``in``, or given to a method or filter."""
    calls = [call[2] for call in _CALL.finditer(source) if call[1] not in _OTHER_CALLS]
    found = {match[2] for match in _BEFORE_IN.finditer(source)}
    found |= {match[2] for given in calls for match in _QUOTED.finditer(given)}
    plain = {re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), text) for text in found}
    return sorted(text for text in plain if text.strip())


def _read_off(renderer: ChatRenderer, roles: list[str]) -> _Layout | None:
    """Return the layout of a shape, or None where markers show that there is none."""
    # Whatever a template might do to text (escape it, change its case, cut it) would change these.
    words = [f'Zq{n}x «it\'s» "{n}"\n\n  <b>&amp; \\d {{{{ {n} }}}} ä 中 1,0.5% End{n}qZ' for n in range(len(roles))]
    try:
        row = _probe(roles, words)
        text = renderer.text(row)
        places = _places(text, words)
        if places is None:
            return None
        seen = [_kept(renderer, roles, words, _pieces(text, places), around) for around in _WHITE_SPACE]
    except CannotRender:
        return None
    kept = seen[0]
    if kept is None or any(other != kept for other in seen):
        return None
    return _layout_of(roles, text, places, kept, _answers(renderer, row, text))


def _layout_of(
    roles: list[str], text: str, places: list[Span], kept: list[tuple[bool, bool]], spans: list[Span] | None
) -> _Layout:
    """Put the parts of a layout together."""
    starts = iter(spans or [])
    begins = [next(starts)[0] if spans and role == "assistant" else None for role in roles]
    pieces = _pieces(text, places)
    turns = tuple(
        _Turn(before, left, right, None if begin is None else begin - place[0])
        for before, (left, right), begin, place in zip(pieces[:-1], kept, begins, places, strict=True)
    )
    return _Layout(turns, pieces[-1], spans is not None)


def _probe(roles: list[str], words: list[str]) -> ChatRow:
    return ChatRow("probe", [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)])


def _answers(renderer: ChatRenderer, row: ChatRow, text: str) -> list[Span] | None:
    try:
        return renderer.spans(row, text)
    except CannotRender:
        return None


def _places(text: str, words: list[str]) -> list[Span] | None:
    """Return where each word stands, or None unless each is there once and in order."""
    starts = [text.find(word) for word in words]
    if any(text.count(word) != 1 for word in words) or starts != sorted(starts):
        return None
    return [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]


def _pieces(text: str, places: list[Span]) -> list[str]:
    ends = [0, *(end for _, end in places)]
    starts = [*(start for start, _ in places), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def _kept(
    renderer: ChatRenderer, roles: list[str], words: list[str], pieces: list[str], around: tuple[str, str]
) -> list[tuple[bool, bool]] | None:
    """Return for each turn whether white space to its left and right is kept, or None if neither explains it."""
    left, right = around
    wide = renderer.text(_probe(roles, [f"{left}{word}{right}" for word in words]))
    places = _places(wide, words)
    if places is None:
        return None
    sides: list[bool] = []  # left of the first, right of the first, left of the second, ...
    for n, (piece, seen) in enumerate(zip(pieces, _pieces(wide, places), strict=True)):
        kept = next((k for k in product((False, True), repeat=2) if seen == right * k[0] + piece + left * k[1]), None)
        if kept is None:
            return None
        sides += kept[:1] if n else ()
        sides += kept[1:] if n < len(words) else ()
    return list(zip(sides[::2], sides[1::2], strict=True))
