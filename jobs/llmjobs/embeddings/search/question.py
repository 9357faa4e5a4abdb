"""A question to an index, from its text to passages with their sources."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg

from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation, active_generation
from llmjobs.embeddings.model import Encoder, model_of
from llmjobs.embeddings.search.arms import Question, Scope, Vector, find, measured
from llmjobs.embeddings.search.filters import Condition, condition_of
from llmjobs.embeddings.search.hits import Hit, Mode, Path, Plan
from llmjobs.embeddings.search.reader import checked_tenants, reading
from llmjobs.embeddings.search.rerank import Reranker

MOST_HITS = 1000
"""pgvector's candidate list holds no more."""

LEAST_DEPTH = 100
"""Passages that each arm hands over to be fused or reranked, at least."""

LEAST_EF_SEARCH = 100


def search(
    connection: Connection,
    index: str,
    query: str,
    k: int = 5,
    *,
    tenants: Sequence[str],
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as users of Chroma and Pinecone know it
    mode: Mode = "hybrid",
    within: str = "",
    source: str = "",
    language: str = "",
    rerank: Reranker | None = None,
    encoder: Encoder | None = None,
) -> list[Hit]:
    """Return the `k` passages of an index that answer a question best, the best first.

    Args:
        connection: In autocommit mode, outside a transaction.
        index: The index's name.
        query: Anything that people ask.
        k: Most passages to return.
        tenants: Whose documents may be seen, enforced by row-level security; none of them: nothing is found.
        filter: On the documents' metadata, see `llmjobs.embeddings.search.filters.compiled`.
        mode: ``vector``: by meaning; ``text``: by words (BM25); ``hybrid``: both, fused by reciprocal rank.
        within: Only documents whose key begins so, for example ``runbooks/``.
        source: Only documents of this source of the index.
        language: Only documents in this language (ISO 639 code).
        rerank: Gives the best passages their final order.
        encoder: In place of the active generation's own model, which is loaded once a process.

    Raises:
        BadData: There is no such index, or nothing was published into it yet.
        BadConfig: An argument cannot be obeyed, or the database role may not search.
        JobError: The embedder or the reranker could not be asked.
    """
    return search_with_plan(
        connection,
        index,
        query,
        k,
        tenants=tenants,
        filter=filter,
        mode=mode,
        within=within,
        source=source,
        language=language,
        rerank=rerank,
        encoder=encoder,
    )[0]


