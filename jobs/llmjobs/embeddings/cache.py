"""Vectors by the hash of their text: what was once encoded is never encoded again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from llmjobs.contracts.embeddings import EmbedConfig
from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunker import Chunk
from llmjobs.embeddings.model import BrokenOff, Encoder, TextRefused, Vectors

logger = logging.getLogger(__name__)

GROUP = 256
"""Texts that are encoded between two commits: what a kill can cost at most."""

ALL_REFUSED = 32
"""So many texts and none is taken: then the fault is not theirs, whatever the provider says."""


@dataclass
class Encoded:
    """What became of texts that were not in the cache.

    Attributes:
        texts: How many were encoded.
        refused: Hash of a text that the model refused -> why.
    """

    texts: int = 0
    refused: dict[bytes, str] = field(default_factory=dict)


def missing_hashes(connection: Connection, model_id: int, hashes: Iterable[bytes]) -> set[bytes]:
    """Return those of `hashes` for which the model has no vector yet."""
    rows = connection.execute(
        """
        select wanted from unnest(%s::bytea[]) wanted
        where not exists (select from embedding_cache where model_id = %s and text_hash = wanted)
        """,
        [list(set(hashes)), model_id],
        binary=True,
    ).fetchall()
    return {row[0] for row in rows}


def encode_into_cache(
    connection: Connection, model_id: int, config: EmbedConfig | None, chunks: Mapping[bytes, Chunk], encoder: Encoder
) -> Encoded:
    """Encode texts (by their hash; none of them cached) and commit their vectors group by group.

    No transaction is open while the model works. Each group's vectors and the run's count of encoded texts are one
    commit, so the count says what was paid for, kills included.

    Raises:
        JobError: The provider is in trouble; what it gave before is in the cache.
        TextRefused: It refuses everything, so no document is charged with it.
    """
    # The longest first, group by group: texts of like length meet in a batch, and nothing is padded for nothing.
    hashes = sorted(chunks, key=lambda one: chunks[one].tokens, reverse=True)
    total = Encoded()
    for group in _groups(hashes):
        started = time.perf_counter()
        spent = encoder.usage.cost
        reasons, vectors, broken_off = _encoded(encoder, [chunks[one].embedded_text for one in group])
        done = set(broken_off.done) if broken_off else set(range(len(group))) - reasons.keys()
        taken = {one: vectors[at] for at, one in enumerate(group) if at in done}
        tokens = sum(chunks[one].tokens for one in taken)
        _store(connection, model_id, config, taken, tokens=tokens, cost=encoder.usage.cost - spent)
        if broken_off:
            raise broken_off
        total.texts += len(taken)
        total.refused.update((group[at], reason) for at, reason in reasons.items())
        rate = len(group) / max(time.perf_counter() - started, 1e-9)
        logger.info("encoded %d of %d new texts, %.0f a second", total.texts, len(chunks), rate)
    return total


def collect_garbage(connection: Connection, index_id: int, days: int) -> int:
    """Delete vectors that no chunk has used for `days`; return how many."""
    cursor = connection.execute(
        """
        delete from embedding_cache c
        where used_on < current_date - %s::int
          and model_id in (select model_id from generation where index_id = %s)
          and not exists (select from chunk where chunk.text_hash = c.text_hash)
        """,
        [days, index_id],
    )
    return cursor.rowcount


def note_last_use(connection: Connection, model_id: int, hashes: list[bytes]) -> None:
    """Keep the vectors of texts that leave an index for as long as new ones: a revert costs nothing."""
    connection.execute(
        "update embedding_cache set used_on = current_date"
        " where model_id = %s and text_hash = any(%s) and used_on < current_date",
        [model_id, hashes],
    )


def _encoded(encoder: Encoder, texts: list[str]) -> tuple[dict[int, str], Vectors, BrokenOff | None]:
    """Return reasons by position of what was refused, all vectors, (texts, dimensions), and what broke it off."""
    try:
        return {}, encoder.encode(texts), None
    except TextRefused as error:
        if len(error.reasons) == len(texts) >= ALL_REFUSED:
            raise
        return error.reasons, error.vectors, None
    except BrokenOff as error:
        return {}, error.vectors, error


def _store(
    connection: Connection,
    model_id: int,
    config: EmbedConfig | None,
    vectors: Mapping[bytes, Vectors],
    *,
    tokens: int,
    cost: float,
) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        # One staging table a session, not one a group: each new table is dead weight in the catalogue.
        cursor.execute("create temp table if not exists new_vector (text_hash bytea, embedding vector)")
        cursor.execute("truncate new_vector")
        with cursor.copy("copy new_vector from stdin with (format binary)") as copy:
            copy.set_types(["bytea", "vector"])
            for row in vectors.items():
                copy.write_row(row)
        # Another shard may have encoded the same text meanwhile. In order, so that two such never deadlock.
        cursor.execute(
            """
            insert into embedding_cache (model_id, text_hash, embedding)
            select %s, text_hash, embedding from new_vector order by text_hash
            on conflict do nothing
            """,
            [model_id],
        )
        if config is None:
            return
        cursor.execute(
            "update refresh_run set texts_embedded = texts_embedded + %s, tokens_embedded = tokens_embedded + %s"
            " where run_id = %s",
            [len(vectors), tokens, config.run_id],
        )
        if cost:
            cursor.execute(
                "insert into refresh_cost as c values (%s, %s, %s)"
                " on conflict (run_id, shard) do update set cost = c.cost + excluded.cost",
                [config.run_id, config.shard, cost],
            )


def _groups(hashes: list[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(hashes)
    while group := list(islice(remaining, GROUP)):
        yield group
