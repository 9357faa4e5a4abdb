"""One night of the embeddings on a tiny model, and what must hold after each."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from llmjobs.contracts.embeddings import (
    EmbedConfig,
    EmbedResult,
    FinaliseConfig,
    PlanResult,
    RefreshConfig,
    RefreshResult,
)
from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.documents.opened import opened
from llmjobs.embeddings.documents.source import Source, Unreadable
from llmjobs.embeddings.embed import embed
from llmjobs.embeddings.embedders.tokens import TokenizerTokens
from llmjobs.embeddings.finalise import finalise
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.model import Purpose, TextRefused, Usage, Vectors
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
    poison: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "revision": "1", "query_prefix": ""}

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.dimensions}-{self.max_tokens}"

    @property
    def tokens(self) -> TokenizerTokens:
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return TokenizerTokens(tokenizer)

    @property
    def usage(self) -> Usage:
        return Usage()

    def load(self, purpose: Purpose = "document") -> CountingModel:
        self.loads += 1
        return self

    def encode(self, texts: list[str]) -> Vectors:
        """Refuses texts that hold `poison`, as an encoder does: the others' vectors come along."""
        refused = {at: "the provider will not have it" for at, text in enumerate(texts) if self._is_poison(text)}
        self.encoded += [text for at, text in enumerate(texts) if at not in refused]
        vectors = np.stack([_bag_of_words(text, self.dimensions) for text in texts])
        if refused:
            raise TextRefused(refused, vectors)
        return vectors

    def _is_poison(self, text: str) -> bool:
        return bool(self.poison) and self.poison in text


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
    models: dict[str, CountingModel] = field(default_factory=dict)
    """By name, those of generations beside the wanted one."""
    shelves: list[Source] = field(default_factory=list)
    """In place of the config's sources."""

    def __post_init__(self) -> None:
        self.models.setdefault(self.model.name, self.model)

    def beside(self, name: str) -> Night:
        """Return an index of another name, with a folder of its own, in the same database."""
        folder = self.folder.with_name(name)
        values = self.config.model_dump() | {"name": name, "source": {"url": f"documents/{name}", "language": "en"}}
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

    def sources(self, config: RefreshConfig) -> list[Source]:
        return self.shelves or opened(config, self.lake)

    def plan(self, connection: Connection, config: RefreshConfig | None = None) -> PlanResult:
        config = config or self.config
        return plan(connection, config, self.sources(config), self.model)

    def embed(
        self, connection: Connection, run_id: int, shard: int, config: RefreshConfig | None = None
    ) -> EmbedResult:
        shards = EmbedConfig(**(config or self.config).model_dump(), run_id=run_id, shard=shard)
        return embed(connection, shards, self.sources(shards), self.model, self.reopen)

    def reopen(self, settings: dict[str, Any]) -> CountingModel:
        if settings["name"] not in self.models:
            raise BadConfig(f"model {settings['name']} is not there")
        return self.models[settings["name"]]

    def finalise(self, connection: Connection, run_id: int, config: RefreshConfig | None = None) -> RefreshResult:
        values = (config or self.config).model_dump()
        return finalise(connection, FinaliseConfig(**values, run_id=run_id), self.lake, self.encoder_of)

    def encoder_of(self, of: Generation) -> CountingModel:
        """Return what encoded a generation."""
        name = of.model_settings["name"]
        return self.model if name == self.model.name else CountingModel(name=name, dimensions=of.dimensions)


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
    """The index holds what the sources have now, but for documents that failed: these may be as they were."""
    indexed = connection.execute(
        "select source, key, content_hash from document_state join document using (document_id)"
        " where generation_id = %s",
        [generation_id],
    ).fetchall()
    failed = connection.execute("select source, key from document_failure").fetchall()
    held = {(source, key): content for source, key, content in indexed if (source, key) not in failed}
    assert held == {name: content for name, content in listed(night).items() if name not in failed}
    stateless = "document d where not exists (select from document_state s where s.document_id = d.document_id)"
    assert _count(connection, stateless) == 0
    assert _count(connection, "refresh_source join refresh_run using (run_id) where state = 'done'") == 0
    assert _count(connection, "refresh_container join refresh_run using (run_id) where state = 'done'") == 0


def listed(night: Night) -> dict[tuple[str, str], bytes]:
    """Return the hash of every document that the sources have, by source and key."""
    found = {}
    for source in night.sources(night.config):
        for _, documents in source.hashes(source.scan(full=True).stamps):
            if not isinstance(documents, Unreadable):
                found.update({(source.name, key): content for key, content in documents.items()})
    return found


def _check_vectors(connection: Connection, generation_id: int) -> None:
    vectors = f"chunk_vector_{generation_id} v"
    chunks = _count(connection, f"chunk where generation_id = {generation_id}")
    assert _count(connection, vectors) == chunks
    assert _count(connection, f"{vectors} join chunk c using (chunk_id, document_id)") == chunks
    # The vector that is served is the one that was encoded from this very text, by this model.
    cached = "join embedding_cache e using (text_hash) join generation g using (generation_id, model_id)"
    served = f"{vectors} join chunk c using (chunk_id, tenant) {cached} where e.embedding = v.embedding"
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
    failed = {key for (key,) in connection.execute("select key from document_failure").fetchall()}
    chunker = chunker_of(night.config, night.model)
    for path in night.folder.rglob("*.md"):
        key, text = path.relative_to(night.folder).as_posix(), path.read_text()
        if key in failed:
            continue
        expected = [(key, one.start_char, one.end_char, one.content) for one in chunker.chunks(text, form="markdown")]
        assert held.get(key, []) == expected
        assert all(text[start:end] == content for _, start, end, content in expected)


def _count(connection: Connection, what: str) -> int:
    row = connection.execute(f"select count(*) from {what}".encode()).fetchone()
    assert row is not None
    return int(row[0])
