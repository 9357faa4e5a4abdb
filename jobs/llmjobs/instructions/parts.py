"""Examined rows on disk: a folder that takes chunks of rows one after another, and gives them back sorted.

A part holds, for each chunk:

* ``<n>.rows.arrow``: the rows that no rule refused, sorted by ``row_id``, in one record batch a bucket where there are
  many: bucket *b* of all chunks together is a range of ids, so the rows of a whole run can be sorted without ever
  being in memory together
* ``<n>.read.arrow``: every row: file, line, flags
* ``<n>.good.arrow``: of the rows that no rule refused what the steps over the whole run need: keys and figures
* ``<n>.refused.arrow``: of the refused rows the raw text, what was wrong, and ``row_key`` where they could be read
* ``<n>.fixes.arrow``: repaired parts

Arrow files are read without mapping them, so that they do not count as memory of the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from llmjobs.contracts.data_rules import PII_FLAGS, RULES

BUCKETS = 128
"""Ranges of ids. A million rows are 8,000 in each, 16 million 125,000."""

_ROWS_FOR_BUCKETS = 2048
_ROWS_AT_ONCE = 50_000
_ROWS_YIELDED = 20_000

READ_FLAGS = (*RULES, *PII_FLAGS)

ROW_COLUMNS = (
    "row", "row_id", "messages", "tools", "input", "source", "licence", "topic", "label", "language", "characters",
    "tokens", "score", "source_file", "source_line", "group_id",
)  # fmt: skip
"""What is kept of a row that may be published."""

GOOD_COLUMNS = (
    "row", "chunk", "row_key", "said_key", "first_key", "prompt_key", "group_key", "source", "licence", "topic",
    "label", "language", "characters", "answer_characters", "tokens", "score", "mark", "features",
)  # fmt: skip

UNANSWERED = 0
"""As ``mark``: a judge was asked and no answer came. Null: it was not asked, or its answer was no mark."""

REFUSED_COLUMNS = ("row", "raw", "read_problem", "shape_problem", "repeated_keys", "json_problem", "row_key")

_FILES = "files.json"
_OLDEST = pl.CompatLevel.oldest()


@dataclass
class Part:
    """A folder of examined chunks.

    Attributes:
        folder: Where they lie.
        files: Labels of the source files, in reading order; tables name a file by its position here.
        chunks: Chunks written so far.
        rows: Rows written so far: the number of the next one.
    """

    folder: Path
    files: list[str]
    chunks: int = 0
    rows: int = 0

    @classmethod
    def opened(cls, folder: Path) -> Part:
        """Return the part that an earlier run finished with `finish`."""
        stored = json.loads((folder / _FILES).read_text(encoding="utf-8"))
        return cls(folder, stored["files"], stored["chunks"], stored["rows"])

    def finish(self) -> None:
        """Write down what `opened` needs."""
        stored = {"files": self.files, "chunks": self.chunks, "rows": self.rows}
        (self.folder / _FILES).write_text(json.dumps(stored), encoding="utf-8")

    def add(self, read: pl.DataFrame, good: pl.DataFrame, fixes: pl.DataFrame) -> None:
        """Add a chunk.

        Args:
            read: Every row: ``file``, ``source_line``, `READ_FLAGS`, ``quarantined``, `REFUSED_COLUMNS` but ``row``.
            good: The rows that are not quarantined, with ``position`` in the chunk, `ROW_COLUMNS` and `GOOD_COLUMNS`
                but ``row`` and ``chunk``.
            fixes: `tables.FIXES`.
        """
        first = self.rows
        good = good.with_columns(
            row=(pl.col("position") + first).cast(pl.UInt32), chunk=pl.lit(self.chunks, dtype=pl.UInt32)
        )
        numbered = read.with_columns(row=pl.int_range(first, first + read.height, dtype=pl.UInt32))
        self._write("read", numbered.select("file", "source_line", *READ_FLAGS, "quarantined"))
        self._write("good", good.select(GOOD_COLUMNS))
        refused = numbered.filter("quarantined").select(REFUSED_COLUMNS)
        self._write("refused", refused.cast({"row_key": pl.Int128}))
        self._write("fixes", fixes.with_columns(row=(pl.col("row") + first).cast(pl.UInt32)))
        self._write_rows(good.select(ROW_COLUMNS))
        self.chunks += 1
        self.rows += read.height

    def table(self, kind: str, *columns: str) -> pl.DataFrame:
        """Return the table ``read``, ``good``, ``refused`` or ``fixes`` of all chunks, or only some of its columns.

        Raises:
            ValueError: There is no chunk.
        """
        return pl.concat(self.tables(kind, *columns))

    def tables(self, kind: str, *columns: str) -> Iterator[pl.DataFrame]:
        """Yield the same, chunk by chunk."""
        for chunk in range(self.chunks):
            yield self._read(kind, chunk, columns)

    def chunk_rows(self, chunk: int) -> pl.DataFrame:
        """Return a chunk's rows, sorted by ``row_id``."""
        with self._opened_rows(chunk) as file:
            return _frame(file.read_all())

    def in_order(self) -> Iterator[pl.DataFrame]:
        """Yield all rows in the order of ``row_id``, `_ROWS_YIELDED` at a time, as whoever takes them makes copies."""
        if self.rows <= _ROWS_AT_ONCE:
            ordered = pl.concat(self.chunk_rows(chunk) for chunk in range(self.chunks)).sort("row_id")
            yield from _slices(ordered)
            return
        for bucket in range(BUCKETS):
            yield from _slices(self.bucket_rows(bucket))

    def bucket_rows(self, bucket: int) -> pl.DataFrame:
        """Return the rows of all chunks whose ids lie in a bucket, sorted by ``row_id``."""
        found = []
        for chunk in range(self.chunks):
            with self._opened_rows(chunk) as file:
                if file.num_record_batches == BUCKETS:
                    found.append(_frame(pa.Table.from_batches([file.get_batch(bucket)])))
                else:
                    found.append(_frame(file.read_all()).filter(_bucket() == bucket))
        return pl.concat(found).sort("row_id")

    def _write(self, kind: str, table: pl.DataFrame) -> None:
        table.write_ipc(self.folder / f"{self.chunks:06d}.{kind}.arrow", compat_level=_OLDEST)

    def _write_rows(self, rows: pl.DataFrame) -> None:
        rows = rows.sort("row_id")
        table = rows.to_arrow(compat_level=_OLDEST)
        borders = [0, table.num_rows]
        if table.num_rows >= _ROWS_FOR_BUCKETS:
            borders = np.searchsorted(rows.select(_bucket())["bucket"].to_numpy(), np.arange(BUCKETS + 1)).tolist()
        with pa.OSFile(str(self._rows_path(self.chunks)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            # A chunk without a good row is a file without a batch.
            for whole in table.combine_chunks().to_batches():
                for begin, end in pairwise(borders):
                    writer.write_batch(whole.slice(begin, end - begin))

    def _read(self, kind: str, chunk: int, columns: Sequence[str] = ()) -> pl.DataFrame:
        with (self.folder / f"{chunk:06d}.{kind}.arrow").open("rb") as file:
            return pl.read_ipc(file, columns=list(columns) or None)

    def _rows_path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.rows.arrow"

    def _opened_rows(self, chunk: int) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(pa.OSFile(str(self._rows_path(chunk)), "rb"))


def many(parts: Iterable[Part], folder: Path) -> Part:
    """Return one part with the chunks of several, in `folder`, their rows numbered on.

    Their files are written anew, chunk by chunk: every table names rows or files by number.
    """
    whole = Part(folder, [])
    for part in parts:
        for chunk in range(part.chunks):
            _renumbered(part, chunk, whole)
            whole.chunks += 1
        whole.rows += part.rows
        whole.files += part.files
    return whole


def _renumbered(part: Part, chunk: int, whole: Part) -> None:
    rows = pl.col("row") + pl.lit(whole.rows, dtype=pl.UInt32)
    read = part._read("read", chunk)  # noqa: SLF001  the same class
    whole._write("read", read.with_columns(pl.col("file") + len(whole.files)))  # noqa: SLF001
    for kind in ("refused", "fixes"):
        whole._write(kind, part._read(kind, chunk).with_columns(rows))  # noqa: SLF001
    good = part._read("good", chunk).with_columns(rows, chunk=pl.lit(whole.chunks, dtype=pl.UInt32))  # noqa: SLF001
    whole._write("good", good)  # noqa: SLF001
    whole._write_rows(part.chunk_rows(chunk).with_columns(rows))  # noqa: SLF001


def _slices(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield rows in frames; of no rows the empty frame, which has the columns."""
    yield from rows.iter_slices(_ROWS_YIELDED) if rows.height else [rows]


def _bucket() -> pl.Expr:
    """Return the bucket of a row: the first bits of its id."""
    first = pl.col("row_id").bin.slice(0, 1).bin.reinterpret(dtype=pl.UInt8)
    return (first // (256 // BUCKETS)).alias("bucket")


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
