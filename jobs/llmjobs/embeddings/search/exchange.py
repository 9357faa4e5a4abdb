"""An index as a file and back: documents, chunks and vectors, as JSON lines or Parquet.

Both forms hold one row a chunk, with its document's fields beside it (a document without chunks has one row, without
an ordinal), and what made the vectors: the model's settings and fingerprint, and the chunker's. JSON lines hold that on
the first line, Parquet in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation, activate, active_generation, ensure_generation, lock_index
from llmjobs.embeddings.search.statistics import refresh_statistics
from llmjobs.embeddings.vector_index import look_after

FORMAT = "nightshift-index 1"

BATCH_ROWS = 2_000

Row = dict[str, Any]
"""One chunk: see `FIELDS`; ``embedding`` is (dimensions)."""

FIELDS = (
    "source", "key", "tenant", "language", "title", "metadata", "updated_at", "content_hash", "ordinal", "start_char",
    "end_char", "heading", "content", "text_hash", "tokens", "embedding",
)  # fmt: skip


@dataclass(frozen=True)
class Maker:
    """What made the vectors (or the chunks) of a file: as much of a model and a chunker as a generation remembers."""

    fingerprint: str
    settings: dict[str, Any]
    dimensions: int = 0


@dataclass(frozen=True)
class Header:
    """What a file says of its rows."""

    index: str
    model: Maker
    chunker: Maker

    def as_json(self) -> str:
        """Return the header as one line."""
        return json.dumps(
            {"format": FORMAT, "index": self.index, "model": vars(self.model), "chunker": vars(self.chunker)}
        )

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Header:
        """Read `as_json`.

        Raises:
            BadData: It is no such line.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise BadData(f"{where}: its format is {values['format']!r}, this code reads {FORMAT!r}")
            return cls(values["index"], Maker(**values["model"]), Maker(**values["chunker"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(f"{where} is no exported index: it does not begin with {FORMAT!r}") from error


# --- out


def export_index(connection: Connection, index: str, path: Path) -> int:
    """Write the active generation of an index to a ``.jsonl`` or ``.parquet`` file, and return how many rows.

    The file appears whole or not at all. Every tenant's documents are in it: it is for the owner of the index.

    Raises:
        BadData: The index is empty.
        BadConfig: The file's name ends otherwise.
    """
    generation = active_generation(connection, index)
    if generation is None:
        raise BadData(f"The index {index!r} is empty: there is nothing to export")
    header = _header(connection, index, generation)
    partial = path.with_name(path.name + ".partial")
    try:
        with _writer(path.suffix, partial, header) as write, connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            count = 0
            for rows in _batches(_rows(connection, generation)):
                write(rows)
                count += len(rows)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _header(connection: Connection, index: str, generation: Generation) -> Header:
    row = connection.execute(
        "select m.fingerprint, m.settings, m.dimensions, g.chunker_fingerprint, g.chunker"
        " from generation g join embedding_model m using (model_id) where generation_id = %s",
        [generation.generation_id],
    ).fetchone()
    assert row is not None
    return Header(index, Maker(*row[:3]), Maker(*row[3:]))


def _rows(connection: Connection, generation: Generation) -> Iterator[Row]:
    statement = sql.SQL(
        """
        select d.source, d.key, d.tenant, d.language, d.title, d.metadata, d.updated_at, encode(s.content_hash, 'hex'),
            c.ordinal, c.start_char, c.end_char, c.heading, c.content, encode(c.text_hash, 'hex'), c.tokens, v.embedding
        from document_state s join document d using (document_id)
        left join chunk c on c.generation_id = s.generation_id and c.document_id = s.document_id
        left join {} v on v.chunk_id = c.chunk_id
        where s.generation_id = %s
        order by d.source, d.key, c.ordinal
        """
    ).format(generation.table)
    with connection.cursor(name="exported_rows") as cursor:
        cursor.itersize = BATCH_ROWS
        for values in cursor.execute(statement, [generation.generation_id]):
            row = dict(zip(FIELDS, values, strict=True))
            row["updated_at"] = row["updated_at"].isoformat() if row["updated_at"] else None
            row["embedding"] = None if row["embedding"] is None else _floats(row["embedding"])
            yield row


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _floats(vector: Any) -> list[float]:
    """Return a vector or half vector as numbers; 9 digits tell every 32-bit number apart."""
    return [float(f"{number:.9g}") for number in (vector if isinstance(vector, np.ndarray) else vector.to_numpy())]


@contextmanager
def _writer(suffix: str, path: Path, header: Header) -> Iterator[Any]:
    if suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.write(header.as_json() + "\n")
            yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        schema = _schema().with_metadata({"nightshift": header.as_json()})
        with parquet.ParquetWriter(path, schema) as file:
            yield lambda rows: file.write_table(pa.Table.from_pylist([_flat(row) for row in rows], schema))
    else:
        raise BadConfig(f"{path.name.removesuffix('.partial')}: the file's name must end in .jsonl or .parquet")


def _schema() -> Any:
    import pyarrow as pa

    numbers = ("ordinal", "start_char", "end_char", "tokens")
    kinds = {"embedding": pa.list_(pa.float32())} | dict.fromkeys(numbers, pa.int32())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])


def _flat(row: Row) -> Row:
    """Return a row for Parquet, where metadata of different documents have no common type."""
    return {**row, "metadata": json.dumps(row["metadata"], ensure_ascii=False)}


# --- in


def import_index(connection: Connection, path: Path, name: str = "") -> Generation:
    """Read an exported file into an index that does not exist yet, and let it answer.

    All or nothing; the vector index is built afterwards, while the new index answers already.

    Args:
        connection: In autocommit mode, of the tables' owner.
        path: A ``.jsonl`` or ``.parquet`` file of `export_index`, or of anyone who writes the same.
        name: Of the index; by default the one in the file.

    Raises:
        BadData: The file is none, a row of it is wrong, or the index exists.
    """
    header, rows = read_file(path)
    found = load(connection, Header(name or header.index, header.model, header.chunker), rows, str(path))
    look_after(connection, found, dict.fromkeys(("chunks_added", "chunks_changed", "chunks_deleted"), 0))
    return found


def read_file(path: Path) -> tuple[Header, Iterator[Row]]:
    """Return what a file says of its rows, and the rows.

    Raises:
        BadData: There is no such file, or it is no exported index.
        BadConfig: Its name ends otherwise.
    """
    if not path.is_file():
        raise BadData(f"{path}: there is no such file")
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            return Header.from_json(file.readline(), str(path)), _lines(path)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        try:
            found = parquet.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise BadData(f"{path} is no Parquet file: {error}") from error
        metadata = (found.schema_arrow.metadata or {}).get(b"nightshift", b"")
        return Header.from_json(metadata, str(path)), _records(found)
    raise BadConfig(f"{path}: the file's name must end in .jsonl or .parquet")


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(islice(file, 1, None), 2):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise BadData(f"{path}: line {number} is no JSON: {error}") from error


def _records(file: Any) -> Iterator[Row]:
    for batch in file.iter_batches(BATCH_ROWS):
        for row in batch.to_pylist():
            yield {**row, "metadata": json.loads(row["metadata"])}


def load(connection: Connection, header: Header, rows: Iterable[Row], where: str) -> Generation:
    """Put rows into a new index and let it answer; one transaction.

    Raises:
        BadData: A row is wrong, or the index exists.
    """
    with connection.transaction():
        lock_index(connection, header.index)
        if active_generation(connection, header.index):
            raise BadData(f"The index {header.index!r} is there already: import into another name (--as)")
        generation: Generation = ensure_generation(connection, header.index, header.model, header.chunker)  # type: ignore[arg-type]
        _stage(connection, header, rows, where)
        _settle(connection, generation)
        activate(connection, generation)
        refresh_statistics(connection, generation.generation_id)
    return generation


def _stage(connection: Connection, header: Header, rows: Iterable[Row], where: str) -> None:
    connection.execute(
        """
        create temp table arriving (
            source text, key text, tenant text, language text, title text, metadata jsonb, updated_at timestamptz,
            content_hash bytea, ordinal int4, start_char int4, end_char int4, heading text, content text,
            text_hash bytea, tokens int4, embedding vector
        ) on commit drop
        """
    )
    columns = sql.SQL(", ").join(map(sql.Identifier, FIELDS))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("copy arriving ({}) from stdin").format(columns)) as copy,
    ):
        for number, row in enumerate(rows, 1):
            copy.write_row(_values(row, header.model.dimensions, f"{where}: row {number}"))
    # A column of a temporary table has no statistics before it is asked for.
    connection.execute("analyze arriving")


