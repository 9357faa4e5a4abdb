"""The closing transaction of a refresh: what the run found out becomes what later runs rely on."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from llmjobs.contracts.embeddings import FinaliseConfig, RefreshResult
from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection
from llmjobs.embeddings.changes import keep_changes
from llmjobs.embeddings.failures import failure_counts, refused_of, settle_failures
from llmjobs.embeddings.gates import Gate
from llmjobs.embeddings.generations import (
    Generation,
    activate,
    active_generation,
    drop_retired,
    generation,
    index_version,
    lock_index,
    note_gates,
    retire_expired,
)
from llmjobs.embeddings.held import held_count
from llmjobs.embeddings.runs import close_run, last_result
from llmjobs.embeddings.stamps import settle
from llmjobs.embeddings.vector_index import VectorIndex

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The record of a run.

    Attributes:
        generation_id: The generation that its config asked for.
        texts_embedded: Tries that were killed included; so are the tokens.
    """

    run_id: int
    generation_id: int
    texts_embedded: int
    tokens_embedded: int


Counts = dict[int, dict[str, int]]
"""Generation -> what came of its rows of the plan, by the names of `RefreshResult`; and `open` ones."""


@dataclass(frozen=True)
class Done:
    """What a run did, all its rows closed.

    Attributes:
        run: Its record.
        counts: What came of its rows.
        vector_index: What was done about the index of each generation.
        gates: What the gates said of a generation that may take over; None where they were not asked.
    """

    run: Run
    counts: Counts
    vector_index: dict[int, VectorIndex]
    gates: list[Gate] | None


def plan_counts(connection: Connection, run_id: int) -> Counts:
    """Sum up the plan; a generation that it does not speak of counts zero of all."""
    cursor = connection.execute(
        """
        select generation_id, count(*) filter (where outcome is null) as open,
            count(*) filter (where outcome = 'published' and operation = 'add') as documents_added,
            count(*) filter (where outcome = 'published' and operation = 'change') as documents_changed,
            count(*) filter (where outcome = 'published' and operation = 'delete') as documents_deleted,
            count(*) filter (where outcome = 'refused') as documents_refused,
            count(*) filter (where outcome in ('superseded', 'vanished', 'stranded')) as documents_deferred,
            coalesce(sum(chunks_added), 0) as chunks_added,
            coalesce(sum(chunks_changed), 0) as chunks_changed,
            coalesce(sum(chunks_deleted), 0) as chunks_deleted
        from refresh_plan where run_id = %s group by generation_id
        """,
        [run_id],
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description[1:]]
    counts: Counts = defaultdict(lambda: dict.fromkeys(names, 0))
    counts.update({row[0]: dict(zip(names, map(int, row[1:]), strict=True)) for row in cursor.fetchall()})
    return counts


def close(connection: Connection, config: FinaliseConfig, done: Done) -> RefreshResult:
    """Settle sources and failures, swap generations where this run filled a new one, and keep the result.

    Args:
        connection: In autocommit mode.
        config: Names the run.
        done: What the run did.

    Raises:
        BadConfig: Another run replaced the generation meanwhile.
    """
    this, counts, gates = done.run, done.counts, done.gates
    with connection.transaction():
        lock_index(connection, config.name)
        wanted = generation(connection, this.generation_id)
        if wanted is None or wanted.state == "retired":
            raise BadConfig(f"{config.name}: another run replaced the generation of run {this.run_id}: start a new run")
        retire_expired(connection, wanted.index_id, wanted, config.rollout.keep_days)
        drop_retired(connection, wanted.index_id)
        answering = active_generation(connection, config.name)
        staged = settle(connection, wanted.index_id, this.run_id, [source.name for source in config.inputs])
        touched = any(any(one.values()) for one in counts.values())
        if staged or touched:
            settle_failures(connection, wanted.index_id, this.run_id, config.retry)
        swapped = may_take_over(wanted) and _may_answer(config, wanted, answering, done)
        if swapped:
            activate(connection, wanted, keep=config.rollout.keep_days > 0)
        if gates is not None:
            note_gates(connection, wanted, [asdict(gate) for gate in gates])
        shown = wanted if swapped or answering is None else answering
        quiet = not (staged or touched or swapped)
        result = _result(connection, config, this, shown, counts, quiet=quiet)
        moved = keep_changes(connection, this.run_id, shown.generation_id) if touched else 0
        result = result.model_copy(
            update={
                "documents_moved": moved,
                **_beside(connection, wanted, shown),
                "changed": result.changed or swapped,
                "held_back": [gate.sentence for gate in gates or [] if not gate.passed],
                "active": swapped or shown.state == "active",
                "vector_index": done.vector_index.get(shown.generation_id, "kept"),
            }
        )
        close_run(connection, this.run_id, result)
        return result


