"""The real model on the real guide: what is found, and that no chunk is cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmjobs.contracts.embeddings import EmbedConfig, EmbedderConfig, FinaliseConfig, RefreshConfig, RefreshResult
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings import ask
from llmjobs.embeddings.documents.opened import opened
from llmjobs.embeddings.embed import embed
from llmjobs.embeddings.finalise import finalise
from llmjobs.embeddings.model import SentenceModel
from llmjobs.embeddings.plan import plan
from llmjobs.embeddings.search import search
from llmjobs.lake import Lake
from tests.fixtures.postgres import database_name, new_database

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide"
QUESTIONS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "questions.yaml").read_text())
CONFIG = RefreshConfig.from_yaml(ROOT / "dags" / "configs" / "refresh_embeddings" / "guide.yaml")


@dataclass(frozen=True)
class Indexed:
    url: str
    connection: Connection
    result: RefreshResult


@pytest.fixture(scope="module")
def guide(
    postgres_server: str, migrated_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Indexed]:
    """The guide, indexed as the night does it."""
    root = tmp_path_factory.mktemp("lake")
    shutil.copytree(GUIDE, root / "documents" / "guide")
    lake = Lake(f"file://{root}")
    sources, model = opened(CONFIG, lake), SentenceModel(CONFIG.embedder)
    with (
        new_database(postgres_server, template=database_name(migrated_database_url)) as url,
        connect(url) as connection,
    ):
        planned = plan(connection, CONFIG, sources, model)
        for work in planned.shards:
            config = EmbedConfig(**CONFIG.model_dump(), run_id=planned.run_id, shard=work.shard)
            embed(connection, config, sources, model)
        result = finalise(connection, FinaliseConfig(**CONFIG.model_dump(), run_id=planned.run_id), lake)
        yield Indexed(url, connection, result)


def test_recall_at_3_of_the_labelled_questions(guide: Indexed) -> None:
    assert len(QUESTIONS) >= 10
    missed = []
    for question in QUESTIONS:
        hits = search(guide.connection, "guide", question["question"], 3, tenants=["public"])
        if not {hit.document for hit in hits} & set(question["sources"]):
            missed.append((question["question"], [hit.document for hit in hits]))
    recall = 1 - len(missed) / len(QUESTIONS)
    print(f"recall@3 = {recall:.3f} on {len(QUESTIONS)} questions")
    assert recall >= 0.8, missed


def test_every_document_of_the_guide_is_indexed_and_no_chunk_is_longer_than_the_model_reads(guide: Indexed) -> None:
    assert guide.result.documents == len(list(GUIDE.glob("*.md"))) > 0
    model = SentenceModel(CONFIG.embedder)
    rows = guide.connection.execute("select heading, content, tokens from chunk").fetchall()
    assert len(rows) == guide.result.chunks
    for heading, content, tokens in rows:
        embedded = f"{heading}\n\n{content}" if heading else content
        assert len(model.tokenizer.encode(embedded).ids) == tokens <= CONFIG.chunks.max_tokens <= model.max_tokens


def test_ask_prints_the_passage_with_document_chunk_and_score(
    guide: Indexed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", guide.url)
    assert ask.main(["--index", "guide", "How do I stop all processes that were started?"]) == 0
    answer = capfd.readouterr()
    assert "`make down` stops every" in answer.out.replace("\n  ", " ")
    assert "first-night.md · The first night > Starting and stopping · chunk " in answer.out
    assert answer.err == ""


def test_ask_of_an_empty_index_names_the_dag(
    guide: Indexed, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", guide.url)
    assert ask.main(["--index", "other", "Anything?"]) == 65
    assert "refresh_embeddings_other" in capfd.readouterr().err


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.9999)])
def test_our_bert_gives_the_vectors_of_sentence_transformers(dtype: str, least: float, reference: np.ndarray) -> None:
    model = SentenceModel(EmbedderConfig.model_validate({"dtype": dtype}))
    assert model.layout.plain_bert
    ours = model.load().encode(texts())
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-4)
    assert (ours * reference).sum(1).min() >= least


def test_padding_changes_no_vector() -> None:
    encoder = SentenceModel(EmbedderConfig(batch_size=4)).load()
    together = encoder.encode(texts())
    alone = np.concatenate([encoder.encode([text]) for text in texts()])
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.fixture(scope="module")
def reference() -> Any:
    """Vectors of the other encoder, which is sentence-transformers itself, (texts, dimensions)."""
    from llmjobs.embeddings.encoder import SentenceTransformerEncoder

    model = SentenceModel(EmbedderConfig())
    encoder = SentenceTransformerEncoder(
        model.path, model.layout, dtype="float32", device="cpu", batch_size=8, batch_tokens=4096, dimensions=384
    )
    return encoder.encode(texts())


def texts() -> list[str]:
    words = (GUIDE / "overview.md").read_text().split()
    return [" ".join(words[:count]) for count in (1, 3, 20, 90, 150, 240)]