def _values(row: Row, dimensions: int, where: str) -> list[Any]:
    """Return a row in the order of `FIELDS`, looked at."""
    try:
        values = {name: row[name] for name in FIELDS}
        if values["ordinal"] is not None:
            values["text_hash"] = _sha256(values["text_hash"])
            values["embedding"] = _vector(values["embedding"], dimensions)
        values["content_hash"] = _sha256(values["content_hash"])
        values["metadata"] = Jsonb(dict(values["metadata"]))
    except KeyError as error:
        raise BadData(f"{where} has no field {error}") from error
    except (TypeError, ValueError) as error:
        raise BadData(f"{where} ({row.get('key')}): {error}") from error
    return [values[name] for name in FIELDS]


def _sha256(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != 32:
        raise ValueError(f"a SHA-256 has 64 hexadecimal digits, got {text!r}")
    return found


def _vector(numbers: Any, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.asarray(numbers, dtype=np.float32)
    if vector.shape != (dimensions,) or not np.isfinite(vector).all():
        raise ValueError(f"embedding: {dimensions} finite numbers are needed, got {vector.shape}")
    return vector


def _settle(connection: Connection, generation: Generation) -> None:
    """Move what arrived into the tables of a generation that holds nothing yet."""
    ids = {"generation_id": generation.generation_id, "index_id": generation.index_id, "model_id": generation.model_id}
    for statement in _SETTLE:
        connection.execute(sql.SQL(statement).format(vectors=generation.table), ids)


# The id of a chunk as `llmjobs.embeddings.publish.chunk_ids` has it, so that a refresh of the index knows it again.
_SETTLE = (
    """
    insert into document (index_id, source, key, container, tenant, language, title, metadata, updated_at)
    select distinct on (source, key) %(index_id)s, source, key, key, tenant, language, title, metadata, updated_at
    from arriving on conflict do nothing
    """,
    """
    insert into document_state (generation_id, document_id, content_hash)
    select distinct on (document_id) %(generation_id)s, document_id, content_hash
    from arriving join document d using (source, key) where index_id = %(index_id)s
    """,
    """
    insert into chunk (chunk_id, generation_id, document_id, ordinal, start_char, end_char, heading, content, text_hash,
        tokens, tenant, language)
    select encode(substring(sha256(
            convert_to(%(generation_id)s::text, 'UTF8') || '\\x00' || convert_to(document_id::text, 'UTF8') || '\\x00'
            || convert_to(a.heading, 'UTF8') || '\\x00' || convert_to(content, 'UTF8') || '\\x00'
            || convert_to((row_number() over (partition by document_id, a.heading, content order by ordinal) - 1)::text,
                          'UTF8')), 1, 16), 'hex')::uuid,
        %(generation_id)s, document_id, ordinal, start_char, end_char, a.heading, content, text_hash, tokens, d.tenant,
        d.language
    from arriving a join document d using (source, key) where index_id = %(index_id)s and ordinal is not null
    """,
    """
    insert into embedding_cache (model_id, text_hash, embedding)
    select distinct on (text_hash) %(model_id)s, text_hash, embedding from arriving where ordinal is not null
    on conflict do nothing
    """,
    """
    insert into {vectors} (chunk_id, document_id, tenant, embedding)
    select c.chunk_id, c.document_id, c.tenant, a.embedding
    from arriving a join document d using (source, key)
    join chunk c on c.generation_id = %(generation_id)s and c.document_id = d.document_id and c.ordinal = a.ordinal
    where d.index_id = %(index_id)s
    """,
)
