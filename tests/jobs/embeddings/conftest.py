from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.jobs.embeddings.night", "tests.jobs.embeddings.kills")

from llmjobs.contracts.embeddings import RefreshConfig  # noqa: E402
from llmjobs.database.connection import Connection, connect  # noqa: E402
from llmjobs.lake import Lake  # noqa: E402
from tests.jobs.embeddings.night import CountingModel, Night  # noqa: E402

CONFIG = RefreshConfig.model_validate(
    {
        "name": "notes",
        # Telling the language starts threads, which a fork (test_kill) does not survive.
        "source": {"url": "documents/notes", "language": "en"},
        "chunks": {"max_tokens": 32},
        "shards": {"documents_per_shard": 4, "most": 3},
    }
)


@pytest.fixture
def night(tmp_path: Path, postgres_url: str) -> Night:
    """An empty folder of documents and an empty database."""
    return Night(Lake(f"file://{tmp_path}"), tmp_path / "documents" / "notes", postgres_url, CountingModel(), CONFIG)


@pytest.fixture
def connection(night: Night) -> Iterator[Connection]:
    with connect(night.url) as connection:
        yield connection
