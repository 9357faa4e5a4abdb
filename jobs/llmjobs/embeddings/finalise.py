"""The end of a refresh: the vector index, the swap to a new generation, and the figures."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, Literal, cast

from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.contracts.embeddings import FinaliseConfig, RefreshResult, Refused
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.cache import collect_garbage
from llmjobs.embeddings.generations import (
    Generation,
    activate,
    active_generation,
    drop_retired,
    generation,
    index_version,
    lock_index,
)
from llmjobs.results import main

logger = logging.getLogger(__name__)

REBUILD_INSERTED_SHARE = 0.20
REBUILD_DELETED_SHARE = 0.03
"""Beyond these shares of the vectors a rebuild is cheaper than what inserts and VACUUM cost in an HNSW index.

Measured with pgvector 0.8.5, 20,000 vectors of 384 dimensions: build 0.24 ms a vector, insert 1.1, vacuum of one
deleted vector 7 to 12.
"""

REFUSED_SHOWN = 20

_LOCK_CLASS = 0x484E5357  # "HNSW"

_MIB = 2**20
_LEAST_BUILD_MIB, _MOST_BUILD_MIB = 64, 1024

VectorIndex = Literal["none", "kept", "built", "rebuilt"]


@dataclass(frozen=True)
class _Run:
    run_id: int
    generation_id: int
    state: str
    documents_unchanged: int
    texts_embedded: int
    result: dict[str, Any] | None


def run(config: FinaliseConfig) -> RefreshResult:
    """Finish a refresh in the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        return finalise(connection, config)


def finalise(connection: Connection, config: FinaliseConfig) -> RefreshResult:
    """Close a run whose shards are done; closing it again gives the same result.

    Raises:
        BadConfig: There is no such run.
        JobError: Documents of the plan are still open: their shards must run first.
    """
    this, target = _read(connection, config)
    if this.result is not None:
        return RefreshResult.model_validate(this.result)
    counts = _counts(connection, this)
    if counts["open"]:
        raise JobError(
            f"{config.name}: {counts['open']} documents of run {this.run_id} are still open: clear the failed embed "
            "tasks, which go on where they were"
        )
    changed_vectors = counts["chunks_added"] + counts["chunks_changed"] + counts["chunks_deleted"]
    must_look = bool(changed_vectors) or target.state == "building" or not target.vectors_at_build
    vector_index = _keep_vector_index_alone(connection, target, counts) if must_look else "kept"
    with connection.transaction():
        lock_index(connection, config.name)
        result = _close(connection, config, this, counts, vector_index)
    if changed_vectors:
        removed = collect_garbage(connection, target.index_id, config.cache_days)
        logger.info("%d vectors left the cache: unused for %d days", removed, config.cache_days)
    logger.info("%s", result.model_dump_json())
    return result


def _read(connection: Connection, config: FinaliseConfig) -> tuple[_Run, Generation]:
    row = connection.execute(
        """
        select run_id, generation_id, state, documents_unchanged, texts_embedded, result
        from refresh_run join search_index using (index_id) where run_id = %s and name = %s
        """,
        [config.run_id, config.name],
    ).fetchone()
    this = _Run(*row) if row else None
    target = generation(connection, this.generation_id) if this else None
    if this is None or (target is None and this.result is None):
        raise BadConfig(f"{config.name}: run {config.run_id} is not in the database or was replaced: start a new run")
    return this, cast(Generation, target)


def _counts(connection: Connection, this: _Run) -> dict[str, int]:
    """Sum up the plan."""
    cursor = connection.execute(
        """
        select count(*) filter (where outcome is null) as open,
            count(*) filter (where outcome = 'published' and operation = 'add') as documents_added,
            count(*) filter (where outcome = 'published' and operation = 'change') as documents_changed,
            count(*) filter (where outcome = 'published' and operation = 'delete') as documents_deleted,
            count(*) filter (where outcome = 'refused') as documents_refused,
            count(*) filter (where outcome in ('superseded', 'vanished')) as documents_deferred,
            coalesce(sum(chunks_added), 0) as chunks_added,
            coalesce(sum(chunks_changed), 0) as chunks_changed,
            coalesce(sum(chunks_deleted), 0) as chunks_deleted
        from refresh_plan where run_id = %s
        """,
        [this.run_id],
    )
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    return {column.name: int(value) for column, value in zip(cursor.description, row, strict=True)}


