"""Dataset versions as they lie in the lake: written in the order of their ids, and read back as tables of keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmjobs.contracts.base import digest
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import tables
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.identity import key_of
from llmjobs.lake import Lake

SCHEMA = 2
"""Raise it when the same rows would be written otherwise than before."""

COLUMNS = (
    "row_id", "group_id", "messages", "tools", "input", "source", "licence", "topic", "label", "language", "characters",
    "tokens", "score", "rank", "source_file", "source_line",
)  # fmt: skip
"""Of a published row; the design of each is in docs/guide/dataset-versions.md."""

_HASHED = ("row_id", "group_id", "source", "licence", "topic", "label", "rank")
"""What a version's id depends on. The other columns follow from these rows, or say where a row was found."""

_ROWS_AT_ONCE = 20_000
_REPEATING = ["source", "licence", "topic", "label", "language", "source_file"]
_OLDEST = pl.CompatLevel.oldest()
_ID_DIGITS = 32


class SideWriter:
    """Writes one side as Parquet and hashes what its version's id depends on.

    Args:
        path: The file; it holds no row when none is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows with `COLUMNS`, behind those that are there in the order of ``row_id`` (hexadecimal)."""
        self.rows += rows.height
        rows = rows.select(COLUMNS)
        self._hash.update(rows.select(lines=_line(rows).str.join("")).item().encode())
        # A filtered frame of polars keeps the texts of all rows that it was filtered from; an Arrow table its own only.
        self._waiting.append(rows.to_arrow(compat_level=_OLDEST))
        if sum(table.num_rows for table in self._waiting) >= _ROWS_AT_ONCE:
            self._flush()

    def close(self) -> str:
        """Finish the file and return the digest of its rows."""
        if not self._waiting and self._writer is None:
            self.add(empty())
        if self._waiting:
            self._flush()
        assert self._writer is not None
        self._writer.close()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._writer is None:
            self._writer = parquet_writer(self._path, table.schema)
        self._writer.write_table(table)


def _line(rows: pl.DataFrame) -> pl.Expr:
    """Return what of a row is hashed: its ids, and name and value of every other column that it fills."""
    parts = [pl.col("row_id"), pl.lit("\x1f"), pl.col("group_id")]
    for name in _HASHED[2:]:
        if rows[name].null_count() < rows.height:
            value = pl.concat_str(pl.lit(f"\x1f{name}="), _escaped(pl.col(name).cast(pl.String)))
            parts.append(value.fill_null(""))
    return pl.concat_str(*parts, pl.lit("\x1e"))


def _escaped(text: pl.Expr) -> pl.Expr:
    r"""Return a text in which neither ``\x1e`` nor ``\x1f`` can imitate the end of a row or another column."""
    return text.str.replace_many(["\x1a", "\x1e", "\x1f"], ["\x1a0", "\x1a1", "\x1a2"])


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of compressed Parquet; the same tables give the same bytes."""
    repeating = [name for name in _REPEATING if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeating)


def empty() -> pl.DataFrame:
    """Return a side without rows."""
    numbers = {
        "characters": pl.UInt32,
        "tokens": pl.UInt32,
        "score": pl.Float32,
        "rank": pl.UInt32,
        "source_line": pl.UInt32,
    }
    return pl.DataFrame(
        schema={
            name: numbers.get(name, pl.List(tables.MESSAGE) if name == "messages" else pl.String) for name in COLUMNS
        }
    )


def version_of(digests: dict[str, str]) -> str:
    """Return the id of a version from the digests of its sides."""
    return digest(["dataset", SCHEMA, digests])[:_ID_DIGITS]


@dataclass(frozen=True)
class Published:
    """A dataset version in the lake.

    Attributes:
        folder: A local folder with its files.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def current(cls, lake: Lake, name: str, scratch: Path) -> Published | None:
        """Return the version that ``current`` points at, None where nothing was published yet."""
        pointer = lake.pointer("datasets", name, "current")
        manifest = pointer and lake.manifest("datasets", name, pointer.version)
        if not manifest:
            return None
        return cls(lake.fetch("datasets", name, manifest.version, scratch / manifest.version), manifest)

    def keys(self) -> pl.DataFrame:
        """Return one line a row: what `diff.diff` compares, and ``side``.

        A version of an older release may lack some of these columns.
        """
        wanted = ("source", "topic", "label", "language", "characters")
        frames = []
        for side, rows in self._rows(("row_id", "group_id", *wanted)):
            there = [name for name in wanted if name in rows.columns]
            texts = [pl.col(name).cast(pl.Categorical()) for name in there if name != "characters"]
            numbers = [pl.col("characters").cast(pl.UInt32)] if "characters" in there else []
            keys = [key_of(rows["row_id"]).alias("row_key"), key_of(rows["group_id"]).alias("group_key")]
            frames.append(rows.select(*keys, *texts, *numbers, side=pl.lit(side, dtype=pl.Enum(SIDES))))
        return pl.concat(frames, how="diagonal")

    def rows(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield ``(side, rows)`` with all columns that the version has, some ten thousand rows at a time."""
        return self._rows(COLUMNS)

    def messages(self, keys: Iterable[int]) -> dict[int, list[dict[str, str]]]:
        """Return the messages of the rows with these ``row_key``s."""
        wanted = pl.Series(list(keys), dtype=pl.Int128)
        found: dict[int, list[dict[str, str]]] = {}
        for _, rows in self._rows(("row_id", "messages")):
            named = rows.with_columns(key_of(rows["row_id"]).alias("key")).filter(pl.col("key").is_in(wanted.implode()))
            found |= dict(named.select("key", "messages").iter_rows())
        return found

    def _rows(self, columns: Iterable[str]) -> Iterator[tuple[str, pl.DataFrame]]:
        for side in SIDES:
            with pq.ParquetFile(self.folder / f"{side}.parquet") as file:
                there = [name for name in columns if name in file.schema_arrow.names]
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=there):
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)
                    yield side, frame
