"""Passages that answer a question: nearest vectors of the generation that is active now."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import sql

from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation, active_generation
from llmjobs.embeddings.model import Encoder, SentenceModel

Vector = npt.NDArray[np.float32]
"""(dimensions)"""


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
        score: Cosine similarity to the question, 0 to 1; higher is closer.
        generation_id: The generation that answered.
    """

    document: str
    heading: str
    text: str
    chunk: int
    start_char: int
    end_char: int
    score: float
    generation_id: int

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as JSON fields."""
        return asdict(self)


def search(
    connection: Connection,
    index: str,
    query: str,
    k: int = 5,
    *,
    within: str = "",
    encoder: Encoder | None = None,
) -> list[Hit]:
    """Return the `k` passages of an index that are closest to a question, the closest first.

    Args:
        connection: In autocommit mode.
        index: The index's name.
        query: Anything that people ask.
        k: Most passages to return.
        within: Only documents whose key begins so, for example ``runbooks/``.
        encoder: In place of the active generation's own model, which is loaded once a process.

    Raises:
        BadData: There is no such index, or nothing was published into it yet.
    """
    generation = active_generation(connection, index)
    if generation is None:
        raise BadData(f"The index {index!r} is empty: run the DAG refresh_embeddings_{index}")
    settings = generation.model_settings
    encoder = encoder or _encoder(json.dumps(settings, sort_keys=True))
    vector = encoder.encode([settings.get("query_prefix", "") + query])[0]
    return nearest(connection, generation, vector, k, within=within)


def nearest(connection: Connection, generation: Generation, vector: Vector, k: int, *, within: str = "") -> list[Hit]:
    """Return the `k` passages whose vectors are nearest to `vector`, (dimensions).

    The whole index is searched through HNSW. A part of it is searched exactly: HNSW looks for neighbours first and
    filters afterwards, which finds next to nothing behind a narrow filter.
    """
    candidates = _EXACT if within else _APPROXIMATE
    statement = sql.SQL(candidates + _DETAILS).format(vectors=generation.table)
    with connection.transaction():
        connection.execute(
            "select set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true)",
            [str(min(max(40, 4 * k), 1000))],
        )
        rows = connection.execute(
            statement, {"vector": vector, "k": k, "index_id": generation.index_id, "within": within}
        ).fetchall()
    return [Hit(*row) for row in rows]


_APPROXIMATE = """
    with candidate as materialized (
        select chunk_id, embedding <=> %(vector)s as distance from {vectors}
        order by embedding <=> %(vector)s limit %(k)s
    )
"""

# An order by an expression keeps the planner away from the HNSW index.
_EXACT = """
    with candidate as materialized (
        select chunk_id, embedding <=> %(vector)s as distance from {vectors}
        where document_id in (
            select document_id from document where index_id = %(index_id)s and starts_with(key, %(within)s)
        )
        order by (embedding <=> %(vector)s) + 0 limit %(k)s
    )
"""

# One statement, so one snapshot: vectors, chunks and documents are of the same moment.
_DETAILS = """
    select key, heading, content, ordinal, start_char, end_char, greatest(1 - distance, 0), generation_id
    from candidate join chunk using (chunk_id) join document using (document_id)
    order by distance, chunk_id
"""


@lru_cache(maxsize=2)
def _encoder(settings: str) -> Encoder:
    """Load the model that the settings (JSON) describe; two stay loaded, so a swap of generations is smooth."""
    return SentenceModel(EmbedderConfig.model_validate_json(settings)).load()
