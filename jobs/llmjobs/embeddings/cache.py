"""Vectors by the hash of their text: what was once encoded is never encoded again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice

from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunker import Chunk
from llmjobs.embeddings.model import Encoder, Vectors

logger = logging.getLogger(__name__)

GROUP = 256
"""Texts that are encoded between two commits: what a kill can cost at most."""


def missing_hashes(connection: Connection, model_id: int, hashes: Iterable[bytes]) -> set[bytes]:
    """Return those of `hashes` for which the model has no vector yet."""
    rows = connection.execute(
        """
        select wanted from unnest(%s::bytea[]) wanted
        where not exists (select from embedding_cache where model_id = %s and text_hash = wanted)
        """,
        [list(set(hashes)), model_id],
    ).fetchall()
    return {bytes(row[0]) for row in rows}


def encode_into_cache(connection: Connection, model_id: int, run_id: int, chunks: list[Chunk], encoder: Encoder) -> int:
    """Encode the texts of `chunks` (distinct, not cached) and commit their vectors group by group.

    No transaction is open while the model works. Each group's vectors and the run's count of encoded texts are one
    commit, so the count says what was paid for, kills included.

    Returns:
        How many texts were encoded.
    """
    # The longest first, group by group: texts of like length meet in a batch, and nothing is padded for nothing.
    chunks = sorted(chunks, key=lambda chunk: chunk.tokens, reverse=True)
    done = 0
    for group in _groups(chunks):
        started = time.perf_counter()
        vectors = encoder.encode([chunk.embedded_text for chunk in group])
        _store(connection, model_id, run_id, group, vectors)
        done += len(group)
        rate = len(group) / max(time.perf_counter() - started, 1e-9)
        logger.info("encoded %d of %d new texts, %.0f a second", done, len(chunks), rate)
    return done


def collect_garbage(connection: Connection, index_id: int, days: int) -> int:
    """Delete vectors that are older than `days` and that no chunk uses; return how many."""
    cursor = connection.execute(
        """
        delete from embedding_cache c
        where created_on < current_date - %s::int
          and model_id in (select model_id from generation where index_id = %s)
          and not exists (select from chunk where chunk.text_hash = c.text_hash)
        """,
        [days, index_id],
    )
    return cursor.rowcount


def _store(connection: Connection, model_id: int, run_id: int, chunks: list[Chunk], vectors: Vectors) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        # One staging table a session, not one a group: each new table is dead weight in the catalogue.
        cursor.execute("create temp table if not exists new_vector (text_hash bytea, embedding vector)")
        cursor.execute("truncate new_vector")
        with cursor.copy("copy new_vector from stdin with (format binary)") as copy:
            copy.set_types(["bytea", "vector"])
            for chunk, vector in zip(chunks, vectors, strict=True):
                copy.write_row((chunk.text_hash, vector))
        # Another shard may have encoded the same text meanwhile. In order, so that two such never deadlock.
        cursor.execute(
            """
            insert into embedding_cache (model_id, text_hash, embedding)
            select %s, text_hash, embedding from new_vector order by text_hash
            on conflict do nothing
            """,
            [model_id],
        )
        cursor.execute(
            "update refresh_run set texts_embedded = texts_embedded + %s where run_id = %s", [len(chunks), run_id]
        )


def _groups(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    remaining = iter(chunks)
    while group := list(islice(remaining, GROUP)):
        yield group
