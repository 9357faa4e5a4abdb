"""What a refresh costs beside the model, and how fast the model is.

The first figures take a model that needs no time, so that what is left is our own work; 1,000 documents of six
paragraphs each. The encoder is measured against sentence-transformers' default call on the same texts.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from llmjobs.contracts.embeddings import EmbedderConfig, RefreshConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.database.migrate import migrate
from llmjobs.embeddings.model import SentenceModel, Vectors
from llmjobs.lake import Lake
from tests.benchmarks.figures import Figure, Skipped, report
from tests.fixtures.postgres import new_server
from tests.jobs.embeddings.night import CountingModel, Night

DOCUMENTS, PARAGRAPHS, WORDS = 1_000, 6, 60
DIMENSIONS = 384
TRIES = 3
TEXTS = 192


class InstantModel(CountingModel):
    """Gives random vectors at once."""

    def encode(self, texts: list[str]) -> Vectors:
        self.encoded += texts
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), DIMENSIONS)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def measure() -> list[Figure | Skipped]:
    """Measure the refresh, then the encoder."""
    with server() as url, tempfile.TemporaryDirectory() as folder:
        return [*refresh_figures(url, Path(folder)), *encoder_figures()]


def refresh_figures(url: str, folder: Path) -> Iterator[Figure | Skipped]:
    """Yield the figures of an initial load, an unchanged night and one in which 1% of the documents changed."""
    config = RefreshConfig.model_validate(
        {"name": "bench", "source": {"url": "docs"}, "chunks": {"max_tokens": 2 * WORDS}, "shards": {"most": 1}}
    )
    model = InstantModel(max_tokens=512, dimensions=DIMENSIONS)
    night = Night(Lake(f"file://{folder}"), folder / "docs", url, model, config)
    chance = random.Random(7)
    night.write(**{f"doc{number}": document(chance) for number in range(DOCUMENTS)})
    with connect(url) as connection:
        seconds, _ = timed(lambda: night.refresh_on(connection))
        chunks = DOCUMENTS * PARAGRAPHS
        assert len(model.encoded) == chunks
        yield Figure("embeddings", f"initial load of {chunks} chunks, HNSW build included", round(seconds, 2), "s")
        yield from unchanged_figures(night, connection)
        for number in range(DOCUMENTS // 100):
            path = night.folder / f"doc{number}.md"
            path.write_text(path.read_text().replace("## Part 3\n", "## Part 3\n\nEdited."))
        model.encoded.clear()
        night.refresh_on(connection)
        metric = "texts encoded when 1% of the documents got one edit each, beyond those needed"
        yield Figure("embeddings", metric, len(model.encoded) - DOCUMENTS // 100, "texts", target=0)
    yield Skipped(
        "embeddings", "initial load", "the peers' environments come with the embeddings' own issue", "cocoindex"
    )


def unchanged_figures(night: Night, connection: Connection) -> Iterator[Figure]:
    """Yield what a night costs in which nothing changed."""
    connection.execute("vacuum analyze")
    connection.execute("checkpoint")
    before = scalar(connection, "select pg_current_wal_insert_lsn()")
    tries = [timed(lambda: night.refresh_on(connection))[1] for _ in range(TRIES)]
    wal = float(scalar(connection, "select pg_current_wal_insert_lsn() - %s::pg_lsn", before)) / TRIES
    metric = f"unchanged night over {DOCUMENTS} documents"
    yield Figure("embeddings", f"{metric}: client CPU", round(statistics.median(tries), 3), "s", target=1.0)
    yield Figure("embeddings", f"{metric}: WAL", round(wal / 1e6, 4), "MB", target=0.1)


def encoder_figures() -> Iterator[Figure]:
    """Yield the throughput of our encoder against sentence-transformers, on one core or as many as torch takes."""
    from sentence_transformers import SentenceTransformer

    chance = random.Random(11)
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "embeddings.md").read_text().split()
    texts = [" ".join(chance.choices(guide, k=chance.randint(10, 150))) for _ in range(TEXTS)]
    library = SentenceTransformer(str(SentenceModel(EmbedderConfig()).path), device="cpu")
    reference, theirs = encoded(lambda: library.encode(texts, normalize_embeddings=True, show_progress_bar=False))
    peer = f"sentence-transformers {version('sentence-transformers')}, default call"
    for dtype in ("float32", "bfloat16"):
        encoder = SentenceModel(EmbedderConfig.model_validate({"dtype": dtype})).load()
        vectors, ours = encoded(lambda encoder=encoder: encoder.encode(texts))  # type: ignore[misc]
        yield Figure(
            "embeddings",
            f"MiniLM, {dtype}",
            round(ours, 1),
            "texts/CPU s",
            peer,
            round(ours / theirs, 2),
            1.0,
            "higher",
        )
        cosine = float((vectors * reference).sum(1).min())
        yield Figure(
            "embeddings", f"MiniLM, {dtype}: least cosine to {peer}", round(cosine, 6), "", None, None, 0.9995, "higher"
        )


def encoded(encode: Callable[[], Any]) -> tuple[Any, float]:
    """Return the vectors and the texts a CPU second; a first call warms up."""
    encode()
    tries = [timed(encode)[1] for _ in range(TRIES)]
    return encode(), TEXTS / statistics.median(tries)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def document(chance: random.Random) -> str:
    """Return a Markdown document of `PARAGRAPHS` sections."""
    syllables = ("ba", "do", "ri", "lu", "ne", "ko", "ta", "mi")
    sections = []
    for part in range(PARAGRAPHS):
        words = ("".join(chance.choices(syllables, k=3)) for _ in range(WORDS))
        sections.append(f"## Part {part}\n\n{' '.join(words)}.\n")
    return "\n".join(sections)


@contextmanager
def server() -> Iterator[str]:
    """Start a PostgreSQL of its own, as the stack runs it, and yield the URL of a migrated database."""
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder,
        new_server(Path(folder), durable=True) as url,
    ):
        with connect(url, vectors=False) as connection:
            migrate(connection)
        yield url


def scalar(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    """Return the one value of a query's one row."""
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


if __name__ == "__main__":
    raise SystemExit(report(measure))
