r"""Reads rows out of JSON text, each with its real line number, and survives what is broken.

Every part of a text belongs to one row: what cannot be read becomes a row with a `problem`, so that the accounting
sees it. Parsing is the standard library's C scanner, one row at a time, in a window that moves over the text; line
numbers come from counting line breaks between rows, which costs next to nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmjobs.instructions.raw.decoding import bad_byte, no_utf8, shown
from llmjobs.instructions.raw.formats import SPACE

LONGEST_ROW = 1 << 28
"""Characters; a longer row is cut into pieces that cannot be read, so that no file fills the memory."""

_SKIP = re.compile(r"[ \t\r\n]*")
_SKIP_COMMAS = re.compile(r"[ \t\r\n,]*")
_SKIP_LEFT = re.compile(r"[ \t\r\n,\]]*")
_OBJECT_START = re.compile(r'\{\s*["}]')
_MARGIN = 16
r"""Characters behind an error that prove that the text beyond the window has no part in it: the longest word of JSON
(``-Infinity``) and the longest escape (``\uXXXX\uXXXX``) are shorter."""

_DEEP_AT_LEAST = 500
"""Brackets that JSON may nest before Python refuses: about 1,000 in CPython 3.11, more in later ones."""


class _TooDeep(ValueError):
    """JSON nested deeper than Python reads."""


@dataclass(slots=True)
class ReadRow:
    r"""One row as it stands in a file.

    Attributes:
        line: Line of the file where it begins, from 1.
        raw: Its exact text; bytes that are no UTF-8 show as ``\xff``.
        value: What it says, None when it could not be read.
        problem: Why it could not be read, with its line and column; empty when it could.
        repeated: Keys that one of its objects holds twice; the last value won.
    """

    line: int
    raw: str
    value: Any = None
    problem: str = ""
    repeated: tuple[str, ...] = ()


class _Text(str):
    """A text whose `json.JSONDecodeError` is cheap.

    The error's constructor counts the line breaks before its position (CPython 3.11 to 3.14). With many broken
    rows in a large file that is quadratic, and the numbers are not used: `JsonRows` counts as it goes.
    """

    __slots__ = ()

    def count(self, *_: Any) -> int:
        return 0

    def rfind(self, *_: Any) -> int:
        return 0


class JsonRows:
    """A window on a text, a decoder that notices repeated keys, and a line counter that only moves forward.

    Args:
        chunks: The text, piece by piece.
        is_row: Whether a value looks like a row; behind a broken row of an array, reading goes on at the next
            object for which it holds, and not inside the broken one.
    """

    def __init__(self, chunks: Iterator[str], is_row: Callable[[Any], bool]) -> None:
        self._chunks = chunks
        self._is_row = is_row
        self._text = _Text()
        self._at = 0
        self._line, self._column_before, self._counted = 1, 0, 0
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    # --- the ways in which rows stand in a file

    def is_sequence(self) -> bool:
        """Return whether the text is an array, or values over several lines, so that lines are not rows."""
        if not self._skip(_SKIP):
            return False
        first = self._text[self._at]
        if first != "{":
            return first == "["
        try:
            _, size, _ = self._value()
        except ValueError:
            return False
        return "\n" in self._text[self._at : self._at + size]

    def sequence(self) -> Iterator[ReadRow]:
        """Yield values that stand one after another; the elements of an array are rows of their own."""
        between = _SKIP
        while self._skip(between):
            if self._text[self._at] == "[":
                self._at += 1
                between = _SKIP
                yield from self._array()
            else:
                row = self._element()
                # A broken part may reach into an array, whose commas and closing bracket then follow.
                between = _SKIP_LEFT if row.problem else between
                yield row

    def of_line(self, text: str, line: int) -> ReadRow:
        """Return the one row that the text of a line holds, readable or not; the chunks must be at their end."""
        self._text = _Text(text)
        self._at = self._column_before = self._counted = 0
        self._line = line
        self._skip(_SKIP)
        begin, end = self._at, len(self._text.rstrip(SPACE))
        row = ReadRow(line=self._count(), raw=self._text[begin:end])
        try:
            value, size, repeated = self._value()
        except ValueError as error:
            row.problem = self._explain(error, end)
        else:
            if begin + size != end:
                row.problem = f"{self._where(begin + size)}: more text after the end of the row"
            else:
                row.value, row.repeated = value, repeated
        return self._checked(row)

    def _array(self) -> Iterator[ReadRow]:
        """Yield the elements of an array whose bracket is open."""
        broken = False
        while self._skip(_SKIP_COMMAS):
            if self._text[self._at] == "]":
                self._at += 1
                return
            row = self._element()
            broken = bool(row.problem)
            yield row
        if not broken:
            line = self._count()
            yield ReadRow(line=line, raw="", problem=f"line {line}: the file ends before the array does")

    # --- one row

    def _element(self) -> ReadRow:
        """Return the row that begins here and move behind it; a broken one reaches to the next readable row."""
        row = ReadRow(line=self._count(), raw="")
        try:
            row.value, size, row.repeated = self._value()
        except ValueError as error:
            size = self._next_row(max(1, getattr(error, "pos", self._at) - self._at - 1))
            row.problem = self._explain(self._again(error), self._at + size)
        row.raw = self._text[self._at : self._at + size].rstrip(SPACE + ",")
        self._checked(row)
        self._at += size
        return row

    def _checked(self, row: ReadRow) -> ReadRow:
        """Return a row with its bad bytes shown; one that has some cannot be read, though JSON would pass over them."""
        bad = bad_byte(row.raw)
        if bad >= 0:
            if not row.problem:
                row.value, row.repeated = None, ()
                row.problem = f"{self._where(self._at + bad)}: {no_utf8(row.raw, bad)}"
            row.raw = shown(row.raw)
        return row

    def _next_row(self, size: int) -> int:
        """Return how far it is to the next readable row, at least `size`; where there is none, to the end."""
        while True:
            match = _OBJECT_START.search(self._text, self._at + size)
            if match is None:
                size = max(size, len(self._text) - self._at - self._open_brace())
                if not self._fill():
                    return len(self._text) - self._at
                continue
            offset = match.start() - self._at
            size = offset + 1
            try:
                value, length, _ = self._value(offset)
            except _TooDeep:
                size += _DEEP_AT_LEAST  # so many brackets open here; a row that begins among them is inside
                continue
            except ValueError:
                continue
            if self._is_row(value) and self._follows(offset + length) in {"", ",", "]", "{"}:
                return offset

    def _open_brace(self) -> int:
        """Return how long the end of the text is that may be the start of an object, of which more is to come."""
        rest = self._text.rstrip()
        return len(self._text) - len(rest) + 1 if rest.endswith("{") else 0

    def _follows(self, offset: int) -> str:
        """Return the first character behind a value, empty at the end of the text."""
        while True:
            match = _SKIP.match(self._text, self._at + offset)
            end = match.end() if match else self._at + offset
            if end < len(self._text):
                return self._text[end]
            if not self._fill():
                return ""

    def _value(self, offset: int = 0) -> tuple[Any, int, tuple[str, ...]]:
        """Return the value that begins at an offset from here, its size, and its repeated keys.

        Raises:
            ValueError: There is no valid value; a `json.JSONDecodeError` has the position where reading stopped.
        """
        while True:
            begin = self._at + offset
            self._repeated.clear()
            try:
                value, end = self._decoder.raw_decode(self._text, begin)
            except json.JSONDecodeError as error:
                if self._is_final(error) or not self._fill():
                    raise
            except RecursionError:
                raise _TooDeep("nested too deeply") from None
            else:
                if end < len(self._text) or not self._fill():
                    return value, end - begin, tuple(dict.fromkeys(self._repeated))

    def _again(self, error: ValueError) -> ValueError:
        """Return the error of the value that begins here, with its position in the window as it is now."""
        if not isinstance(error, json.JSONDecodeError):
            return error
        try:
            self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as moved:
            return moved
        except (ValueError, RecursionError):
            return error
        return error

    def _is_final(self, error: json.JSONDecodeError) -> bool:
        """Return whether an error stays one whatever the text beyond the window says."""
        if error.msg.startswith("Unterminated string"):
            return False
        match = _SKIP.match(self._text, error.pos + 1)
        return (match.end() if match else error.pos) < len(self._text) - _MARGIN

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self._repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return value

    # --- the window

    def _fill(self) -> bool:
        """Add at least as much text as there is to the window, and drop what is done; False at the end.

        Doubling makes the work of reading a long row again and again proportional to its length.
        """
        self._count()
        kept = self._text[self._at :]
        if len(kept) >= LONGEST_ROW:
            return False
        parts, size = [kept], 0
        for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if size > len(kept):
                break
        self._at = self._counted = 0
        self._text = _Text("".join(parts))
        return size > 0

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind what `pattern` matches here; False at the end of the text."""
        while True:
            match = pattern.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return True
            if not self._fill():
                return False

    # --- positions

    def _count(self) -> int:
        """Return the number of the line that is read now."""
        breaks = str.count(self._text, "\n", self._counted, self._at)
        if breaks:
            self._line += breaks
            self._column_before = self._at - str.rfind(self._text, "\n", self._counted, self._at) - 1
        else:
            self._column_before += self._at - self._counted
        self._counted = self._at
        return self._line

    def _column(self, position: int) -> int:
        """Return the column, from 1, of a position at or behind where `_count` was called last."""
        start = str.rfind(self._text, "\n", self._counted, position)
        return position - start if start >= 0 else self._column_before + position - self._counted + 1

    def _where(self, position: int) -> str:
        line = self._line + str.count(self._text, "\n", self._counted, position)
        return f"line {line}, column {self._column(position)}"

    def _explain(self, error: ValueError, end: int) -> str:
        """Say where and why the row up to `end` could not be read."""
        if not isinstance(error, json.JSONDecodeError):
            return f"line {self._line}: {error}"
        where = self._where(error.pos)
        if end - self._at >= LONGEST_ROW:
            return f"{where}: the row is longer than {LONGEST_ROW:,} characters, so it is cut"
        if _is_bad(self._text[error.pos : error.pos + 1]):
            return f"{where}: {no_utf8(self._text, error.pos)}"
        rest = self._text[error.pos : end].strip(SPACE)
        if not rest or error.msg.startswith("Unterminated string"):
            return f"{where}: the text ends inside the row"
        return f"{where}: {error.msg}"


def _is_bad(character: str) -> bool:
    return "\udc00" <= character <= "\udcff"
