"""The end of a refresh: the vector index, the swap to a new generation, and the figures."""

from __future__ import annotations

import logging
import sys

from llmjobs.contracts.embeddings import FinaliseConfig, RefreshResult
from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.cache import collect_garbage
from llmjobs.embeddings.closing import Counts, Done, Run, close, may_take_over, plan_counts
from llmjobs.embeddings.gates import Gate, Load, gates
from llmjobs.embeddings.generations import Generation, active_generation, find_index, generation
from llmjobs.embeddings.model import Encoder
from llmjobs.embeddings.runs import finished_result
from llmjobs.embeddings.search.statistics import refresh_statistics
from llmjobs.embeddings.targets import reopened
from llmjobs.embeddings.vector_index import VectorIndex, look_after
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)


def load_encoder(of: Generation) -> Encoder:
    """Load the embedder that a generation was made with."""
    return reopened(of.model_settings).load()


def run(config: FinaliseConfig) -> RefreshResult:
    """Finish a refresh in the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        return finalise(connection, config, Lake.from_environment())


def finalise(connection: Connection, config: FinaliseConfig, lake: Lake, load: Load = load_encoder) -> RefreshResult:
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
    decided = _decided(connection, lake, config, this, load)
    result = close(connection, config, Done(this, counts, looked_after, decided))
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
        done[generation_id] = look_after(connection, target, own) if must_look else "kept"
        if changed or target.state == "building":
            refresh_statistics(connection, generation_id)
    return done


def _decided(connection: Connection, lake: Lake, config: FinaliseConfig, this: Run, load: Load) -> list[Gate] | None:
    """Ask the gates where a generation stands ready beside the one that answers; None: there is nothing to ask."""
    wanted, active = generation(connection, this.generation_id), active_generation(connection, config.name)
    if wanted is None or active is None or not may_take_over(wanted):
        return None
    found = gates(connection, lake, candidate=wanted, active=active, rollout=config.rollout, load=load)
    for gate in found:
        logger.log(logging.INFO if gate.passed else logging.WARNING, "gate %s: %s", gate.name, gate.sentence)
    return found


if __name__ == "__main__":
    sys.exit(main(FinaliseConfig, run))
