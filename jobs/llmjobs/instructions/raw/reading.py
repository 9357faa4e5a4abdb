r"""Reads files of rows as frames of `READ`, whatever kind of file they are in and whatever is broken in it.

Memory does not grow with the file. Every part of a file belongs to one row (but the header of a table): what cannot be
read becomes a row with a ``read_problem``. Which module reads what:

* ``.gz`` and ``.zst`` around it: `decompression`; UTF-8, UTF-16 and UTF-32: `decoding`
* JSON arrays, and objects over several lines: `json_rows`, row by row
* JSON lines: `plain_rows` reads what is certainly plain, `json_rows` all else
* CSV and TSV: `tabular`; Parquet: `parquet_rows`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import BinaryIO

import polars as pl

from llmjobs.contracts.data_contract import Format, Mapping
from llmjobs.instructions.raw.decoding import Utf8, texts
from llmjobs.instructions.raw.decompression import Blocks
from llmjobs.instructions.raw.formats import SPACE
from llmjobs.instructions.raw.json_rows import LONGEST_ROW, JsonRows, ReadRow
from llmjobs.instructions.raw.parquet_rows import parquet_frames
from llmjobs.instructions.raw.plain_rows import PlainRows
from llmjobs.instructions.raw.row_frames import frame_of
from llmjobs.instructions.raw.row_layouts import Layouts
from llmjobs.instructions.raw.tabular import csv_rows

__all__ = ["SUFFIXES", "kind_of", "read_frames"]

SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Suffix -> kind of file; each may have ``.gz`` or ``.zst`` behind it."""

_PACKED = (".gz", ".zst")
_SAMPLE_ROWS = 50
_LEARN_SHARE = 10
"""More than a tenth of unusual rows: perhaps they are usual from here on."""


def read_frames(
    file: BinaryIO,
    *,
    name: str,
    form: Format = "auto",
    mapping: Mapping | None = None,
    chunk_rows: int = 50_000,
    chunk_bytes: int = 32 << 20,
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file, as `READ`, in their order.

    Args:
        file: Its bytes; they are read once, from where it stands.
        name: Tells by its suffix what kind of file it is; with any other suffix its content does.
        form: The format of the rows.
        mapping: Instead of a format.
        chunk_rows: Rows of a frame, at most.
        chunk_bytes: Bytes of raw rows of a frame, about; one row may be larger.
    """
    layouts = Layouts(form, mapping)
    exact = partial(frame_of, layouts=layouts)
    blocks = Blocks(file, name)
    unpacked = (block for block in blocks if block)
    head = next(unpacked, b"")
    if not head:
        yield from _chunks(_ended(_of_nothing(name, blocks), blocks), exact, chunk_rows, chunk_bytes)
        return
    stream = chain([head], unpacked)
    kind = kind_of(name) or _kind_by_content(head)
    if kind == "parquet":
        yield from parquet_frames(stream, blocks, layouts, chunk_rows, chunk_bytes)
    elif kind == "csv":
        rows = csv_rows(Utf8(stream), blocks, tabs=".tsv" in name.lower())
        yield from _chunks(_ended(rows, blocks), exact, chunk_rows, chunk_bytes)
    else:
        yield from _json_frames(Utf8(stream), blocks, layouts, chunk_rows, chunk_bytes)


def _of_nothing(name: str, blocks: Blocks) -> Iterator[ReadRow]:
    """Yield a row that cannot be read where a file without a byte is no file of its kind: Parquet, a JSON array."""
    name = name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    if name.endswith((".parquet", ".json")) and not blocks.problem:
        yield ReadRow(line=1, raw="", problem="line 1: the file is empty: a broken upload?")


def kind_of(name: str) -> str:
    """Return ``json``, ``csv`` or ``parquet`` by the suffix of a file's name; empty for any other."""
    name = name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "")


def _kind_by_content(head: bytes) -> str:
    """Return what kind of file begins with some bytes."""
    if head.startswith(b"PAR1"):
        return "parquet"
    begin = next((text for text in texts(Utf8([head]), "replace") if text), "").lstrip()
    first_line = begin.partition("\n")[0]
    return "csv" if begin and begin[0] not in "[{" and ("," in first_line or "\t" in first_line) else "json"


