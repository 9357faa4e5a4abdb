"""Reads the records of CSV and TSV files, each with its real line number, and survives what is broken."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator

from llmjobs.instructions.raw.decoding import Utf8, bad_byte, no_utf8, shown
from llmjobs.instructions.raw.decompression import Blocks
from llmjobs.instructions.raw.json_rows import ReadRow

LONGEST_RECORD = 1 << 27
"""Characters; where a quote stays open for longer, the line in which it opens is broken."""

_LEAST_LOOK = 1 << 16
"""Characters that are looked at, at least, to find where reading can go on."""

_DELIMITERS = ",;\t|"


def csv_rows(utf8: Utf8, blocks: Blocks, *, tabs: bool = False) -> Iterator[ReadRow]:
    """Yield the records of a CSV file as rows; the value of each is a mapping of column to text.

    The first record names the columns. Where a record is broken (a quote that is not closed, too few or too many
    fields), the row reaches to the next line from which a whole record can be read.

    Args:
        utf8: The file's text.
        blocks: Where it comes from; it knows whether unpacking broke.
        tabs: Whether tabs separate the fields; else the first of comma, semicolon, tab and bar in the header does.
    """
    csv.field_size_limit(LONGEST_RECORD)
    records = _Records(utf8, blocks, tabs=tabs)
    header = records.next()
    if header is None:
        return
    if header.problem:
        yield header
        while row := records.next():
            row.problem = row.problem or f"line {row.line}: the columns have no names, as the header is broken"
            yield row
        return
    names = [name.strip() for name in header.value]
    repeated = tuple(name for name, times in Counter(names).items() if times > 1)
    while row := records.next(len(names)):
        if not row.problem:
            row.value, row.repeated = dict(zip(names, row.value, strict=True)), repeated
        yield row


class _Records:
    """Records of a CSV file, one at a time; `csv` parses, and the lines that it asks for are the record's text."""

    def __init__(self, utf8: Utf8, blocks: Blocks, *, tabs: bool) -> None:
        self._blocks = blocks
        self._lines = _lines(utf8)
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._size, self._most = 0, LONGEST_RECORD
        self._line = 1
        first = next(self._lines, "")
        self._again.extend([first] if first else [])
        self._delimiter = "\t" if tabs else next((mark for mark in _DELIMITERS if mark in first), ",")
        self._reader = self._new_reader()

    def next(self, fields: int = 0) -> ReadRow | None:
        """Return the next record, its value a list of texts; None at the end.

        Args:
            fields: How many it must have; 0: any number.
        """
        values, problem = self._attempt(fields)
        while self._taken and not "".join(self._taken).strip(" \r\n"):
            self._line += len(self._taken)
            values, problem = self._attempt(fields)
        if not self._taken:
            return None
        lines = self._broken_lines(fields) if values is None else self._taken
        row = ReadRow(line=self._line, raw="".join(lines).rstrip("\r\n"), value=values, problem=problem)
        self._line += len(lines)
        if not problem and self._blocks.problem and not lines[-1].endswith("\n"):
            row.problem = f"line {self._line - 1}: the file ends inside the row"
        return _checked(row)

    def _attempt(self, fields: int) -> tuple[list[str] | None, str]:
        """Parse a record; return its values, None where it has no end, and what is wrong with it.

        Its lines are in ``_taken``, none at the end of the file.
        """
        self._taken, self._size = [], 0
        try:
            values = next(self._reader, None)
        except (csv.Error, _TooLong) as error:
            self._reader = self._new_reader()
            return None, f"line {self._line + len(self._taken) - 1}: {_reason(error)}"
        if values is not None and fields and len(values) != fields:
            return values, f"line {self._line}: {len(values)} fields, but the header names {fields}"
        return values, ""

    def _broken_lines(self, fields: int) -> list[str]:
        """Return the lines of a record without end, up to the next line from which a whole record can be read."""
        broken: list[str] = []
        while True:
            broken.append(self._taken[0])
            self._put_back(self._taken[1:])
            # Half as far at each try, so that all tries together cost no more than two.
            self._most = max(self._most // 2, _LEAST_LOOK)
            values, problem = self._attempt(fields)
            if not self._taken or (values and not problem):
                break
        self._put_back(self._taken)
        self._most = LONGEST_RECORD
        return broken

    def _put_back(self, lines: list[str]) -> None:
        self._again.extendleft(reversed(lines))

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._fed(), delimiter=self._delimiter, strict=True)

    def _fed(self) -> Iterator[str]:
        """Yield lines to the parser, and keep them as those of its record."""
        while line := self._again.popleft() if self._again else next(self._lines, ""):
            self._taken.append(line)
            self._size += len(line)
            if self._size > self._most and len(self._taken) > 1:
                raise _TooLong
            yield line


class _TooLong(Exception):
    """A record goes on for too long."""


def _reason(error: Exception) -> str:
    """Say in the file's terms what `csv` says in its own."""
    if isinstance(error, _TooLong) or "field larger" in str(error):
        return f"a quote stays open for more than {LONGEST_RECORD:,} characters"
    if "unexpected end" in str(error):
        return "a quote is not closed before the end of the file"
    if "expected after" in str(error):
        return "text behind a closing quote (a quote within a field must be doubled)"
    return str(error)


def _lines(utf8: Utf8) -> Iterator[str]:
    """Yield the lines of a file with their ends; one that goes on for too long is cut."""
    parts: list[bytes] = []
    size = 0
    for block in utf8:
        first, *more = block.split(b"\n")
        parts.append(first)
        size += len(first)
        if more:
            yield utf8.text(b"".join(parts) + b"\n")
            yield from (utf8.text(line + b"\n") for line in more[:-1])
            parts, size = [more[-1]], len(more[-1])
        elif size > LONGEST_RECORD:
            yield utf8.text(b"".join(parts))
            parts, size = [], 0
    if rest := b"".join(parts):
        yield utf8.text(rest)


def _checked(row: ReadRow) -> ReadRow:
    """Return a row with its bad bytes shown; one that has some, or NUL, cannot be read."""
    bad = bad_byte(row.raw)
    bad = row.raw.find("\0") if bad < 0 else bad
    if bad >= 0:
        before = row.raw[:bad]
        where = f"line {row.line + before.count(chr(10))}, column {bad - before.rfind(chr(10))}"
        what = "NUL byte" if row.raw[bad] == "\0" else no_utf8(row.raw, bad)
        row.problem = row.problem or f"{where}: {what}"
        row.raw = shown(row.raw)
    return row
