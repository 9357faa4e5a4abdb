"""Facts of a refresh with something in every section, of documents that nobody has written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult
from llmjobs.embeddings.changes import Change, Operation
from llmjobs.embeddings.report.facts import Facts, Failing, GenerationLine, Night, SourceLine

Say = Callable[[str], str]
"""What is written wherever a name or a sentence of somebody else stands; the tests plant things here."""

NOW = datetime(2026, 11, 24, 1, 37, tzinfo=UTC)

GIB = 1024**3


def example(say: Say) -> Facts:
    """Return facts in which everything happens at once."""
    result = measured()
    return Facts(
        config=MeasureConfig.model_validate({"name": "guide", "source": {"url": "documents/guide"}}),
        result=result,
        problems=["recall at 10 is 0.871 (50 queries), watch.min_recall is 0.9: raise storage.m"],
        started_at=NOW - timedelta(minutes=7),
        finished_at=NOW,
        produced_by={"DAG": "refresh_embeddings_guide", "run": "scheduled__2026-11-24T01:30:00", "code": "0a1b2c3"},
        swapped=False,
        changes=[change(kind, number, say) for kind in ("add", "change", "delete", "move") for number in range(3)],
        failing=[failing(number, say) for number in range(3)],
        nights=[night(number) for number in range(1, 31)],
        generations=[generation(1, "active"), generation(2, "building")],
        sources=[SourceLine(say("handbook"), 81_204, "", 3), SourceLine(say("tickets"), 411, "2026-11-23 23:00:00", 0)],
    )


def measured(**more: Any) -> MeasureResult:
    """Return the result of a night in which much happened."""
    values: dict[str, Any] = {
        "name": "guide", "version": "5e4320a2e979" * 5, "changed": True, "run_id": 30, "generation_id": 1,
        "active": True, "documents": 81_615, "documents_added": 415, "documents_changed": 2_312,
        "documents_deleted": 96, "documents_moved": 12, "documents_unchanged": 78_885, "documents_refused": 2,
        "documents_deferred": 0, "documents_waiting": 2, "documents_quarantined": 201, "refused": [],
        "chunks": 512_044, "chunks_added": 2_604, "chunks_changed": 4_811, "chunks_deleted": 702,
        "chunks_unchanged": 504_629, "texts_embedded": 6_930, "texts_cached": 485, "tokens_embedded": 1_204_551,
        "cost": 0.0241, "vector_index": "kept", "embedder": "MiniLM", "dimensions": 384, "next_generation_id": 2,
        "next_documents": 40_000, "held_back": ["holds 40000 of 81615 documents (49.0%)"], "recall": 0.871,
        "recall_queries": 50, "broken": [], "lag_hours": 71.0, "cache_hit_share": 0.065,
        "vector_bytes": GIB, "index_bytes": GIB, "chunk_bytes": 2 * GIB, "cache_bytes": GIB, "growth_bytes": 8_192,
    }  # fmt: skip
    return MeasureResult.model_validate(values | more)


def change(operation: Operation, number: int, say: Say) -> Change:
    """Return a changed document."""
    old = ("handbook", say(f"old/{number}.md")) if operation == "move" else ("", "")
    return Change(operation, "tickets", say(f"{operation}/{number}.md"), *old, number, 0, 2)


def failing(number: int, say: Say) -> Failing:
    """Return a document that fails; the first one is in quarantine."""
    return Failing(
        source="handbook",
        key=say(f"broken/{number}.pdf"),
        error_class="Unreadable",
        error=say("it is no PDF that can be read (PdfStreamError): print it to a new PDF"),
        attempts=3 - number,
        first_failed_at=NOW - timedelta(hours=71 - number),
        next_try_at=NOW + timedelta(hours=12) if number else None,
        served=bool(number),
    )


def night(run_id: int) -> Night:
    """Return a run; every third one changed nothing."""
    quiet = run_id % 3 == 0 and run_id < 30
    counts = {"documents_changed": run_id, "texts_embedded": 40 * run_id, "texts_cached": 500, "tokens_embedded": 9_000}
    figures = {"vector_bytes": GIB, "index_bytes": GIB + run_id * 1_000_000, "recall": 0.98}
    return Night(
        run_id, NOW - timedelta(days=30 - run_id), 9.0 + run_id, {} if quiet else counts, None if quiet else figures
    )


def generation(number: int, state: str) -> GenerationLine:
    """Return a generation."""
    gates = [{"name": "coverage", "passed": False, "sentence": "holds 40000 of 81615 documents (49.0%)"}]
    return GenerationLine(
        generation_id=number,
        state=state,
        model={"name": "sentence-transformers/all-MiniLM-L6-v2", "dtype": "bfloat16"},
        dimensions=384,
        chunker={"max_tokens": 200},
        storage={"type": "halfvec", "index": "hnsw"},
        documents=81_615 // number,
        created_at=NOW - timedelta(days=90),
        activated_at=NOW - timedelta(days=89) if state == "active" else None,
        gates=gates if state == "building" else None,
        held=False,
    )
