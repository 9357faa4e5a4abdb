"""What must be true of the tables of a generation, as a Great Expectations suite.

PostgreSQL counts what is wrong, for vectors need not leave it; the suite judges the counts and its record is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
from psycopg import sql

from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation
from llmjobs.validation import great_expectations, validated

NORM_TOLERANCE = 0.01
"""Of a unit vector; 16-bit storage is off by a thousandth."""

CHECKS = {
    "vectors_without_chunk": "vectors whose chunk is gone",
    "chunks_without_vector": "chunks that no vector search can find",
    "chunks_without_document": "chunks of a document that the index does not hold",
    "empty_chunks": "chunks without text",
    "repeated_places": "chunks that stand at the same place of a document",
    "gaps": "documents whose chunks are not numbered from 0 without a gap",
    "wrong_dimensions": "vectors of another length than the model's",
    "wrong_norms": "vectors that are no unit vectors, or hold NaN",
    "wrong_tenants": "chunks or vectors of another tenant than their document's",
}
"""Name of a count -> what it counts."""


@dataclass(frozen=True)
class TableVerdict:
    """What the suite says.

    Attributes:
        passed: Nothing is wrong.
        broken: One sentence for each broken expectation.
        record: Great Expectations' result as JSON, without run ids and times.
    """

    passed: bool
    broken: list[str]
    record: dict[str, Any]


def check_tables(connection: Connection, generation: Generation) -> TableVerdict:
    """Count what is wrong in a generation and let the suite judge it. Reads all its chunks once."""
    counts = wrong_counts(connection, generation)
    record = _judged(counts, f"generation_{generation.generation_id}")
    broken = [f"{count} {CHECKS[name]}" for name, count in counts.items() if count]
    return TableVerdict(bool(record["success"]), broken, record)


def wrong_counts(connection: Connection, generation: Generation) -> dict[str, int]:
    """Return for each of `CHECKS` how many there are."""
    statement = sql.SQL(_COUNTS).format(
        vectors=generation.table,
        id=sql.Literal(generation.generation_id),
        dimensions=sql.Literal(generation.dimensions),
        tolerance=sql.Literal(NORM_TOLERANCE),
    )
    row = connection.execute(statement).fetchone()
    assert row is not None
    return {name: int(count) for name, count in zip(CHECKS, row, strict=True)}


# A NaN is above any number for PostgreSQL, so `not between` finds it.
_COUNTS = """
    with held as (select * from chunk where generation_id = {id})
    select
        (select count(*) from {vectors} v where not exists (select from held h where h.chunk_id = v.chunk_id)),
        (select count(*) from held h where not exists (select from {vectors} v where v.chunk_id = h.chunk_id)),
        (select count(*) from held h where not exists (
            select from document_state s where s.generation_id = {id} and s.document_id = h.document_id)),
        (select count(*) from held where content = ''),
        (select count(*) - count(distinct (document_id, ordinal)) from held),
        (select count(*) from (
            select from held group by document_id having max(ordinal) <> count(*) - 1 or min(ordinal) <> 0) broken),
        (select count(*) from {vectors} where vector_dims(embedding) <> {dimensions}),
        (select count(*) from {vectors}
            where not vector_norm(embedding::vector) between 1 - {tolerance} and 1 + {tolerance}),
        (select count(*) from held h join document d using (document_id) join {vectors} v using (chunk_id)
            where h.tenant <> d.tenant or v.tenant <> d.tenant)
"""


def _judged(counts: dict[str, int], name: str) -> dict[str, Any]:
    in_set = great_expectations().expectations.ExpectColumnValuesToBeInSet
    expected = [
        in_set(column=check, value_set=[0], severity="critical", meta={"counts": what})
        for check, what in CHECKS.items()
    ]
    found = validated(name, pl.DataFrame([counts]), expected)
    outcomes = [
        {"check": one["expectation_config"]["kwargs"]["column"], "success": one["success"], "result": one["result"]}
        for one in found["results"]
    ]
    version = found["meta"]["great_expectations_version"]
    return {"success": found["success"], "results": outcomes, "great_expectations_version": version}
