"""Reads the rows of Parquet files, batch by batch, and survives what is broken."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import polars as pl

from llmjobs.instructions.raw.decoding import shown
from llmjobs.instructions.raw.decompression import Blocks
from llmjobs.instructions.raw.json_rows import ReadRow
from llmjobs.instructions.raw.plain_rows import columns_of
from llmjobs.instructions.raw.row_frames import frame_of
from llmjobs.instructions.raw.row_layouts import Layout, Layouts, WrongShape
from llmjobs.instructions.tables import READ

_SCHEMA: Any = READ
_IN_MEMORY_BYTES = 64 << 20
_LEAST_ROWS = 16
_REASON_CHARACTERS = 200


def parquet_frames(
    stream: Iterable[bytes], blocks: Blocks, layouts: Layouts, chunk_rows: int, chunk_bytes: int
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file, as `READ`; what cannot be read of a row group is one row.

    Parquet is read from its end, so the file is copied to the local disk first.

    Args:
        stream: The file's bytes.
        blocks: Where they come from; it knows whether unpacking broke.
        layouts: The layout of each row.
        chunk_rows: Rows of a frame, at most.
        chunk_bytes: Bytes of rows of a frame, about.
    """
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as local:
        for block in stream:
            local.write(block)
        if blocks.problem:
            yield frame_of([ReadRow(line=1, raw="", problem=f"line 1: {blocks.problem}")], layouts)
            return
        for found in _batches(local, chunk_rows, chunk_bytes):
            if isinstance(found, ReadRow):
                yield frame_of([found], layouts)
            else:
                yield from _frames(*found, layouts)


def _batches(local: IO[bytes], chunk_rows: int, chunk_bytes: int) -> Iterator[ReadRow | tuple[int, Any]]:
    """Yield the number of the first row, from 1, and an Arrow batch; or a row that says what cannot be read."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(local)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        sizes = [(max(group.num_rows, 0), max(group.total_byte_size, 0)) for group in groups]
    except Exception as error:
        yield ReadRow(line=1, raw="", problem=f"line 1: no readable Parquet: {_reason(error)}")
        return
    first = 1
    for number, (rows, size) in enumerate(sizes):
        done = 0
        batch_rows = min(max(chunk_bytes * rows // max(size, 1), _LEAST_ROWS), chunk_rows)
        try:
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=[number], use_threads=False):
                yield first + done, batch
                done += batch.num_rows
        except Exception as error:
            begin, end = first + done, first + max(rows, done + 1) - 1
            yield ReadRow(
                line=begin, raw="", problem=f"line {begin}: rows {begin} to {end} cannot be read: {_reason(error)}"
            )
        first += max(rows, done)


def _frames(first: int, batch: Any, layouts: Layouts) -> Iterator[pl.DataFrame]:
    """Yield a batch as `READ`."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        yield frame_of(_one_by_one(first, batch), layouts)
        return
    try:
        rows = pl.DataFrame(pl.from_arrow(batch))
        frame = _frame(first, rows, layouts)
    except (Exception, pl.exceptions.PanicException) as error:
        end = first + batch.num_rows - 1
        problem = f"line {first}: rows {first} to {end} cannot be read: {_reason(error)}"
        frame = frame_of([ReadRow(line=first, raw="", problem=problem)], layouts)
    yield frame


def _frame(first: int, rows: pl.DataFrame, layouts: Layouts) -> pl.DataFrame:
    """Return rows as `READ`: texts as they are, all that is not a text or a plain turn row by row."""
    raw = _raw(rows)
    read = pl.DataFrame([pl.int_range(first, first + rows.height, eager=True).alias("line"), raw])
    try:
        layout = layouts.of(tuple(rows.columns))
    except WrongShape:
        return _exact(read, layouts)
    odd = _odd(layout, rows.schema)
    if odd is None:
        return _exact(read, layouts)
    is_odd = rows.select(pl.lit(value=False, dtype=pl.Boolean) | odd.fill_null(value=False)).to_series()
    is_odd = is_odd if is_odd.len() == rows.height else pl.repeat(is_odd[0], rows.height, eager=True)
    nothing = (pl.lit(None, dtype=pl.String).alias(name) for name in ("read_problem", "shape_problem", "repeated_keys"))
    texts = rows.with_columns(pl.col(pl.Null).cast(pl.String)).select(columns_of(layout, set(rows.columns)))
    plain = read.with_columns(*nothing).hstack(texts).select(*READ).cast(_SCHEMA)
    if not is_odd.any():
        return plain
    return pl.concat([plain.filter(~is_odd), _exact(read.filter(is_odd), layouts)]).sort("line")


