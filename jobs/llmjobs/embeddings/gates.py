"""Gates that a new generation must pass before it answers: coverage, sound tables, recall, golden questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from psycopg import sql

from llmjobs.contracts.embeddings import RolloutConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.model import Encoder
from llmjobs.embeddings.recall import measured_recall
from llmjobs.embeddings.table_checks import check_tables
from llmjobs.lake import Lake

GOLDEN_K = 10
"""A golden question is answered when one of its documents is among the first ten passages."""

QUERIES = 50


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes:
        name: ``coverage``, ``tables``, ``recall`` or ``golden``.
        passed: Whether it lets the generation through.
        sentence: What was found, what is asked, and what to change.
    """

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Golden:
    """A question, and keys of the documents that answer it."""

    question: str
    documents: frozenset[str]


Load = Callable[[Generation], Encoder]
"""Loads the embedder that a generation was made with."""


def gates(
    connection: Connection, lake: Lake, *, candidate: Generation, active: Generation, rollout: RolloutConfig, load: Load
) -> list[Gate]:
    """Return every gate's decision, those that failed among them.

    Args:
        connection: In autocommit mode.
        lake: Where `rollout.golden` is.
        candidate: The generation that was filled.
        active: The one that answers now.
        rollout: The limits.
        load: Called only where golden questions are asked.

    Raises:
        BadData: The golden file is absent or malformed.
    """
    found = [_coverage(connection, candidate, active, rollout), _tables(connection, candidate)]
    found.append(_recall(connection, candidate, rollout))
    if rollout.golden:
        questions = golden_questions(lake, rollout.golden)
        new, old = (answered(connection, questions, one, load(one)) for one in (candidate, active))
        found.append(_golden(new, old, len(questions), rollout))
    return found


def golden_questions(lake: Lake, path: str) -> list[Golden]:
    """Read golden questions: a YAML list of ``{question: ..., documents: [key, ...]}``.

    Args:
        lake: Where it is.
        path: Below the lake.

    Raises:
        BadData: It is absent, no YAML, or an entry lacks a field.
    """
    text = lake.read_text(path)
    if text is None:
        raise BadData(f"rollout.golden: {path} is not in the lake: put the file there, or leave the field out")
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadData(f"rollout.golden: {path} is no YAML: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise BadData(f"rollout.golden: {path} must hold a list of {{question, documents}}")
    return [_golden_of(path, number, entry) for number, entry in enumerate(entries, 1)]


def _golden_of(path: str, number: int, entry: Any) -> Golden:
    fields = entry if isinstance(entry, dict) else {}
    question, documents = fields.get("question"), fields.get("documents")
    if not isinstance(question, str) or not isinstance(documents, list) or not documents:
        raise BadData(
            f"rollout.golden: entry {number} of {path} needs `question` (text) and `documents` (list of keys)"
        )
    return Golden(question, frozenset(map(str, documents)))


def _coverage(connection: Connection, candidate: Generation, active: Generation, rollout: RolloutConfig) -> Gate:
    row = connection.execute(
        """
        select count(*), count(c.document_id) from document_state a
        left join document_state c on c.document_id = a.document_id and c.generation_id = %s
        where a.generation_id = %s
        """,
        [candidate.generation_id, active.generation_id],
    ).fetchone()
    assert row is not None
    held, share = int(row[1]), int(row[1]) / int(row[0]) if row[0] else 1.0
    sentence = f"holds {held} of {row[0]} documents ({share:.1%}), rollout.min_coverage is {rollout.min_coverage:.1%}"
    return Gate("coverage", share >= rollout.min_coverage, sentence)


def _tables(connection: Connection, candidate: Generation) -> Gate:
    verdict = check_tables(connection, candidate)
    return Gate("tables", verdict.passed, "; ".join(verdict.broken) or "tables are sound")


def _recall(connection: Connection, candidate: Generation, rollout: RolloutConfig) -> Gate:
    found = measured_recall(connection, candidate, QUERIES)
    if found is None:
        return Gate("recall", True, "holds no vector")
    sentence = (
        f"recall at 10 is {found.value:.3f} of {found.queries} queries, rollout.min_recall is {rollout.min_recall:g}"
    )
    return Gate("recall", found.value >= rollout.min_recall, sentence)


def _golden(new: float, old: float, questions: int, rollout: RolloutConfig) -> Gate:
    sentence = (
        f"{new:.1%} of {questions} golden questions find a document in the first {GOLDEN_K}, {old:.1%} with the "
        f"generation that answers; rollout.max_golden_drop is {rollout.max_golden_drop:.1%}"
    )
    return Gate("golden", new >= old - rollout.max_golden_drop, sentence)


def answered(connection: Connection, questions: list[Golden], generation: Generation, encoder: Encoder) -> float:
    """Return the share of questions of which a document is among the first ten passages of a generation."""
    prefix = str(generation.model_settings.get("query_prefix", ""))
    vectors = encoder.encode([prefix + one.question for one in questions])
    statement = sql.SQL(
        "select key from document join"
        " (select document_id from {} order by embedding <=> %s limit %s) nearest using (document_id)"
    ).format(generation.table)
    hits = 0
    for one, vector in zip(questions, vectors, strict=True):
        keys = {key for (key,) in connection.execute(statement, [vector, GOLDEN_K]).fetchall()}
        hits += bool(keys & one.documents)
    return hits / len(questions)