def may_take_over(wanted: Generation) -> bool:
    """Return whether a generation that the config asks for waits for the gates; one that was rolled back does not."""
    return wanted.state in {"building", "former"} and not wanted.held


def _may_answer(config: FinaliseConfig, wanted: Generation, answering: Generation | None, done: Done) -> bool:
    """Return whether a generation that was filled beside the one that answers may do so now."""
    if answering is None:
        return True
    passed = bool(done.gates) and all(gate.passed for gate in done.gates or [])
    counts = done.counts[wanted.generation_id]
    failed = counts["documents_refused"] + counts["documents_deferred"]
    complete = failed == 0 or config.rollout.min_coverage < 1
    if not passed or not complete:
        logger.warning("%s: the new generation is not ready, so the old one goes on answering", config.name)
    return passed and complete


def _result(
    connection: Connection, config: FinaliseConfig, this: Run, shown: Generation, counts: Counts, *, quiet: bool
) -> RefreshResult:
    """Count; where the run touched nothing what the last one counted is still so."""
    own = {name: count for name, count in counts[shown.generation_id].items() if name != "open"}
    before = last_result(connection, shown.index_id) if quiet else None
    size = before if before and before["generation_id"] == shown.generation_id else _size(connection, shown)
    documents, chunks = size.get("documents", 0), size.get("chunks", 0)
    added = sum(one["chunks_added"] + one["chunks_changed"] for one in counts.values())
    published = own["documents_added"] + own["documents_changed"]
    figures: dict[str, Any] = {**own, **failure_counts(connection, shown.index_id)}
    revision = str(shown.model_settings.get("revision") or "")[:12]
    return RefreshResult(
        name=config.name,
        version=size["version"],
        changed=bool(published or own["documents_deleted"]),
        run_id=this.run_id,
        generation_id=shown.generation_id,
        active=False,
        documents=documents,
        documents_unchanged=documents - published - _troubled(connection, this, shown),
        refused=refused_of(connection, this.run_id),
        chunks=chunks,
        chunks_unchanged=chunks - own["chunks_added"] - own["chunks_changed"],
        texts_embedded=this.texts_embedded,
        texts_cached=max(added - this.texts_embedded, 0),
        tokens_embedded=this.tokens_embedded,
        cost=_cost(connection, this),
        vector_index="kept",
        embedder=shown.model_settings["name"] + (f"@{revision}" if revision else ""),
        dimensions=shown.dimensions,
        **figures,
    )


def _size(connection: Connection, shown: Generation) -> dict[str, Any]:
    row = connection.execute("select count(*) from chunk where generation_id = %s", [shown.generation_id]).fetchone()
    return {
        "documents": held_count(connection, shown),
        "chunks": int(row[0]) if row else 0,
        "version": index_version(connection, shown),
    }


def _troubled(connection: Connection, this: Run, shown: Generation) -> int:
    """Return how many documents the generation holds as they were: failed, or left to another run."""
    row = connection.execute(
        """
        select count(*) from (
            select source, key from refresh_plan
            where run_id = %(run)s and generation_id = %(generation)s and outcome <> 'published'
            union select source, key from document_failure where index_id = %(index)s
        ) t join document d on d.index_id = %(index)s and d.source = t.source and d.key = t.key
        join document_state s on s.document_id = d.document_id and s.generation_id = %(generation)s
        """,
        {"run": this.run_id, "generation": shown.generation_id, "index": shown.index_id},
    ).fetchone()
    return int(row[0]) if row else 0


def _cost(connection: Connection, this: Run) -> float:
    row = connection.execute("select sum(cost) from refresh_cost where run_id = %s", [this.run_id]).fetchone()
    return round(float(row[0]), 6) if row and row[0] else 0.0


def _beside(connection: Connection, wanted: Generation, shown: Generation) -> dict[str, int]:
    """Return how far the generation is that is being built beside the one that answers."""
    if wanted.generation_id == shown.generation_id:
        return {}
    return {"next_generation_id": wanted.generation_id, "next_documents": held_count(connection, wanted)}
