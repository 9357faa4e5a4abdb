"""The end of a refresh: the vector index, the swap to a new generation, and the figures."""

from __future__ import annotations

import logging
import sys

from psycopg import sql

from llmjobs.contracts.embeddings import FinaliseConfig, RefreshResult
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.cache import collect_garbage
from llmjobs.embeddings.closing import Counts, Run, VectorIndex, close, plan_counts
from llmjobs.embeddings.generations import Generation, find_index, generation
from llmjobs.embeddings.runs import finished_result
from llmjobs.results import main

logger = logging.getLogger(__name__)

REBUILD_INSERTED_SHARE = 0.20
REBUILD_DELETED_SHARE = 0.03
"""Beyond these shares of the vectors a rebuild is cheaper than what inserts and VACUUM cost in an HNSW index.

Measured with pgvector 0.8.5, 20,000 vectors of 384 dimensions: build 0.24 ms a vector, insert 1.1, vacuum of one
deleted vector 7 to 12.
"""

_LOCK_CLASS = 0x484E5357  # "HNSW"

_MIB = 2**20
_LEAST_BUILD_MIB, _MOST_BUILD_MIB = 64, 1024


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
    before = finished_result(connection, config.name, config.run_id)
    if before is not None:
        return before
    this = _read(connection, config)
    counts = plan_counts(connection, this.run_id)
    still_open = sum(one["open"] for one in counts.values())
    if still_open:
        raise JobError(
            f"{config.name}: {still_open} documents of run {this.run_id} are still open: clear the failed embed "
            "tasks, which go on where they were"
        )
    looked_after = _look_after(connection, this, counts)
    result = close(connection, config, this, counts, looked_after)
    if result.chunks_added or result.chunks_changed or result.chunks_deleted:
        index_id = find_index(connection, config.name)
        assert index_id is not None
        removed = collect_garbage(connection, index_id, config.cache_days)
        logger.info("%d vectors left the cache: unused for %d days", removed, config.cache_days)
    logger.info("%s", result.model_dump_json())
    return result


def _read(connection: Connection, config: FinaliseConfig) -> Run:
    row = connection.execute(
        """
        select run_id, generation_id, texts_embedded, tokens_embedded
        from refresh_run join search_index using (index_id) where run_id = %s and name = %s
        """,
        [config.run_id, config.name],
    ).fetchone()
    this = Run(*row) if row else None
    if this is None or generation(connection, this.generation_id) is None:
        raise BadConfig(f"{config.name}: run {config.run_id} is not in the database or was replaced: start a new run")
    return this


def _look_after(connection: Connection, this: Run, counts: Counts) -> dict[int, VectorIndex]:
    """Look after the vector index of each generation that changed."""
    done: dict[int, VectorIndex] = {}
    for generation_id in {this.generation_id, *counts}:
        target = generation(connection, generation_id)
        if target is None:
            continue
        own = counts[generation_id]
        changed = own["chunks_added"] + own["chunks_changed"] + own["chunks_deleted"]
        must_look = bool(changed) or target.state == "building" or not target.vectors_at_build
        done[generation_id] = _keep_vector_index_alone(connection, target, own) if must_look else "kept"
    return done


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


if __name__ == "__main__":
    sys.exit(main(FinaliseConfig, run))
