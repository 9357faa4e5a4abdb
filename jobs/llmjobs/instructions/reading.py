r"""Reads rows from JSON arrays and JSON lines, each with its real line number, and survives what is broken.

Every part of a file belongs to one row: what cannot be read becomes a row with a `problem`, so that the accounting
sees it. Parsing is the standard library's C scanner, one row at a time; line numbers come from counting line breaks
between rows, which costs next to nothing.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

_SPACE = " \t\r\n"
_SKIP = re.compile(r"[ \t\r\n]*")
_SKIP_COMMAS = re.compile(r"[ \t\r\n,]*")
_OBJECT_START = re.compile(r'\{\s*["}]')
_REPLACED_BYTE = re.compile(r"\\x[0-9a-f]{2}")
_MARKS = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")]


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


def read_rows(content: bytes, *, is_row: Callable[[Any], bool]) -> Iterator[ReadRow]:
    """Yield every row of a file: JSON arrays, JSON lines, or objects one after another.

    Args:
        content: The file's bytes, UTF-8 with or without a byte order mark, or UTF-16 with one.
        is_row: Whether a value looks like a row; behind a broken row of an array, reading goes on at the next
            object for which it holds, and not inside the broken one.
    """
    reader = _Reader(decode(content), is_row)
    begin = reader.skip(_SKIP, 0)
    first = reader.text[begin : begin + 1]
    if first == "[" or (first == "{" and reader.value_has_lines(begin)):
        yield from reader.sequence(begin)
    else:
        yield from reader.lines()


def decode(content: bytes) -> str:
    r"""Return the text of a file; bytes that are no valid text become ``\xff``, which no JSON text can hold."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="backslashreplace")
    return content.decode("utf-8", errors="backslashreplace")


class _Text(str):
    """A text whose `json.JSONDecodeError` is cheap.

    The error's constructor counts the line breaks before its position (CPython 3.11 to 3.14). With many broken
    rows in a large file that is quadratic, and the numbers are not used: `_Reader` counts as it goes.
    """

    __slots__ = ()

    def count(self, *_: Any) -> int:
        return 0

    def rfind(self, *_: Any) -> int:
        return 0


class _Reader:
    """A text, a decoder that notices repeated keys, and a line counter that only moves forward."""

    def __init__(self, text: str, is_row: Callable[[Any], bool]) -> None:
        self.text = _Text(text)
        self._is_row = is_row
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self._line, self._counted = 1, 0

    # --- the three ways in which rows stand in a file

    def lines(self) -> Iterator[ReadRow]:
        """Yield one row a line, without the blank lines."""
        begin = 0
        while begin < len(self.text):
            end = self.text.find("\n", begin)
            end = len(self.text) if end < 0 else end
            line = self.text[begin:end]
            raw = line.strip(_SPACE)
            if raw:
                yield self._whole(begin + line.index(raw[0]), raw)
            begin = end + 1

    def sequence(self, position: int) -> Iterator[ReadRow]:
        """Yield values that stand one after another; the elements of an array are rows of their own."""
        while (position := self.skip(_SKIP, position)) < len(self.text):
            if self.text[position] == "[":
                position = yield from self._array(position + 1)
            else:
                row, position = self._element(position)
                yield row

    def _array(self, position: int) -> Generator[ReadRow, None, int]:
        """Yield the elements of an array whose bracket is open; return where it ends."""
        broken = False
        while (position := self.skip(_SKIP_COMMAS, position)) < len(self.text):
            if self.text[position] == "]":
                return position + 1
            row, position = self._element(position)
            broken = bool(row.problem)
            yield row
        if not broken:
            line = self._line_at(len(self.text))
            yield ReadRow(line=line, raw="", problem=f"line {line}: the file ends before the array does")
        return position

    # --- one row

    def _whole(self, begin: int, raw: str) -> ReadRow:
        """Return the row that one line holds, readable or not."""
        row = ReadRow(line=self._line_at(begin), raw=raw)
        try:
            row.value, end, row.repeated = self._value_at(begin)
        except ValueError as error:
            row.problem = self._explain(error, begin, begin + len(raw))
            return row
        if end != begin + len(raw):
            row.value = None
            row.problem = f"line {row.line}, column {self._column(end)}: more text after the end of the row"
        return row

    def _element(self, begin: int) -> tuple[ReadRow, int]:
        """Return the row at `begin` and where it ends; a broken one reaches to the next readable row."""
        row = ReadRow(line=self._line_at(begin), raw="")
        try:
            row.value, end, row.repeated = self._value_at(begin)
        except ValueError as error:
            end = self._next_row(max(begin + 1, getattr(error, "pos", begin) - 1))
            row.problem = self._explain(error, begin, end)
        row.raw = self.text[begin:end].rstrip(_SPACE + ",")
        return row, end

    def _next_row(self, position: int) -> int:
        """Return where the next readable row begins; where none does, the end of the text."""
        while match := _OBJECT_START.search(self.text, position):
            position = match.start() + 1
            try:
                value, end, _ = self._value_at(match.start())
            except _TooDeep:
                position += _DEEP_AT_LEAST  # so many brackets open here; a row that begins among them is inside
                continue
            except ValueError:
                continue
            follows = self.skip(_SKIP, end)
            if self._is_row(value) and self.text[follows : follows + 1] in {"", ",", "]", "{"}:
                return match.start()
        return len(self.text)

    def _value_at(self, position: int) -> tuple[Any, int, tuple[str, ...]]:
        """Return the value that begins at a position, where it ends, and its repeated keys.

        Raises:
            ValueError: There is no valid value; a `json.JSONDecodeError` has the position where reading stopped.
        """
        self._repeated.clear()
        try:
            value, end = self._decoder.raw_decode(self.text, position)
        except RecursionError:
            raise _TooDeep("nested too deeply") from None
        return value, end, tuple(dict.fromkeys(self._repeated))

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self._repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return value

    # --- positions

    def skip(self, pattern: re.Pattern[str], position: int) -> int:
        """Return the position behind what `pattern` matches at `position`."""
        match = pattern.match(self.text, position)
        return match.end() if match else position

    def value_has_lines(self, begin: int) -> bool:
        """Return whether the value at `begin` goes over several lines, so that lines are not rows."""
        try:
            _, end, _ = self._value_at(begin)
        except ValueError:
            return False
        return "\n" in self.text[begin:end]

    def _line_at(self, position: int) -> int:
        self._line += str.count(self.text, "\n", self._counted, position)
        self._counted = position
        return self._line

    def _column(self, position: int) -> int:
        return position - str.rfind(self.text, "\n", 0, position)

    def _explain(self, error: ValueError, begin: int, end: int) -> str:
        """Say where and why the row that fills ``text[begin:end]`` could not be read."""
        if not isinstance(error, json.JSONDecodeError):
            return f"line {self._line}: {error}"
        where = f"line {self._line + str.count(self.text, chr(10), begin, error.pos)}, column {self._column(error.pos)}"
        replaced = _REPLACED_BYTE.search(self.text, max(begin, error.pos - 1), error.pos + 4)
        if replaced:
            return f"{where}: byte {replaced[0]} is no UTF-8"
        rest = self.text[error.pos : end].strip(_SPACE)
        if not rest or error.msg.startswith("Unterminated string"):
            return f"{where}: the text ends inside the row"
        return f"{where}: {error.msg}"
