"""What a refresh costs beside the model, and how fast the model is.

The first figures take a model that needs no time, so that what is left is our own work (beside peers:
`embedding_peers`); 1,000 documents of six paragraphs each. With ``NIGHTSHIFT_FULL=1`` an unchanged night of 100,000
documents is timed too, and what only means something on a quiet machine is judged. The encoder is measured against
sentence-transformers' default call on the same texts.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import psycopg

from llmjobs.contracts.embeddings import EmbedderConfig, RefreshConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.database.migrate import migrate
from llmjobs.embeddings import finalise
from llmjobs.embeddings.model import Encoder, SentenceModel, Vectors
from llmjobs.lake import Lake
from tests.benchmarks.figures import Figure, report
from tests.fixtures.postgres import new_server
from tests.jobs.embeddings.night import CountingModel, Night

DOCUMENTS, PARAGRAPHS, WORDS = 1_000, 6, 60
DIMENSIONS = 384
TRIES = 3
TEXTS = 192
LAYERS = 6
DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
FULL = os.environ.get("NIGHTSHIFT_FULL") == "1"
NIGHTS = 50


class InstantModel(CountingModel):
    """Gives random vectors at once."""

    def encode(self, texts: list[str]) -> Vectors:
        self.encoded += texts
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), DIMENSIONS)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def measure() -> list[Figure]:
    """Measure the refresh, then the encoder."""
    with server() as url, tempfile.TemporaryDirectory() as folder:
        return [*refresh_figures(url, Path(folder)), *encoder_figures()]


def refresh_figures(url: str, folder: Path) -> Iterator[Figure]:
    """Yield the figures of an initial load, of unchanged nights and of one in which 1% of the documents changed."""
    night = new_night(url, folder, "bench")
    chance = random.Random(7)
    night.write(**{f"doc{number}": document(chance) for number in range(DOCUMENTS)})
    with connect(url) as connection:
        yield from initial_figures(night, connection)
        yield from unchanged_figures(night, connection, DOCUMENTS)
        yield from growth_figures(night, connection)
        for number in range(DOCUMENTS // 100):
            path = night.folder / f"doc{number}.md"
            path.write_text(path.read_text().replace("## Part 3\n", "## Part 3\n\nEdited."))
        night.model.encoded.clear()
        night.refresh_on(connection)
        metric = "texts encoded when 1% of the documents got one edit each, beyond those needed"
        yield Figure("embeddings", metric, len(night.model.encoded) - DOCUMENTS // 100, "texts", target=0)
        yield from slope_figures(url, folder, connection)


def new_night(url: str, folder: Path, name: str) -> Night:
    """Return an empty index of a folder; languages are stated, as no peer tells them either."""
    config = RefreshConfig.model_validate(
        {
            "name": name,
            "source": {"url": name, "language": "en"},
            "chunks": {"max_tokens": 2 * WORDS},
            "shards": {"most": 1},
            "rehash_every": 1_000,
        }
    )
    model = InstantModel(max_tokens=512, dimensions=DIMENSIONS)
    return Night(Lake(f"file://{folder}"), folder / name, url, model, config)


def initial_figures(night: Night, connection: Connection) -> Iterator[Figure]:
    """Yield wall and CPU seconds of the first load, the HNSW build apart."""
    build = [0.0, 0.0]

    def timed_build(*arguments: Any) -> Any:
        kept: list[Any] = []
        build[:] = timed(lambda: kept.append(looked_after(*arguments)))
        return kept[0]

    looked_after = finalise._look_after
    with patch.object(finalise, "_look_after", autospec=True, side_effect=timed_build):
        seconds, cpu = timed(lambda: night.refresh_on(connection))
    chunks = DOCUMENTS * PARAGRAPHS
    assert len(night.model.encoded) == chunks
    metric = f"initial load of {chunks} chunks"
    # A fifth of what the fastest peer took on a quiet machine with two cores (cocoindex 1.0.26: 6.7 s, 7.7 CPU s).
    yield Figure("embeddings", metric, round(seconds - build[0], 2), "s", target=1.34 if FULL else None)
    yield Figure("embeddings", f"{metric}: client CPU", round(cpu - build[1], 2), "s", target=1.54 if FULL else None)
    yield Figure("embeddings", f"HNSW build of {chunks} chunks", round(build[0], 2), "s")


def unchanged_figures(night: Night, connection: Connection, documents: int) -> Iterator[Figure]:
    """Yield what a night costs in which nothing changed, listing included."""
    connection.execute("vacuum analyze")
    connection.execute("checkpoint")
    night.model.encoded.clear()
    before = scalar(connection, "select pg_current_wal_insert_lsn()")
    tries = [timed(lambda: night.refresh_on(connection)) for _ in range(TRIES)]
    wal = float(scalar(connection, "select pg_current_wal_insert_lsn() - %s::pg_lsn", before)) / TRIES
    metric = f"unchanged night over {documents} documents"
    yield Figure("embeddings", metric, round(statistics.median(one[0] for one in tries), 3), "s", target=1.0)
    yield Figure(
        "embeddings", f"{metric}: client CPU", round(statistics.median(one[1] for one in tries), 3), "s", target=1.0
    )
    yield Figure("embeddings", f"{metric}: WAL", round(wal / 1e6, 4), "MB", target=0.1)
    planned = night.plan(connection)
    yield Figure("embeddings", f"{metric}: mapped tasks", len(planned.shards), "tasks", target=0)
    night.finalise(connection, planned.run_id)
    yield Figure("embeddings", f"{metric}: texts encoded", len(night.model.encoded), "texts", target=0)


def growth_figures(night: Night, connection: Connection) -> Iterator[Figure]:
    """Yield by how much tables and indexes grow in nights that change nothing."""
    sizes = """
        select sum(pg_relation_size(oid)) from pg_class where relkind in ('r', 'i')
            and (relname ~ '^(chunk|document|embedding_cache)' or relnamespace = 'pg_catalog'::regnamespace)
    """
    before = scalar(connection, sizes)
    for _ in range(NIGHTS):
        night.refresh_on(connection)
    metric = f"growth of serving tables, their indexes and the catalogue in {NIGHTS} unchanged nights"
    yield Figure("embeddings", metric, int(scalar(connection, sizes) - before), "bytes", target=0)
    metric = "largest record of a run"
    size = scalar(connection, "select max(pg_column_size(r.*)) from refresh_run r")
    yield Figure("embeddings", metric, int(size), "bytes", target=1024)


def slope_figures(url: str, folder: Path, connection: Connection) -> Iterator[Figure]:
    """Yield what one more document costs an unchanged night, from 1,000 to 10,000 files of one folder."""
    costs = {}
    for documents in (1_000, 10_000, *([100_000] if FULL else [])):
        night = new_night(url, folder, f"slope{documents}")
        night.write(**{f"doc{number}": f"Document {number} says {number % 97}." for number in range(documents)})
        night.refresh_on(connection)
        found = list(unchanged_figures(night, connection, documents))
        costs[documents] = found[1].value
        yield from found
    slope = (costs[10_000] - costs[1_000]) / 9_000 * 1e6
    yield Figure("embeddings", "unchanged night: client CPU of one more document", round(slope, 2), "us")


def encoder_figures() -> Iterator[Figure]:
    """Yield the throughput of our encoder against sentence-transformers, on one core or as many as torch takes."""
    from sentence_transformers import SentenceTransformer

    chance = random.Random(11)
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "embeddings.md").read_text().split()
    texts = [" ".join(chance.choices(guide, k=chance.randint(10, 150))) for _ in range(TEXTS)]
    library = SentenceTransformer(str(SentenceModel(EmbedderConfig()).path), device="cpu")
    peer = f"sentence-transformers {version('sentence-transformers')}, default call"
    encoders = {dtype: SentenceModel(EmbedderConfig(dtype=dtype)).load() for dtype in DTYPES}
    calls: dict[str, Callable[[], Any]] = {
        peer: lambda: library.encode(texts, normalize_embeddings=True, show_progress_bar=False),
        **{dtype: partial(encoder.encode, texts) for dtype, encoder in encoders.items()},
    }
    vectors, rates = encoded(calls)
    reference, theirs = vectors[peer], rates[peer]
    for dtype, encoder in encoders.items():
        ours = rates[dtype]
        yield Figure(
            "embeddings",
            f"MiniLM, {dtype}",
            round(ours, 1),
            "texts/CPU s",
            peer,
            round(ours / theirs, 2),
            2.5 if dtype == "bfloat16" else 1.0,
            "higher",
        )
        yield from pass_figures(encoder, texts, dtype, ours)
        cosine = float((vectors[dtype] * reference).sum(1).min())
        yield Figure(
            "embeddings", f"MiniLM, {dtype}: least cosine to {peer}", round(cosine, 6), "", None, None, 0.9999, "higher"
        )


def pass_figures(encoder: Encoder, texts: list[str], dtype: str, rate: float) -> Iterator[Figure]:
    """Yield the time outside forward passes, and the share of the machine's peak that the layers' products reach."""
    import torch

    before = encoder.usage
    wall, _ = timed(lambda: encoder.encode(texts))
    outside = 1 - (encoder.usage.forward_seconds - before.forward_seconds) / wall
    yield Figure("embeddings", f"MiniLM, {dtype}: time outside forward passes", round(outside, 4), "", target=0.1)
    square = torch.randn(1024, 1024).to(getattr(torch, dtype))
    peak = 2 * 1024**3 / min(timed(lambda: square @ square)[1] for _ in range(30))
    tokens = (encoder.usage.tokens - before.tokens) / len(texts)
    operations = tokens * LAYERS * 2 * (4 * DIMENSIONS**2 + 2 * DIMENSIONS * 4 * DIMENSIONS)
    yield Figure(
        "embeddings", f"MiniLM, {dtype}: share of the measured matrix peak", round(rate * operations / peak, 2), ""
    )


def encoded(calls: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return each call's vectors and its texts a CPU second.

    A first call of each warms up; then they take turns, so that a machine which grows busy slows down all of them.
    """
    vectors = {name: call() for name, call in calls.items()}
    rounds = [{name: timed(call)[1] for name, call in calls.items()} for _ in range(TRIES)]
    return vectors, {name: TEXTS / statistics.median(one[name] for one in rounds) for name in calls}


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
