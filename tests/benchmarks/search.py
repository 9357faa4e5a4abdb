"""How good and how fast search is.

    python -m tests.benchmarks.search                    # 5,000 vectors without meaning: the short form
    NIGHTSHIFT_FULL=1 python -m tests.benchmarks.search  # Cranfield and 100,000 sentences: minutes of encoding

The full form reads ``../shared/data``. What it encodes is kept in ``$NIGHTSHIFT_BENCH_CACHE``, if that names a folder,
so that a second run is cheap. Nothing was tuned on the questions: k1 1.2, b 0.75 and RRF's 60 are the literature's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import sql

from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.chunker import Chunker
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.model import SentenceModel, Usage
from llmjobs.embeddings.search import arms, search_with_plan
from llmjobs.embeddings.search.exchange import Header, Maker, Row, load
from tests.benchmarks.embeddings import server
from tests.benchmarks.figures import Figure, Skipped, report

DATA = Path(__file__).parents[3] / "shared" / "data"
FULL = os.environ.get("NIGHTSHIFT_FULL") == "1"
TENANTS = ("public",)
VECTORS, QUERIES = (100_000, 200) if FULL else (5_000, 40)
SHARES = (0.001, 0.01, 0.05, 0.2)

Vectors = npt.NDArray[np.float32]


def measure() -> Iterator[Figure | Skipped]:
    """Measure on a server of its own."""
    with server() as url, connect(url) as connection:
        if not FULL or not DATA.is_dir():
            why = "the data folder is absent" if FULL else "NIGHTSHIFT_FULL=1 measures it: minutes of encoding"
            yield Skipped("search", "nDCG@10 on Cranfield", why)
        else:
            yield from cranfield_figures(connection)
        yield from filter_figures(connection)


# --- Cranfield


def cranfield_figures(connection: Connection) -> Iterator[Figure]:
    """Yield nDCG@10 of each mode, and what hybrid gains, with paired bootstrap intervals."""
    documents, questions = records("cran.all.1400"), records("cran.qry")
    texts = [document.split("\n.W\n", 1)[-1].strip() for document in documents]
    relevant = relevance()
    model = SentenceModel(EmbedderConfig())
    chunker = Chunker(model.tokens, max_tokens=200)
    chunks = [chunker.chunks(text, form="text") for text in texts]
    asked = [" ".join(question.replace(".W", "", 1).split()) for question in questions]
    known = encoded([chunk.embedded_text for one in chunks for chunk in one] + asked, "cranfield", "float32")
    rows = (
        row(str(number), text, chunk.content, known[chunk.embedded_text], ordinal=ordinal, tokens=chunk.tokens)
        for number, (text, one) in enumerate(zip(texts, chunks, strict=True), 1)
        for ordinal, chunk in enumerate(one)
    )
    put(connection, "cranfield", rows, 384)
    scores: dict[str, npt.NDArray[np.float64]] = {}
    for mode in ("vector", "text", "hybrid"):
        found = (ranked(connection, question, mode, known) for question in asked)
        scores[mode] = np.array([ndcg(keys, relevant[at]) for at, keys in enumerate(found)])
        yield Figure("search", f"Cranfield, {mode}: nDCG@10", round(float(scores[mode].mean()), 4), "")
    better = max(("vector", "text"), key=lambda mode: scores[mode].mean())
    gain = scores["hybrid"] - scores[better]
    low, high = interval(gain)
    name = f"Cranfield, hybrid above {better}, the better arm (95% {low:.4f} to {high:.4f})"
    yield Figure("search", name, round(float(gain.mean()), 4), "nDCG@10", target=0.03, better="higher")
    yield Figure("search", "Cranfield, its gain: lower end", round(low, 4), "nDCG@10", target=1e-9, better="higher")


def records(name: str) -> list[str]:
    """Return the records of a Cranfield file, in order: queries are known by their position."""
    return re.split(r"^\.I .*\n", (DATA / "retrieval" / name).read_text(), flags=re.MULTILINE)[1:]


def relevance() -> dict[int, set[str]]:
    """Return position of the query, from 0 -> keys of documents; every judged row counts, its code is no gain."""
    found: dict[int, set[str]] = {}
    for line in (DATA / "retrieval" / "cranqrel").read_text().splitlines():
        if line.strip():
            query, document, *_ = line.split()
            found.setdefault(int(query) - 1, set()).add(document)
    return found


def ranked(connection: Connection, question: str, mode: Any, known: dict[str, Vectors]) -> list[str]:
    """Return the documents found, each at its best chunk."""
    hits, _ = search_with_plan(
        connection, "cranfield", question, 50, tenants=TENANTS, mode=mode, encoder=Known(known[question])
    )
    return list(dict.fromkeys(hit.document for hit in hits))


def ndcg(keys: list[str], good: set[str], k: int = 10) -> float:
    """Return nDCG at `k` with gains of 0 and 1."""
    gained = sum(1 / np.log2(at + 2) for at, key in enumerate(keys[:k]) if key in good)
    return float(gained / sum(1 / np.log2(at + 2) for at in range(min(k, len(good)))))


def interval(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% percentile interval of a mean over paired differences, 10,000 resamples."""
    draws = np.random.default_rng(0).integers(0, len(differences), (10_000, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


# --- filters


def filter_figures(connection: Connection) -> Iterator[Figure]:
    """Yield recall@10 and latency by selectivity: filters that follow a question, avoid it, and at random."""
    vectors, what = corpus()
    queries, held = vectors[:QUERIES], vectors[QUERIES:]
    # The k-th share of the corpus along one direction of meaning: documents of one topic are in one share.
    axis = held @ queries[0]
    order = np.argsort(np.argsort(-axis)) / len(held)
    chance = np.random.default_rng(3).random(len(held))
    rows = (
        row(str(at), str(at), f"text {at}", vector, metadata=marks(order[at], chance[at]))
        for at, vector in enumerate(held)
    )
    generation = put(connection, "corpus", rows, held.shape[1])
    build(connection, generation)
    near = list(np.argsort(-(queries @ queries[0])))
    for share in SHARES:
        for kind, asked in (("random", range(QUERIES)), ("near", near[: QUERIES // 2]), ("far", near[: QUERIES // 2])):
            mask = {"random": chance < share, "near": order < share, "far": order >= 1 - share}[kind]
            yield from filtered(
                connection, what, queries[list(asked)], held, mask, {f"{kind}_{share:g}": True}, kind, share
            )
    yield from unfiltered(connection, what, queries, held)


def marks(order: float, chance: float) -> dict[str, bool]:
    """Return the shares that a document is in, by kind of filter."""
    found = {f"near_{share:g}": order < share for share in SHARES} | {
        f"far_{share:g}": order >= 1 - share for share in SHARES
    }
    found |= {f"random_{share:g}": chance < share for share in SHARES}
    return {name: True for name, inside in found.items() if inside}


def filtered(  # noqa: PLR0917 - one filter, all that is known of it
    connection: Connection,
    what: str,
    queries: Vectors,
    held: Vectors,
    mask: Any,
    wanted: dict[str, Any],
    kind: str,
    share: float,
) -> Iterator[Figure]:
    """Yield recall and, at 1%, the 95th percentile of the time."""
    recall, seconds, paths = asked(connection, queries, held, mask, wanted)
    name = f"{what}, {kind} filter of {share:.1%} ({paths})"
    yield Figure("search", f"{name}: recall@10", round(recall, 4), "", target=0.99, better="higher")
    p95 = float(np.quantile(seconds, 0.95)) * 1000
    yield Figure("search", f"{name}: p95", round(p95, 2), "ms", target=10.0 if share == 0.01 else None)


def unfiltered(connection: Connection, what: str, queries: Vectors, held: Vectors) -> Iterator[Figure]:
    """Yield recall, and the time as a part of an exact scan's."""
    mask = np.ones(len(held), dtype=bool)
    limit, arms.EXACT_ROWS = arms.EXACT_ROWS, 1_000
    recall, seconds, paths = asked(connection, queries, held, mask, None)
    arms.EXACT_ROWS = 10**9
    _, exact, _ = asked(connection, queries[:40], held, mask, None)
    arms.EXACT_ROWS = limit
    name = f"{what}, no filter ({paths})"
    yield Figure("search", f"{name}: recall@10", round(recall, 4), "", target=0.98, better="higher")
    ours, theirs = statistics.median(seconds), statistics.median(exact)
    target = 0.2 if FULL else None
    yield Figure(
        "search", f"{name}: median", round(ours * 1000, 2), "ms", "exact scan", round(ours / theirs, 3), target
    )


def asked(
    connection: Connection, queries: Vectors, held: Vectors, mask: Any, wanted: dict[str, Any] | None
) -> tuple[float, list[float], str]:
    """Return mean recall@10, seconds of each search, and the paths that were taken."""
    inside = np.flatnonzero(mask)
    recalls, seconds, paths = [], [], set()
    for vector in queries:
        closeness = held[inside] @ vector
        best = np.sort(closeness)[::-1][:10]
        started = time.perf_counter()
        hits, plan = search_with_plan(
            connection, "corpus", "", 10, tenants=TENANTS, filter=wanted, mode="vector", encoder=Known(vector)
        )
        seconds.append(time.perf_counter() - started)
        paths.add(plan.path)
        # A text just as near as the tenth is as good as it.
        good = sum(float(held[int(hit.document)] @ vector) >= best[-1] - 1e-6 for hit in hits)
        recalls.append(good / len(best))
    return statistics.fmean(recalls), seconds, " and ".join(sorted(paths))


def corpus() -> tuple[Vectors, str]:
    """Return `VECTORS` + `QUERIES` unit vectors, and what they are."""
    if FULL and DATA.is_dir():
        texts = sentences()[: VECTORS + QUERIES]
        vectors = np.stack(list(encoded(texts, "sentences", "bfloat16").values()))
        return vectors, f"{len(vectors) - QUERIES} sentences, MiniLM bfloat16"
    chance = np.random.default_rng(5)
    topics = chance.standard_normal((50, 64))
    drawn = topics[chance.integers(0, 50, VECTORS + QUERIES)] + chance.standard_normal((VECTORS + QUERIES, 64))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32), f"{VECTORS} made-up vectors"


def sentences() -> list[str]:
    """Return the distinct sentences of the data folder, in an order that says nothing of their files."""
    found: set[str] = set()
    for path in sorted([*DATA.glob("instructions/*"), *DATA.glob("eval/*"), *DATA.glob("retrieval/cran.all*")]):
        for text in strings(path):
            parts = re.split(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+", text)
            found.update(part.strip()[:600] for part in parts if len(part.strip()) >= 20)
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())


def strings(path: Path) -> Iterator[str]:
    """Yield every text of a file; one that is no JSON, though its name says so, has none."""
    text = path.read_text()
    try:
        if path.suffix == ".json":
            yield from leaves(json.loads(text))
        elif path.suffix == ".jsonl":
            for line in filter(str.strip, text.splitlines()):
                yield from leaves(json.loads(line))
        else:
            yield text
    except ValueError:
        return


def leaves(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)


# --- both


class Known:
    """An encoder of one question, encoded before: the model's time is another benchmark's."""

    usage = Usage()

    def __init__(self, vector: Vectors) -> None:
        self.vector = vector

    def encode(self, texts: list[str]) -> Vectors:
        return self.vector[None]


def encoded(texts: list[str], name: str, dtype: str) -> dict[str, Vectors]:
    """Return text -> vector, of distinct texts, from the cache folder where they are there."""
    texts = list(dict.fromkeys(texts))
    held: dict[str, Vectors] = {}
    folder = os.environ.get("NIGHTSHIFT_BENCH_CACHE")
    path = Path(folder) / f"{name}-{dtype}.npz" if folder else None
    if path and path.is_file():
        with np.load(path) as file:
            held = dict(zip(file["texts"].tolist(), file["vectors"], strict=True))
    missing = [text for text in texts if text not in held]
    if missing:
        model = SentenceModel(EmbedderConfig.model_validate({"dtype": dtype, "batch_size": 32}))
        held |= dict(zip(missing, model.load().encode(missing), strict=True))
        if path:
            np.savez(path, texts=np.array(list(held)), vectors=np.stack(list(held.values())))
    return {text: held[text] for text in texts}


def row(
    key: str, document: str, text: str, vector: Vectors, *, ordinal: int = 0, tokens: int = 1, metadata: Any = None
) -> Row:
    """Return one chunk as `llmjobs.embeddings.search.exchange` reads it."""
    return {
        "source": "bench", "key": key, "tenant": TENANTS[0], "language": "en", "title": "", "metadata": metadata or {},
        "updated_at": None, "content_hash": hashlib.sha256(document.encode()).hexdigest(), "ordinal": ordinal,
        "start_char": 0, "end_char": len(text), "heading": "", "content": text,
        "text_hash": hashlib.sha256(text.encode()).hexdigest(), "tokens": tokens, "embedding": vector,
    }  # fmt: skip


def put(connection: Connection, index: str, rows: Iterable[Row], dimensions: int) -> Generation:
    """Load an index."""
    made = Maker(index, {"name": index, "query_prefix": ""}, dimensions)
    return load(connection, Header(index, made, Maker(index, {})), rows, index)


def build(connection: Connection, generation: Generation) -> None:
    """Build the vector index with the settings of a refresh, and say that it is there."""
    connection.execute("set maintenance_work_mem = '1GB'")
    connection.execute(
        sql.SQL(
            "create index {} on {} using hnsw (embedding vector_cosine_ops) with (m = 16, ef_construction = 64)"
        ).format(generation.vector_index, generation.table)
    )
    connection.execute("vacuum analyze")
    connection.execute(
        "update generation set vectors_at_build = 1 where generation_id = %s", [generation.generation_id]
    )


if __name__ == "__main__":
    raise SystemExit(report(measure))