def _exact(read: pl.DataFrame, layouts: Layouts) -> pl.DataFrame:
    return frame_of((ReadRow(line=line, raw=raw, value=json.loads(raw)) for line, raw in read.iter_rows()), layouts)


def _odd(layout: Layout, schema: pl.Schema) -> pl.Expr | None:
    """Return which rows `columns_of` cannot take, None where it can take none."""
    used = [name for name in layout.columns if name in schema and name != layout.listed]
    if layout.columns.count(layout.listed or "") > 1 or any(name not in schema for name in layout.needed):
        return None
    if any(schema[name] not in {pl.String, pl.Null} for name in used):
        return None
    if layout.messages is not None:
        return _odd_turns(layout, schema[layout.messages])
    if layout.history not in schema:
        return pl.lit(value=False)
    history, kind = pl.col(str(layout.history)), schema[str(layout.history)]
    if isinstance(kind, pl.List):
        return history.list.len() > 0
    return history != "" if kind == pl.String else None


def _odd_turns(layout: Layout, kind: pl.DataType) -> pl.Expr | None:
    """Return which rows have no turns, a turn without role, or one that calls a function."""
    turn = {layout.role: pl.String(), layout.content: pl.String()}
    if not isinstance(kind, pl.List) or not isinstance(kind.inner, pl.Struct) or dict(kind.inner.to_schema()) != turn:
        return None
    turns, role = pl.col(str(layout.messages)), pl.element().struct.field(layout.role)
    odd = pl.element().is_null() | role.is_null() | (role == "function_call")
    return turns.is_null() | (turns.list.len() == 0) | turns.list.eval(odd).list.any()


def _raw(rows: pl.DataFrame) -> pl.Series:
    """Return each row as JSON."""
    if all(_is_json(kind) for kind in rows.dtypes) and rows.width:
        return rows.select(pl.struct(pl.all()).struct.json_encode().alias("raw")).to_series()
    texts = [
        json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_text) for row in rows.iter_rows(named=True)
    ]
    return pl.Series("raw", texts, dtype=pl.String)


def _is_json(kind: pl.DataType) -> bool:
    """Return whether polars writes a type as JSON; its binary columns end in a panic (polars 2.1)."""
    if isinstance(kind, (pl.List, pl.Array)):
        return _is_json(kind.inner)  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return all(_is_json(field.dtype) for field in kind.fields)  # type: ignore[arg-type]
    return kind in {pl.String, pl.Boolean, pl.Null} or kind.is_integer() or kind.is_float()


def _text(value: Any) -> str:
    return shown(value.decode("utf-8", "surrogateescape")) if isinstance(value, bytes) else str(value)


def _one_by_one(first: int, batch: Any) -> Iterator[ReadRow]:
    """Yield the rows of a batch that holds texts which are no UTF-8; those rows cannot be read."""
    for number in range(batch.num_rows):
        row, problem, line = {}, "", first + number
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[number].as_py()
            except UnicodeDecodeError:
                problem = problem or f"line {line}: column {name!r} holds bytes that are no UTF-8"
                row[name] = _bytes_of(column[number])
        raw = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=_text)
        yield ReadRow(line=line, raw=raw, value=None if problem else json.loads(raw), problem=problem)


def _bytes_of(scalar: Any) -> str:
    try:
        return _text(bytes(scalar.as_buffer()))
    except AttributeError:  # a list or an object, of which one text is broken
        return ""


def _reason(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:_REASON_CHARACTERS]
