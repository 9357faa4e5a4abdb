from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.jobs.embeddings.night")

from llmjobs.contracts.embeddings import RefreshConfig  # noqa: E402
from llmjobs.database.connection import Connection, connect  # noqa: E402
from llmjobs.lake import Lake  # noqa: E402
from tests.jobs.embeddings.night import CountingModel, Night  # noqa: E402


@pytest.fixture
def night(tmp_path: Path, postgres_url: str) -> Night:
    config = RefreshConfig.model_validate(
        {
            "name": "notes",
            "source": {"url": "documents/notes"},
            "chunks": {"max_tokens": 32},
            "shards": {"documents_per_shard": 4, "most": 3},
        }
    )
    folder = tmp_path / "lake" / "documents" / "notes"
    folder.mkdir(parents=True)
    return Night(Lake(f"file://{tmp_path}/lake"), folder, postgres_url, CountingModel(), config)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    with connect(postgres_url) as connection:
        yield connection
