"""One night of the embeddings on a tiny model, and what must hold after each."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from llmjobs.contracts.embeddings import EmbedConfig, FinaliseConfig, PlanResult, RefreshConfig, RefreshResult
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.embed import embed
from llmjobs.embeddings.finalise import finalise
from llmjobs.embeddings.model import Vectors
from llmjobs.embeddings.plan import chunker_of, plan
from llmjobs.lake import Lake

DIMENSIONS = 16


@dataclass
class CountingModel:
    """A model that needs no weights: a text's vector follows from its words' hashes. Remembers what it encoded."""

    name: str = "counting"
    max_tokens: int = 64
    encoded: list[str] = field(default_factory=list)
    loads: int = 0
    dimensions: int = DIMENSIONS

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "revision": "1", "query_prefix": ""}

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.dimensions}-{self.max_tokens}"

    @property
    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer

    def load(self) -> CountingModel:
        self.loads += 1
        return self

    def encode(self, texts: list[str]) -> Vectors:
        self.encoded += texts
        return np.stack([_bag_of_words(text, self.dimensions) for text in texts])


def _bag_of_words(text: str, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    total = np.full(dimensions, 1e-3, dtype=np.float32)
    for word in text.lower().split():
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8])
        total += np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


@dataclass
class Night:
    """A lake with documents, a database and a model; `refresh` is one night."""

    lake: Lake
    folder: Path
    url: str
    model: CountingModel
    config: RefreshConfig

    def beside(self, name: str) -> Night:
        """Return an index of another name, with a folder of its own, in the same database."""
        folder = self.folder.with_name(name)
        values = self.config.model_dump() | {"name": name, "source": {"url": f"documents/{name}"}}
        return Night(self.lake, folder, self.url, CountingModel(), RefreshConfig.model_validate(values))

    def write(self, **documents: str) -> None:
        for name, text in documents.items():
            path = self.folder / f"{name}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def refresh(self, config: RefreshConfig | None = None) -> RefreshResult:
        with connect(self.url) as connection:
            return self.refresh_on(connection, config)

    def refresh_on(self, connection: Connection, config: RefreshConfig | None = None) -> RefreshResult:
        config = config or self.config
        planned = self.plan(connection, config)
        for work in planned.shards:
            self.embed(connection, planned.run_id, work.shard, config)
        return self.finalise(connection, planned.run_id, config)

    def plan(self, connection: Connection, config: RefreshConfig | None = None) -> PlanResult:
        return plan(connection, config or self.config, self.lake, self.model)

    def embed(self, connection: Connection, run_id: int, shard: int, config: RefreshConfig | None = None) -> None:
        values = (config or self.config).model_dump()
        embed(connection, EmbedConfig(**values, run_id=run_id, shard=shard), self.lake, self.model)

    def finalise(self, connection: Connection, run_id: int, config: RefreshConfig | None = None) -> RefreshResult:
        return finalise(connection, FinaliseConfig(**(config or self.config).model_dump(), run_id=run_id))


def check_sound(connection: Connection, night: Night) -> None:
    """No duplicate, no orphan, nothing missing, all as the folder says: holds after every finished run."""
    query = "select generation_id, state from generation join search_index using (index_id) where name = %s"
    generations = connection.execute(query, [night.config.name]).fetchall()
    active = [generation_id for generation_id, state in generations if state == "active"]
    assert len(active) == 1
    _check_documents(connection, night, active[0])
    for generation_id, _ in generations:
        _check_vectors(connection, generation_id)
    _check_texts(connection, night, active[0])
    assert _count(connection, "refresh_plan join refresh_run using (run_id) where state = 'done'") == 0


def _check_documents(connection: Connection, night: Night, generation_id: int) -> None:
    paths = night.folder.rglob("*.md")
    on_disk = {p.relative_to(night.folder).as_posix(): hashlib.sha256(p.read_bytes()).digest() for p in paths}
    indexed = connection.execute(
        "select key, content_hash from document_state join document using (document_id) where generation_id = %s",
        [generation_id],
    ).fetchall()
    assert dict(indexed) == on_disk
    assert len(indexed) == len(on_disk)
    stateless = "document d where not exists (select from document_state s where s.document_id = d.document_id)"
    assert _count(connection, stateless) == 0


def _check_vectors(connection: Connection, generation_id: int) -> None:
    vectors = f"chunk_vector_{generation_id} v"
    chunks = _count(connection, f"chunk where generation_id = {generation_id}")
    assert _count(connection, vectors) == chunks
    assert _count(connection, f"{vectors} join chunk c using (chunk_id, document_id)") == chunks
    # The vector that is served is the one that was encoded from this very text, by this model.
    cached = "join embedding_cache e using (text_hash) join generation g using (generation_id, model_id)"
    served = f"{vectors} join chunk c using (chunk_id) {cached} where e.embedding = v.embedding"
    assert _count(connection, served) == chunks
    gaps = """
        (select document_id, count(*) n, count(distinct ordinal) d, max(ordinal) m from chunk
         where generation_id = {} group by 1) o where n <> d or m <> n - 1
    """
    assert _count(connection, gaps.format(generation_id)) == 0


def _check_texts(connection: Connection, night: Night, generation_id: int) -> None:
    """Offsets lead to the passage, and the passages are those that the document gives when it is cut anew."""
    rows = connection.execute(
        "select key, start_char, end_char, content from chunk join document using (document_id)"
        " where generation_id = %s order by key, ordinal",
        [generation_id],
    ).fetchall()
    held = {key: list(group) for key, group in itertools.groupby(rows, key=lambda row: row[0])}
    chunker = chunker_of(night.config, night.model)
    for path in night.folder.rglob("*.md"):
        key, text = path.relative_to(night.folder).as_posix(), path.read_text()
        expected = [(key, one.start_char, one.end_char, one.content) for one in chunker.chunks(text, markdown=True)]
        assert held.get(key, []) == expected
        assert all(text[start:end] == content for _, start, end, content in expected)


def _count(connection: Connection, what: str) -> int:
    row = connection.execute(f"select count(*) from {what}".encode()).fetchone()
    assert row is not None
    return int(row[0])
