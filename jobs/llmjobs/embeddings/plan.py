"""The plan of a refresh: what differs between the documents and the index, by content hash.

Reads only what a listing's stamps say may differ, and all of it every so many runs. Writes one ``refresh_run`` row, one
``refresh_plan`` row for each document that differs, and what the sources said; nothing of it where nothing differs.
Times of change decide only what is not read again: hashes decide what changed.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmjobs.contracts.embeddings import PlanResult, RefreshConfig, ShardWork
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.chunker import Chunker
from llmjobs.embeddings.differences import Difference, compare, shard_of
from llmjobs.embeddings.documents.direct import direct_sources
from llmjobs.embeddings.documents.opened import opened
from llmjobs.embeddings.documents.source import Source, Unreadable
from llmjobs.embeddings.failures import Failure, Name, forget_failures, known_failures
from llmjobs.embeddings.generations import (
    Generation,
    active_generation,
    ensure_generation,
    find_index,
    lock_index,
    other_followers,
)
from llmjobs.embeddings.held import held_count, held_in, held_of, lacking
from llmjobs.embeddings.mass_delete import guard
from llmjobs.embeddings.model import Model, keep_precision, model_of
from llmjobs.embeddings.outcomes import REASON_CHARACTERS
from llmjobs.embeddings.runs import open_run
from llmjobs.embeddings.stamps import stage, stage_removal
from llmjobs.embeddings.survey import Known, Survey, known_sources, survey
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)

ANALYSED = 500
"""Rows of a plan from which on its statistics are worth their time: without any, closing rows costs their square."""


@dataclass
class Work:
    """What one generation needs."""

    generation: Generation
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What a run knows before it compares.

    Attributes:
        found: The sources, as they are now.
        removed: Sources that the config no longer names.
        failures: Documents that failed before.
    """

    found: list[Survey]
    removed: list[str]
    failures: dict[Name, Failure]


