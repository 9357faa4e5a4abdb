from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from llmjobs.contracts.embeddings import DatasetSource
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.dataset import DatasetDocuments
from llmjobs.embeddings.documents.source import Document, Place
from llmjobs.lake import Lake


def publish(lake: Lake, folder: Path, version: str, answers: dict[str, str]) -> None:
    folder.mkdir()
    rows = [
        {
            "row_id": key,
            "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}],
            "topic": "t",
            "language": "en",
        }
        for key, answer in answers.items()
    ]
    pl.DataFrame(rows).write_parquet(folder / "train.parquet")
    lake.publish(folder, kind="datasets", name="tickets", version=version)
    lake.move_pointer("datasets", "tickets", "current", version)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_rows_of_the_current_version_are_documents(tmp_path: Path, scheme: str) -> None:
    lake = Lake(f"{scheme}://{tmp_path}")
    found = DatasetDocuments(DatasetSource(dataset="tickets"), lake)
    with pytest.raises(BadData, match="has no current version"):
        found.scan()
    publish(lake, tmp_path / "one", "1", {"a": "Because.", "b": "So."})
    before = found.scan().stamps
    ((_, hashes),) = found.hashes(before)
    (read,) = found.read([Place("train", "a"), Place("train", "gone")])
    assert isinstance(read, Document)
    assert isinstance(hashes, dict)
    assert (read.text, read.language, read.content_hash) == (
        "**User:** Why?\n\n**Assistant:** Because.",
        "en",
        hashes["a"],
    )
    assert read.metadata == {"topic": "t", "language": "en", "side": "train"}
    publish(lake, tmp_path / "two", "2", {"a": "Because.", "b": "Changed."})
    assert found.scan().stamps != before
    ((_, again),) = found.hashes(found.scan().stamps)
    assert isinstance(again, dict)
    assert {key for key in again if again[key] != hashes[key]} == {"b"}
