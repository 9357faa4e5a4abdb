"""What a search gives: passages with their sources, and the way they were found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

Mode = Literal["hybrid", "vector", "text"]

Path = Literal["exact", "hnsw", "hnsw, then exact", "words"]


@dataclass(frozen=True)
class Hit:
    """One passage.

    Attributes:
        document: Its key in the source, such as ``operating.md``.
        heading: Path of headings that it stands under.
        text: The passage as it stands in the document.
        chunk: Its number in the document, from 0.
        start_char: Where it begins in the document's text.
        end_char: Where it ends, exclusive.
        score: What the hits are ordered by, higher is better. ``vector``: cosine similarity, 0 to 1; ``text``: BM25,
            from 0 without a bound; ``hybrid``: reciprocal rank fusion, 1 for the first of both arms; the reranker's own
            where one was asked.
        generation_id: The generation that answered.
        vector_score: Cosine similarity to the question, 0 to 1; None where only words were compared.
        text_score: BM25; None where the passage is not among the best of the words' arm.
        fused_score: The score before a reranker; equal to `score` without one.
        source: Name of the document's source in the index.
        title: Of the document; "" where it has none.
        metadata: Of the document: what filters compare.
        tenant: Who may see it.
        language: ISO 639 code; "" where it is not known.
        refreshed_at: When the index was last brought up to date; None where no refresh of it was ever finished.
        watermark: How far the document's source had come then; "" of sources that are always listed whole.
    """

    document: str
    heading: str
    text: str
    chunk: int
    start_char: int
    end_char: int
    score: float
    generation_id: int
    vector_score: float | None = None
    text_score: float | None = None
    fused_score: float = 0.0
    source: str = ""
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    tenant: str = ""
    language: str = ""
    refreshed_at: datetime | None = None
    watermark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as JSON fields; times in ISO 8601."""
        values = asdict(self)
        values["refreshed_at"] = self.refreshed_at.isoformat() if self.refreshed_at else None
        return values


@dataclass(frozen=True)
class Plan:
    """How a question was answered.

    Attributes:
        path: ``exact``: every vector behind tenants and filter was compared; ``hnsw``: the vector index was walked;
            ``hnsw, then exact``: the walk found too few behind the filter; ``words``: no vector was asked for.
        rows: Vectors behind tenants and filter, counted up to a limit; None where there are more.
        documents: Documents behind the filter, counted likewise; None without a filter, too.
        depth: Passages that each arm handed over to be fused or reranked.
        ef_search: pgvector's candidate list while the index was walked; None where it was not.
        words: Words of the question as the index holds them -> chunks of the tenants that hold them.
        seconds: Wall time by step: ``encode``, ``scope``, ``find``, ``rerank``.
    """

    index: str
    generation_id: int
    mode: Mode
    tenants: tuple[str, ...]
    path: Path
    rows: int | None
    documents: int | None
    depth: int
    ef_search: int | None
    words: dict[str, int]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON fields."""
        return asdict(self)
