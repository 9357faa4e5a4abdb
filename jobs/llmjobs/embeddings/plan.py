"""The plan of a refresh: what differs between the documents and the index, by content hash.

Reads every document, writes nothing but one ``refresh_run`` row and one ``refresh_plan`` row for each document that
differs. Times of change are never compared: only hashes decide.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections import Counter
from dataclasses import dataclass

from llmjobs.contracts.embeddings import Operation, PlanResult, RefreshConfig, ShardWork
from llmjobs.contracts.environment import Identity
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.chunker import Chunker
from llmjobs.embeddings.generations import Generation, active_generation, ensure_generation, lock_index
from llmjobs.embeddings.model import Model, SentenceModel
from llmjobs.embeddings.sources import SOURCE, FolderSource
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)

ABANDONED = "14 days"
"""A run that was not finished by then never will be: its plan goes."""


@dataclass(frozen=True)
class Difference:
    """One document that the index does not hold as the source has it."""

    key: str
    operation: Operation
    content_hash: bytes | None
    previous_hash: bytes | None


def run(config: RefreshConfig) -> PlanResult:
    """Plan the refresh of the index in the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        return plan(connection, config, Lake.from_environment(), SentenceModel(config.embedder))


def plan(connection: Connection, config: RefreshConfig, lake: Lake, model: Model) -> PlanResult:
    """Compare the source with the index and write down what differs.

    Raises:
        BadData: The source holds no document, or too many documents vanished at once.
    """
    source = FolderSource(config.inputs[0], lake)
    listing = {document.key: document.content_hash for document in source.list_documents()}
    chunker = chunker_of(config, model)
    with connection.transaction():
        lock_index(connection, config.name)
        generation = ensure_generation(connection, config.name, model, chunker)
        held = _held(connection, generation)
        differences = compare(listing, held)
        answering = active_generation(connection, config.name) if generation.state == "building" else None
        _guard(config, source.url, listing, _held(connection, answering) if answering else held)
        result = _write(connection, config, generation, listing, differences)
    logger.info(
        "%s: %d documents: %d added, %d changed, %d deleted, %d unchanged; %d shards",
        config.name, result.documents, result.documents_added, result.documents_changed, result.documents_deleted,
        result.documents_unchanged, len(result.shards),
    )  # fmt: skip
    return result


def chunker_of(config: RefreshConfig, model: Model) -> Chunker:
    """Return the chunker that a config asks for, with the model's tokenizer."""
    return Chunker(
        model.tokenizer,
        max_tokens=min(config.chunks.max_tokens, model.max_tokens),
        prefix=config.embedder.document_prefix,
    )


def compare(listing: dict[str, bytes], held: dict[str, bytes]) -> list[Difference]:
    """Return what must be done to `held` to make it `listing`, sorted by key; both map key to hash."""
    differences: list[Difference] = []
    for key in sorted(listing.keys() | held.keys()):
        new, old = listing.get(key), held.get(key)
        if new != old:
            operation: Operation = "delete" if new is None else "add" if old is None else "change"
            differences.append(Difference(key, operation, new, old))
    return differences


def shard_of(key: str, shards: int) -> int:
    """Return the shard of a document: a hash of its key, so a repeated plan deals the same way."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % shards


def _held(connection: Connection, generation: Generation) -> dict[str, bytes]:
    rows = connection.execute(
        """
        select key, content_hash from document_state join document using (document_id)
        where generation_id = %s and source = %s
        """,
        [generation.generation_id, SOURCE],
    ).fetchall()
    return dict(rows)


def _guard(config: RefreshConfig, url: str, listing: dict[str, bytes], held: dict[str, bytes]) -> None:
    """Refuse what looks like a missing mount rather than like deleted documents."""
    if not listing and not held:
        raise BadData(
            f"{config.name}: source.url {url} holds no document that can be read: "
            "put documents there, or correct source"
        )
    gone = len(held.keys() - listing.keys())
    if gone > config.max_delete_share * len(held) and not config.allow_mass_delete:
        raise BadData(
            f"{config.name}: {gone} of {len(held)} indexed documents are no longer in {url}, more than "
            f"max_delete_share {config.max_delete_share:g} allows, so nothing was deleted: "
            "check that the folder is mounted, or run once with allow_mass_delete"
        )


def _write(
    connection: Connection,
    config: RefreshConfig,
    generation: Generation,
    listing: dict[str, bytes],
    differences: list[Difference],
) -> PlanResult:
    counts = Counter(difference.operation for difference in differences)
    unchanged = len(listing) - counts["add"] - counts["change"]
    run_id = _open_run(connection, generation, unchanged)
    shards = min(config.shards.most, math.ceil(len(differences) / config.shards.documents_per_shard)) or 1
    work = Counter(shard_of(difference.key, shards) for difference in differences)
    if differences:
        _write_plan(connection, run_id, generation.generation_id, shards, differences)
    return PlanResult(
        name=config.name,
        run_id=run_id,
        generation_id=generation.generation_id,
        rebuilding=generation.state == "building",
        documents=len(listing),
        documents_added=counts["add"],
        documents_changed=counts["change"],
        documents_deleted=counts["delete"],
        documents_unchanged=unchanged,
        shards=[ShardWork(shard=shard, documents=work[shard]) for shard in sorted(work)],
    )


def _open_run(connection: Connection, generation: Generation, unchanged: int) -> int:
    identity = Identity.from_environment()
    connection.execute(
        """
        delete from refresh_plan p using refresh_run r
        where r.run_id = p.run_id and r.index_id = %s and r.state = 'planned' and r.started_at < now() - %s::interval
        """,
        [generation.index_id, ABANDONED],
    )
    row = connection.execute(
        """
        insert into refresh_run (index_id, generation_id, dag_id, dag_run_id, code_version, documents_unchanged)
        values (%s, %s, %s, %s, %s, %s) returning run_id
        """,
        [
            generation.index_id,
            generation.generation_id,
            identity.dag_id,
            identity.run_id,
            identity.code_version,
            unchanged,
        ],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _write_plan(
    connection: Connection, run_id: int, generation_id: int, shards: int, differences: list[Difference]
) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy refresh_plan (run_id, generation_id, shard, source, key, operation, content_hash, previous_hash)"
            " from stdin with (format binary)"
        ) as copy,
    ):
        copy.set_types(["int8", "int4", "int4", "text", "text", "text", "bytea", "bytea"])
        for one in differences:
            shard = shard_of(one.key, shards)
            copy.write_row(
                (run_id, generation_id, shard, SOURCE, one.key, one.operation, one.content_hash, one.previous_hash)
            )


if __name__ == "__main__":
    sys.exit(main(RefreshConfig, run))