def search_with_plan(
    connection: Connection,
    index: str,
    query: str,
    k: int = 5,
    *,
    tenants: Sequence[str],
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as in `search`
    mode: Mode = "hybrid",
    within: str = "",
    source: str = "",
    language: str = "",
    rerank: Reranker | None = None,
    encoder: Encoder | None = None,
) -> tuple[list[Hit], Plan]:
    """Return what `search` returns, and how it was found."""
    if not 1 <= k <= MOST_HITS:
        raise BadConfig(f"k: 1 to {MOST_HITS} passages can be asked for, got {k}")
    if mode not in ("hybrid", "vector", "text"):
        raise BadConfig(f"mode: hybrid, vector or text, got {mode!r}")
    asked = _Asked(
        index,
        query,
        k,
        checked_tenants(tenants),
        mode,
        condition_of(filter, within=within, source=source, language=language),
        rerank,
        encoder,
    )
    try:
        return _answered(connection, asked)
    except psycopg.errors.UndefinedTable:
        # The generation was replaced, and dropped, after it had been looked up: the one that answers now is asked.
        return _answered(connection, asked)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The arguments of a search, looked at."""

    index: str
    query: str
    k: int
    tenants: tuple[str, ...]
    mode: Mode
    condition: Condition | None
    rerank: Reranker | None
    encoder: Encoder | None


def _answered(connection: Connection, asked: _Asked) -> tuple[list[Hit], Plan]:
    generation = active_generation(connection, asked.index)
    if generation is None:
        raise BadData(f"The index {asked.index!r} is empty: run the DAG refresh_embeddings_{asked.index}")
    clock = _Clock()
    vector = None if asked.mode == "text" else encoded(generation, asked.query, asked.encoder)
    clock.note("encode")
    question = Question(asked.query, vector, asked.mode, _kept(asked), _depth(asked))
    ef_search = min(max(LEAST_EF_SEARCH, question.depth), MOST_HITS)
    with reading(connection, asked.tenants, hnsw_ef_search=str(ef_search), hnsw_iterative_scan="relaxed_order"):
        scope = measured(connection, generation, asked.condition)
        clock.note("scope")
        hits, path = _found(connection, generation, question, scope)
        hits = _dated(connection, generation, hits)
        words = _words(connection, generation, asked)
    clock.note("find")
    if asked.rerank and hits:
        hits = reranked(asked.rerank, asked.query, hits)[: asked.k]
        clock.note("rerank")
    documents = None if scope.document_ids is None else len(scope.document_ids)
    walked = ef_search if path.startswith("hnsw") else None
    plan = Plan(
        asked.index, generation.generation_id, asked.mode, asked.tenants, path, scope.rows, documents, question.depth,
        walked, words, clock.seconds,
    )  # fmt: skip
    return hits, plan


def encoded(generation: Generation, query: str, encoder: Encoder | None = None) -> Vector:
    """Return a question's vector, (dimensions), by the generation's own model and query prefix."""
    settings = generation.model_settings
    encoder = encoder or _encoder(json.dumps(settings, sort_keys=True))
    vector: Vector = encoder.encode([settings.get("query_prefix", "") + query])[0]
    return vector


@lru_cache(maxsize=2)
def _encoder(settings: str) -> Encoder:
    """Load the model that the settings (JSON) describe; two stay loaded, so a swap of generations is smooth."""
    return model_of(EmbedderConfig.model_validate_json(settings)).load("query")


def reranked(reranker: Reranker, query: str, hits: list[Hit]) -> list[Hit]:
    """Return the hits in the reranker's order; equal scores keep the order that they had."""
    passages = [f"{hit.heading}\n\n{hit.text}" if hit.heading else hit.text for hit in hits]
    scores = reranker.scores(query, passages)
    scored = [dataclasses.replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: hit.score, reverse=True)


def _kept(asked: _Asked) -> int:
    """Return how many passages leave the database: a reranker looks at more than it returns."""
    return _depth(asked) if asked.rerank else asked.k


def _depth(asked: _Asked) -> int:
    return min(max(LEAST_DEPTH, 4 * asked.k), MOST_HITS)


def _found(connection: Connection, generation: Generation, question: Question, scope: Scope) -> tuple[list[Hit], Path]:
    """Find passages the cheapest way that misses none to speak of."""
    if question.mode == "text":
        return find(connection, generation, question, scope, exact=True)[0], "words"
    if scope.narrow or not generation.vectors_at_build:
        return find(connection, generation, question, scope, exact=True)[0], "exact"
    hits, near = find(connection, generation, question, scope, exact=False)
    if near >= question.depth:
        return hits, "hnsw"
    # The walk through the index ended (hnsw.max_scan_tuples) before it met enough of what the filter leaves.
    return find(connection, generation, question, scope, exact=True)[0], "hnsw, then exact"


def _dated(connection: Connection, generation: Generation, hits: list[Hit]) -> list[Hit]:
    """Say of each hit how fresh it is."""
    row = connection.execute("select * from freshness(%s)", [generation.index_id]).fetchone()
    refreshed_at, watermarks = row or (None, {})
    return [
        dataclasses.replace(hit, refreshed_at=refreshed_at, watermark=watermarks.get(hit.source, "")) for hit in hits
    ]


def _words(connection: Connection, generation: Generation, asked: _Asked) -> dict[str, int]:
    if asked.mode == "vector":
        return {}
    rows = connection.execute(
        "select word, chunks from words_of(%s, %s)", [generation.generation_id, asked.query.replace("\0", " ")]
    ).fetchall()
    return dict(rows)


class _Clock:
    """Wall time by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 6)
        self._last = now
