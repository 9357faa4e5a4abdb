"""What the report of a refresh tells, read from the database; of documents their names, never their text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult
from llmjobs.database.connection import Connection
from llmjobs.embeddings.changes import Change, changes_of

NIGHTS = 30
"""Runs that the page draws."""

FAILING = 200
"""Documents that fail and are named on the page."""

GENERATIONS = 8
"""Generations that the page names, the newest."""


@dataclass(frozen=True)
class Failing:
    """A document that could not be indexed as it is now.

    Attributes:
        served: The index holds it as it was before.
        next_try_at: None: it is quarantined, and tried again only when it changes.
    """

    source: str
    key: str
    error_class: str
    error: str
    attempts: int
    first_failed_at: datetime
    next_try_at: datetime | None
    served: bool

    @property
    def reason(self) -> str:
        """Why, without what the sentence quotes: that may be a value of the document. The table has it whole."""
        return _QUOTED.sub("'…'", hidden(self.error))


@dataclass(frozen=True)
class Night:
    """A finished run.

    Attributes:
        seconds: From the plan to the closing transaction.
        result: What was kept of its result: `llmjobs.embeddings.runs` leaves zeros out.
        measured: Bytes and recall; None where it changed nothing.
    """

    run_id: int
    finished_at: datetime
    seconds: float
    result: dict[str, Any]
    measured: dict[str, Any] | None

    def count(self, name: str) -> float:
        """Return a figure of the result."""
        return float(self.result.get(name, 0))


@dataclass(frozen=True)
class GenerationLine:
    """A generation of the index.

    Attributes:
        model: What its embedder was built from; ``chunker`` and ``storage`` alike.
        documents: How many it holds.
        gates: What they said when it was last to take over: name, passed, sentence; None where nobody asked.
        held: A person rolled it back.
    """

    generation_id: int
    state: str
    model: dict[str, Any]
    dimensions: int
    chunker: dict[str, Any]
    storage: dict[str, Any]
    documents: int
    created_at: datetime
    activated_at: datetime | None
    gates: list[dict[str, Any]] | None
    held: bool


@dataclass(frozen=True)
class SourceLine:
    """A source of the index.

    Attributes:
        watermark: How far its listing had come; empty where it is listed whole.
    """

    source: str
    documents: int
    watermark: str
    runs_since_rehash: int


@dataclass(frozen=True)
class Facts:
    """All that the page tells.

    Attributes:
        problems: Limits that are passed, in sentences: the task fails for them.
        swapped: The generation that answers took over in this run.
        failing: Quarantined ones first, then the oldest; the result has how many there are.
        nights: The last runs up to this one, the oldest first.
    """

    config: MeasureConfig
    result: MeasureResult
    problems: list[str]
    started_at: datetime
    finished_at: datetime
    produced_by: dict[str, str]
    swapped: bool
    changes: list[Change]
    failing: list[Failing]
    nights: list[Night]
    generations: list[GenerationLine]
    sources: list[SourceLine]


def facts_of(connection: Connection, config: MeasureConfig, result: MeasureResult, problems: list[str]) -> Facts:
    """Read what the report of a measured run tells.

    Args:
        connection: In autocommit mode.
        config: Of the index.
        result: Of the run.
        problems: Limits that are passed.
    """
    row = connection.execute(
        "select index_id, started_at, finished_at, dag_id, dag_run_id, code_version from refresh_run where run_id = %s",
        [result.run_id],
    ).fetchone()
    assert row is not None
    index_id, started_at, finished_at = row[:3]
    generations = _generations(connection, index_id)
    answering = next(one for one in generations if one.generation_id == result.generation_id)
    return Facts(
        config=config,
        result=result,
        problems=problems,
        started_at=started_at,
        finished_at=finished_at,
        produced_by=dict(zip(("DAG", "run", "code"), row[3:], strict=True)),
        swapped=answering.activated_at is not None and started_at <= answering.activated_at <= finished_at,
        changes=changes_of(connection, result.run_id),
        failing=_failing(connection, index_id, result.generation_id),
        nights=_nights(connection, index_id, result.run_id),
        generations=generations,
        sources=_sources(connection, index_id, result.generation_id),
    )


def hidden(text: str) -> str:
    """Return a name or a sentence without e-mail addresses."""
    return _ADDRESS.sub("[e-mail]", text)


_ADDRESS = re.compile(r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _failing(connection: Connection, index_id: int, generation_id: int) -> list[Failing]:
    with connection.cursor(row_factory=class_row(Failing)) as cursor:
        return cursor.execute(
            """
            select source, key, error_class, error, attempts, first_failed_at, next_try_at, exists (
                select from document d join document_state s using (document_id)
                where d.index_id = f.index_id and d.source = f.source and d.key = f.key and s.generation_id = %s
            ) as served
            from document_failure f where index_id = %s
            order by next_try_at is not null, first_failed_at, source, key limit %s
            """,
            [generation_id, index_id, FAILING],
        ).fetchall()


def _nights(connection: Connection, index_id: int, run_id: int) -> list[Night]:
    with connection.cursor(row_factory=class_row(Night)) as cursor:
        found = cursor.execute(
            """
            select run_id, finished_at, extract(epoch from finished_at - started_at)::float8 as seconds, result,
                measured
            from refresh_run where index_id = %s and run_id <= %s and state = 'done' order by run_id desc limit %s
            """,
            [index_id, run_id, NIGHTS],
        ).fetchall()
    return found[::-1]


def _generations(connection: Connection, index_id: int) -> list[GenerationLine]:
    with connection.cursor(row_factory=class_row(GenerationLine)) as cursor:
        return cursor.execute(
            """
            select generation_id, state, settings as model, dimensions, chunker, storage, created_at, activated_at,
                gates, held,
                (select count(*) from document_state s where s.generation_id = g.generation_id) as documents
            from generation g join embedding_model using (model_id) where index_id = %s
            order by state <> 'active', generation_id desc limit %s
            """,
            [index_id, GENERATIONS],
        ).fetchall()


def _sources(connection: Connection, index_id: int, generation_id: int) -> list[SourceLine]:
    with connection.cursor(row_factory=class_row(SourceLine)) as cursor:
        return cursor.execute(
            """
            with held as (
                select source, count(*) as documents from document join document_state using (document_id)
                where index_id = %(index)s and generation_id = %(generation)s group by source
            )
            select source, coalesce(documents, 0) as documents, coalesce(watermark, '') as watermark,
                coalesce(runs_since_rehash, 0) as runs_since_rehash
            from held full join (select * from source_state where index_id = %(index)s) s using (source) order by source
            """,
            {"index": index_id, "generation": generation_id},
        ).fetchall()