# --- the vector index


def _keep_vector_index_alone(connection: Connection, target: Generation, counts: dict[str, int]) -> VectorIndex:
    """Look after the vector index unless another run is at it.

    Never waits for the lock: a build waits for every open statement, ours among them.
    """
    key = [_LOCK_CLASS, target.generation_id]
    row = connection.execute("select pg_try_advisory_lock(%s, %s)", key).fetchone()
    if not (row and row[0]):
        return "kept"
    try:
        return _keep_vector_index(connection, target, counts)
    finally:
        connection.execute("select pg_advisory_unlock(%s, %s)", key)


def _keep_vector_index(connection: Connection, target: Generation, counts: dict[str, int]) -> VectorIndex:
    """Build the HNSW index where there is none, rebuild it where that is cheaper than its upkeep.

    Works outside transactions: readers go on meanwhile.
    """
    valid = _drop_invalid(connection, target)
    if not valid:
        rows = _vectors(connection, target)
        if not rows:
            return "none"
        _build(connection, target, rows)
        return "built"
    inserted = counts["chunks_added"] + counts["chunks_changed"]
    deleted = counts["chunks_deleted"] + counts["chunks_changed"]
    if not _worth_rebuilding(connection, target, inserted, deleted):
        return "kept"
    rows = _vectors(connection, target)
    _allow_memory(connection, target, rows)
    connection.execute(sql.SQL("reindex index concurrently {}").format(target.vector_index))
    connection.execute(sql.SQL("vacuum (analyze) {}").format(target.table))
    _note_build(connection, target, rows)
    return "rebuilt"


def _drop_invalid(connection: Connection, target: Generation) -> bool:
    """Drop what killed builds left behind, and return whether a sound index is there."""
    rows = connection.execute(
        """
        select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
        where i.indrelid = %s::regclass and c.relname like %s
        """,
        [target.table.as_string(connection), f"{target.vector_index.as_string(connection).strip(chr(34))}%"],
    ).fetchall()
    for name, valid in rows:
        if not valid:
            connection.execute(sql.SQL("drop index concurrently if exists {}").format(sql.Identifier(name)))
    return any(valid for _, valid in rows)


def _vectors(connection: Connection, target: Generation) -> int:
    row = connection.execute(sql.SQL("select count(*) from {}").format(target.table)).fetchone()
    return int(row[0]) if row else 0


def _build(connection: Connection, target: Generation, rows: int) -> None:
    _allow_memory(connection, target, rows)
    connection.execute(
        sql.SQL(
            "create index concurrently if not exists {} on {} using hnsw (embedding vector_cosine_ops)"
            " with (m = 16, ef_construction = 64)"
        ).format(target.vector_index, target.table)
    )
    connection.execute(sql.SQL("analyze {}").format(target.table))
    _note_build(connection, target, rows)


def _allow_memory(connection: Connection, target: Generation, rows: int) -> None:
    """Let the whole graph fit into memory while it is built: it is three times slower where it does not."""
    graph = rows * (4 * target.dimensions + 500) * 1.3
    mib = min(max(int(graph / _MIB), _LEAST_BUILD_MIB), _MOST_BUILD_MIB)
    connection.execute("select set_config('maintenance_work_mem', %s, false)", [f"{mib}MB"])


def _note_build(connection: Connection, target: Generation, rows: int) -> None:
    connection.execute(
        "update generation set vectors_at_build = %s, inserted_since_build = 0, deleted_since_build = 0"
        " where generation_id = %s",
        [rows, target.generation_id],
    )


