"""How often the vector index finds what an exact scan finds: recall at 10, measured on stored vectors."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
from psycopg import sql

from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation

K = 10

EF_SEARCH = 40
"""pgvector's default, and what a search for ten passages uses."""

_TIE = 1e-6  # distances of float32 vectors that differ by less are equal


@dataclass(frozen=True)
class Recall:
    """What was measured.

    Attributes:
        value: Share of the exact nearest ten that the index found, 0 to 1; a passage just as near as one of them
            counts as found.
        queries: Stored vectors whose neighbours were looked for.
    """

    value: float
    queries: int


def measured_recall(connection: Connection, generation: Generation, queries: int) -> Recall | None:
    """Compare the index with an exact scan for some stored vectors; None where there is no vector.

    The same vectors are taken each time, as long as they are there, so that two nights can be compared.
    """
    sample = _sample(connection, generation, queries)
    if not sample:
        return None
    found = wanted = 0
    for vector in sample:
        exact = _distances(connection, generation, vector, exact=True)
        farthest = exact[-1] + _TIE
        found += sum(distance <= farthest for distance in _distances(connection, generation, vector, exact=False))
        wanted += len(exact)
    return Recall(found / wanted, len(sample))


def _sample(connection: Connection, generation: Generation, queries: int) -> list[str]:
    """Return vectors, as text, next to places that are drawn at random: ids are hashes, so any range is a fair one."""
    chance = np.random.default_rng(generation.generation_id)
    places = [uuid.UUID(bytes=chance.bytes(16)) for _ in range(queries)]
    rows = connection.execute(
        sql.SQL(
            """
            select distinct on (chunk_id) embedding::text from unnest(%s::uuid[]) place cross join lateral (
                select chunk_id, embedding from {} where chunk_id >= place order by chunk_id limit 1
            ) nearest
            """
        ).format(generation.table),
        [places],
    ).fetchall()
    return [row[0] for row in rows]


def _distances(connection: Connection, generation: Generation, vector: str, *, exact: bool) -> list[float]:
    """Return the distances of the nearest ten, the nearest first."""
    query = sql.SQL("select embedding <=> {vector} from {table} order by embedding <=> {vector} limit {k}").format(
        vector=sql.SQL("{}::vector").format(sql.Literal(vector)), table=generation.table, k=sql.Literal(K)
    )
    with connection.transaction():
        connection.execute(
            "select set_config('hnsw.ef_search', %s, true), set_config('enable_indexscan', %s, true)",
            [str(EF_SEARCH), "off" if exact else "on"],
        )
        return [float(row[0]) for row in connection.execute(query).fetchall()]