def run(config: RefreshConfig) -> PlanResult:
    """Plan the refresh of the index in the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        sources = opened(config, Lake.from_environment())
        answering = active_generation(connection, config.name)
        embedder = keep_precision(config.embedder, answering.model_settings if answering else {})
        return plan(connection, config, sources, model_of(embedder))


def plan(connection: Connection, config: RefreshConfig, sources: Sequence[Source], model: Model) -> PlanResult:
    """Compare the sources with the index and write down what differs.

    Raises:
        BadData: A source holds no document, or too many documents vanished at once.
    """
    sources = [*sources, *direct_sources(connection, config.name)]
    chunker = chunker_of(config, model)
    index_id = find_index(connection, config.name)
    known = known_sources(connection, index_id)
    # Reading may take an hour, so no transaction is open yet; what is compared is looked up again below.
    found = _look(connection, config, sources, index_id, known)
    with connection.transaction():
        lock_index(connection, config.name)
        wanted = ensure_generation(connection, config.name, model, chunker, config.storage)
        removed = sorted(known.keys() - {source.name for source in sources})
        seen = Seen(found, removed, known_failures(connection, wanted.index_id))
        answering = active_generation(connection, config.name)
        works = [Work(one) for one in (wanted, *other_followers(connection, wanted))]
        for work in works:
            _compare(connection, work, seen)
            if answering and work.generation.state == "building":
                _catch_up(connection, config, work, answering, seen)
        served = next(work for work in works if work.generation == (answering or wanted))
        guard(connection, config, served.generation, found, served.differences)
        result = _write(connection, config, works, seen)
    logger.info(
        "%s: %d documents: %d added, %d changed, %d deleted, %d unchanged; %d shards",
        config.name, result.documents, result.documents_added, result.documents_changed, result.documents_deleted,
        result.documents_unchanged, len(result.shards),
    )  # fmt: skip
    return result


def chunker_of(config: RefreshConfig, model: Model) -> Chunker:
    """Return the chunker that a config asks for, which counts tokens as the model does."""
    return Chunker(
        model.tokens,
        max_tokens=min(config.chunks.max_tokens, model.max_tokens),
        prefix=config.embedder.document_prefix,
    )


def _look(
    connection: Connection,
    config: RefreshConfig,
    sources: Sequence[Source],
    index_id: int | None,
    known: dict[str, Known],
) -> list[Survey]:
    """Survey the sources; read all of one that was never finished, and every so many runs."""
    answers = active_generation(connection, config.name) is not None
    due = [one for one in known_failures(connection, index_id).values() if one.due]
    every = {one.name: getattr(one, "reconcile_every", config.rehash_every) for one in config.inputs}
    return [
        survey(
            connection,
            index_id,
            source,
            last := known.get(source.name, Known(source.name)),
            everything=not answers or last.runs_since_rehash + 1 >= every.get(source.name, config.rehash_every),
            retried={failure.container for failure in due if failure.source == source.name},
        )
        for source in sources
    ]


def _compare(connection: Connection, work: Work, seen: Seen) -> None:
    """Add what differs between what was read now and what a generation holds."""
    for one in seen.found:
        if one.changed:
            held = held_in(connection, work.generation, one)
            differences = compare(one.source, one.listed, held)
            work.differences += [d for d in differences if not _put_off(d, seen.failures)]
    for source in seen.removed:
        work.differences += compare(source, {}, held_of(connection, work.generation, source))


def _put_off(difference: Difference, failures: dict[Name, Failure]) -> bool:
    """Return whether a document failed with this very content and is not to be tried again yet."""
    failure = failures.get((difference.source, difference.key))
    return (
        failure is not None
        and not failure.due
        and difference.operation != "delete"
        and failure.content_hash == difference.content_hash
    )


def _catch_up(connection: Connection, config: RefreshConfig, work: Work, answering: Generation, seen: Seen) -> None:
    """Let a generation that is built beside the active one hold what that holds, at most so much a run."""
    compared = {(one.source, key) for one in seen.found for key in one.listed}
    compared |= {(one.source, one.key) for one in work.differences}
    for one in lacking(connection, work.generation, answering):
        name = (one.source, one.key)
        if name not in compared and (one.operation == "delete" or name not in seen.failures):
            work.differences.append(one)
    most = config.rollout.documents_per_run
    if most is not None:
        filled = [(one.source, one.key) for one in work.differences if one.operation != "delete"]
        later = set(filled[most:])
        work.differences = [one for one in work.differences if (one.source, one.key) not in later]


def _write(connection: Connection, config: RefreshConfig, works: Sequence[Work], seen: Seen) -> PlanResult:
    wanted = works[0]
    forget_failures(connection, wanted.generation.index_id, _mended(seen))
    run_id = open_run(connection, wanted.generation)
    for one in seen.found:
        stage(connection, run_id, one)
    for source in seen.removed:
        stage_removal(connection, run_id, source)
    documents = {(one.source, one.key) for work in works for one in work.differences}
    shards = min(config.shards.most, math.ceil(len(documents) / config.shards.documents_per_shard)) or 1
    _write_plan(connection, run_id, shards, works, [(s.source, one) for s in seen.found for one in s.unreadable])
    dealt = Counter(shard_of(*name, shards) for name in documents)
    counts = Counter(one.operation for one in wanted.differences)
    unchanged = held_count(connection, wanted.generation) - counts["change"] - counts["delete"]
    return PlanResult(
        name=config.name,
        run_id=run_id,
        generation_id=wanted.generation.generation_id,
        rebuilding=wanted.generation.state == "building",
        documents=unchanged + counts["add"] + counts["change"],
        documents_added=counts["add"],
        documents_changed=counts["change"],
        documents_deleted=counts["delete"],
        documents_unchanged=unchanged,
        shards=[ShardWork(shard=shard, documents=dealt[shard]) for shard in sorted(dealt)],
    )


def _mended(seen: Seen) -> list[Name]:
    """Return failed documents that are no more what they were when they failed: gone, or changed."""
    surveys = {one.source: one for one in seen.found if one.changed}
    return [
        name
        for name, failure in seen.failures.items()
        if (one := surveys.get(failure.source)) and _was_looked_at(one, failure) and _is_mended(one, failure)
    ]


def _was_looked_at(one: Survey, failure: Failure) -> bool:
    gone = one.scan.complete and failure.container not in one.scan.stamps
    return gone or failure.container in one.read


def _is_mended(one: Survey, failure: Failure) -> bool:
    if any(which.place.key == failure.key for which in one.unreadable):
        return False
    _, now = one.listed.get(failure.key, ("", None))
    return now is None or now != failure.content_hash


def _write_plan(
    connection: Connection,
    run_id: int,
    shards: int,
    works: Sequence[Work],
    unreadable: Sequence[tuple[str, Unreadable]],
) -> None:
    """Write the rows of the plan; those of what cannot be read are closed at once."""
    wanted = works[0].generation.generation_id
    rows: list[tuple[Any, ...]] = [
        (run_id, work.generation.generation_id, shard_of(one.source, one.key, shards), one.source, one.container,
         one.key, one.operation, one.content_hash, one.previous_hash, None, "", "")
        for work in works
        for one in work.differences
    ]  # fmt: skip
    rows += [
        (run_id, wanted, 0, source, one.place.container, one.place.key, "add", None, None, "refused",
         one.reason[:REASON_CHARACTERS], "Unreadable")
        for source, one in unreadable
    ]  # fmt: skip
    if not rows:
        return
    statement = """
        copy refresh_plan (run_id, generation_id, shard, source, container, key, operation, content_hash, previous_hash,
            outcome, reason, error_class)
        from stdin with (format binary)
    """
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["int8", "int4", "int4", *["text"] * 4, "bytea", "bytea", "text", "text", "text"])
        for row in rows:
            copy.write_row(row)
    if len(rows) >= ANALYSED:
        connection.execute("analyze refresh_plan")


if __name__ == "__main__":
    sys.exit(main(RefreshConfig, run))