def _worth_rebuilding(connection: Connection, target: Generation, inserted: int, deleted: int) -> bool:
    """Count this run's churn and say whether the sum since the last build passes a limit."""
    row = connection.execute(
        """
        update generation set inserted_since_build = inserted_since_build + %s,
            deleted_since_build = deleted_since_build + %s
        where generation_id = %s
        returning inserted_since_build, deleted_since_build, vectors_at_build
        """,
        [inserted, deleted, target.generation_id],
    ).fetchone()
    assert row is not None
    base = max(int(row[2] or 0), 1)
    return bool(row[0] > REBUILD_INSERTED_SHARE * base or row[1] > REBUILD_DELETED_SHARE * base)


# --- the closing transaction


def _close(
    connection: Connection, config: FinaliseConfig, this: _Run, counts: dict[str, int], vector_index: VectorIndex
) -> RefreshResult:
    """Swap generations where this run filled a new one, write the result, and clear the plan."""
    target = generation(connection, this.generation_id)
    if target is None or target.state == "retired":
        raise BadConfig(f"{config.name}: another run replaced the generation of run {this.run_id}: start a new run")
    drop_retired(connection, target.index_id)
    swapped = _swap(connection, config, target, counts)
    result = _result(connection, config, this, target, counts, vector_index=vector_index, swapped=swapped)
    connection.execute(
        "update refresh_run set state = 'done', finished_at = now(), result = %s where run_id = %s",
        [Jsonb(result.model_dump(mode="json")), this.run_id],
    )
    connection.execute("delete from refresh_plan where run_id = %s", [this.run_id])
    return result


def _swap(connection: Connection, config: FinaliseConfig, target: Generation, counts: dict[str, int]) -> bool:
    """Let a newly filled generation answer; return whether it does so since now."""
    if target.state != "building":
        return False
    incomplete = counts["documents_refused"] + counts["documents_deferred"]
    if incomplete and active_generation(connection, config.name):
        logger.warning(
            "%s: %d documents are missing from the new generation, so the old one goes on answering",
            config.name,
            incomplete,
        )
        return False
    activate(connection, target)
    return True


def _result(
    connection: Connection,
    config: FinaliseConfig,
    this: _Run,
    target: Generation,
    counts: dict[str, int],
    *,
    vector_index: VectorIndex,
    swapped: bool,
) -> RefreshResult:
    row = connection.execute(
        """
        select (select count(*) from document_state where generation_id = %(id)s),
               (select count(*) from chunk where generation_id = %(id)s)
        """,
        {"id": target.generation_id},
    ).fetchone()
    assert row is not None
    documents, chunks = int(row[0]), int(row[1])
    new = counts["chunks_added"] + counts["chunks_changed"]
    changed = sum(counts[f"documents_{what}"] for what in ("added", "changed", "deleted"))
    return RefreshResult(
        name=config.name,
        version=index_version(connection, target),
        changed=bool(changed) or swapped,
        run_id=this.run_id,
        generation_id=target.generation_id,
        active=swapped or target.state == "active",
        documents=documents,
        documents_unchanged=this.documents_unchanged,
        refused=_refused(connection, this.run_id),
        chunks=chunks,
        chunks_unchanged=chunks - new,
        texts_embedded=this.texts_embedded,
        texts_cached=max(new - this.texts_embedded, 0),
        vector_index=vector_index,
        embedder=f"{target.model_settings['name']}@{str(target.model_settings['revision'])[:12]}",
        dimensions=target.dimensions,
        **{name: count for name, count in counts.items() if name != "open"},
    )


def _refused(connection: Connection, run_id: int) -> list[Refused]:
    rows = connection.execute(
        "select key, reason from refresh_plan where run_id = %s and outcome = 'refused' order by key limit %s",
        [run_id, REFUSED_SHOWN],
    ).fetchall()
    return [Refused(document=key, reason=reason) for key, reason in rows]


if __name__ == "__main__":
    sys.exit(main(FinaliseConfig, run))