def _json_frames(
    utf8: Utf8, blocks: Blocks, layouts: Layouts, chunk_rows: int, chunk_bytes: int
) -> Iterator[pl.DataFrame]:
    replay = _Replay(utf8)
    rows = JsonRows(texts(replay, utf8.errors), layouts.is_row)
    if rows.is_sequence():
        replay.forget()
        of_json = _JsonFrames(layouts).frame
        yield from _chunks(_ended(rows.sequence(), blocks), of_json, chunk_rows, chunk_bytes)
        return
    reader, lines = _LineFrames(utf8, layouts), _Lines(replay.again(), blocks, chunk_rows, chunk_bytes)
    for batch in lines:
        frame = reader.frame(lines.line, batch)
        if frame.height:
            yield frame
    if blocks.problem:
        last = reader.row(lines.rest, lines.line) if lines.rest.strip(SPACE.encode()) else None
        yield frame_of(_broken_end(last, lines.line, blocks.problem), layouts)


class _Replay:
    """Blocks that can be read a second time from the start, until `forget`."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._kept: list[bytes] | None = []

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            if self._kept is not None:
                self._kept.append(block)
            yield block

    def forget(self) -> None:
        """Keep no block from now on."""
        self._kept = None

    def again(self) -> Iterator[bytes]:
        """Return all blocks from the first on."""
        kept, self._kept = self._kept or [], None
        return chain(kept, self._blocks)


class _Lines:
    """The lines of UTF-8 blocks, in batches; iterating reads them once.

    Attributes:
        rest: The last line, where unpacking broke inside it.
        line: Number of the line that follows the batches so far, from 1.
    """

    def __init__(self, blocks: Iterable[bytes], source: Blocks, chunk_rows: int, chunk_bytes: int) -> None:
        self.rest, self.line = b"", 1
        self._blocks, self._source = blocks, source
        self._rows, self._bytes = chunk_rows, chunk_bytes
        self._parts: list[bytes] = []
        self._size = self._breaks = 0

    def __iter__(self) -> Iterator[list[bytes]]:
        for block in self._blocks:
            self._parts.append(block)
            self._size += len(block)
            self._breaks += block.count(b"\n")
            if self._breaks >= self._rows or (self._breaks and self._size >= self._bytes) or self._size > LONGEST_ROW:
                yield from self._batches()
        yield from self._batches(last=True)

    def _batches(self, *, last: bool = False) -> Iterator[list[bytes]]:
        lines = b"".join(self._parts).split(b"\n")
        rest = b"" if last and not self._source.problem else lines.pop()
        if len(rest) > LONGEST_ROW:  # a line without end: it is cut, and its pieces are rows that cannot be read
            lines, rest = [*lines, rest], b""
        elif not last and self._size < self._bytes:  # then all batches but the last of the file are of one size
            kept = len(lines) // self._rows * self._rows
            lines, rest = lines[:kept], b"\n".join([*lines[kept:], rest])
        for begin in range(0, len(lines), self._rows):
            batch = lines[begin : begin + self._rows]
            yield batch
            self.line += len(batch)
        self._parts, self._size, self._breaks = [rest], len(rest), rest.count(b"\n")
        self.rest = rest if last else b""


class _LineFrames:
    """Makes frames of lines: the plain ones all at once, each other one exactly."""

    def __init__(self, utf8: Utf8, layouts: Layouts) -> None:
        self._utf8, self._layouts = utf8, layouts
        self._plain = PlainRows(layouts)
        self._exact = JsonRows(iter(()), layouts.is_row)

    def frame(self, first: int, lines: list[bytes]) -> pl.DataFrame:
        """Return the rows of lines, of which the first has the number `first`, as `READ`."""
        raw = _texts(lines)
        if any(raw.str.starts_with(space).any() or raw.str.ends_with(space).any() for space in SPACE):
            raw = raw.str.strip_chars(SPACE)  # it copies every text
        numbers = pl.int_range(first, first + len(lines), eager=True).alias("line")
        rows = pl.DataFrame([numbers, raw]).filter(raw.is_null() | (raw != ""))
        if not self._plain.has_plans:
            self._learn(rows, first, lines)
        plain, rest = self._plain.read(rows, lambda some: b"\n".join([lines[line - first] for line in some.to_list()]))
        if not rest.height:
            return plain
        exact = frame_of((self.row(lines[line - first], line) for line in rest["line"]), self._layouts)
        if rest.height > rows.height // _LEARN_SHARE:
            self._learn(rest, first, lines)
        return pl.concat([plain, exact]).sort("line") if plain.height else exact

    def row(self, line: bytes, number: int) -> ReadRow:
        """Return the row of one line."""
        return self._exact.of_line(self._utf8.text(line), number)

    def _learn(self, rows: pl.DataFrame, first: int, lines: list[bytes]) -> None:
        sample = rows["line"].gather_every(max(1, rows.height // _SAMPLE_ROWS))
        self._plain.learn(self.row(lines[line - first], line).value for line in sample)


class _JsonFrames:
    """Makes frames of JSON values that were found one by one: the plain ones all at once, each other one exactly."""

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._plain = PlainRows(layouts)

    def frame(self, chunk: list[ReadRow]) -> pl.DataFrame:
        """Return rows as `READ`."""
        numbers = pl.int_range(len(chunk), eager=True).alias("line")  # for now, as rows may share a line
        raw = pl.Series("raw", [None if row.problem else row.raw for row in chunk], dtype=pl.String)
        if not self._plain.has_plans:
            self._plain.learn(row.value for row in chunk[:: max(1, len(chunk) // _SAMPLE_ROWS)])
        plain, rest = self._plain.read(
            pl.DataFrame([numbers, raw]),
            # A line break can only stand between the tokens of a plain row.
            lambda some: "\n".join([chunk[number].raw.replace("\n", " ") for number in some.to_list()]).encode(),
        )
        exact = frame_of((chunk[number] for number in rest["line"]), self._layouts).with_columns(rest["line"])
        frame = plain if not rest.height else pl.concat([plain, exact]).sort("line")
        return frame.with_columns(line=pl.Series([row.line for row in chunk], dtype=pl.Int64))


def _texts(lines: list[bytes]) -> pl.Series:
    """Return lines as texts, null where they are no UTF-8."""
    try:
        return pl.Series("raw", lines, dtype=pl.Binary).cast(pl.String)
    except pl.exceptions.ComputeError:  # one of them is none: polars says no more than that
        return pl.Series("raw", [_text(line) for line in lines], dtype=pl.String)


def _text(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _chunks(
    rows: Iterable[ReadRow], frame: Callable[[list[ReadRow]], pl.DataFrame], chunk_rows: int, chunk_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield frames of rows that were read one by one."""
    chunk: list[ReadRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row.raw)
        if len(chunk) >= chunk_rows or size >= chunk_bytes:
            yield frame(chunk)
            chunk, size = [], 0
    if chunk:
        yield frame(chunk)


def _ended(rows: Iterable[ReadRow], blocks: Blocks) -> Iterator[ReadRow]:
    """Yield rows, and where unpacking broke, say so in the last one or in one more."""
    last: ReadRow | None = None
    for row in rows:
        if last is not None:
            yield last
        last = row
    if blocks.problem:
        yield from _broken_end(last, 1 if last is None else last.line, blocks.problem)
    elif last is not None:
        yield last


def _broken_end(last: ReadRow | None, line: int, problem: str) -> Iterator[ReadRow]:
    """Yield the last row before unpacking broke, and the row that says so; one row when it broke inside the last."""
    if last is not None and last.problem:
        last.problem = f"{last.problem.partition(': ')[0]}: {problem}"
        yield last
        return
    if last is not None:
        line = last.line + last.raw.count("\n")
        yield last
    yield ReadRow(line=line, raw="", problem=f"line {line}: {problem}")
