from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.embeddings.documents.opened import opened
from llmjobs.embeddings.documents.source import Document, Place, Source, Unreadable
from llmjobs.lake import Lake


def source(lake: Lake, *, start: str = "", end: str = "", **fields: object) -> Source:
    config = {"name": "x", "source": {"url": "documents", **fields}, "interval_start": start, "interval_end": end}
    (found,) = opened(RefreshConfig.model_validate(config), lake)
    return found


def written(folder: Path, **files: str) -> Lake:
    for name, text in files.items():
        path = folder / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Lake(f"file://{folder}")


def everything(found: Source) -> dict[str, Document | Unreadable]:
    """Return what a source holds, after checking that reading gives the hashes that the plan saw."""
    listed = {
        Place(container, key): content_hash
        for container, keys in found.hashes(found.scan().stamps)
        for key, content_hash in (keys.items() if isinstance(keys, dict) else [])
    }
    read = list(found.read(listed))
    assert all(listed[one.place] == one.content_hash for one in read if isinstance(one, Document))
    return {one.place.key: one for one in read}


@pytest.mark.parametrize("remote", [False, True])
def test_files_are_listed_alike_on_a_disk_and_in_a_store(tmp_path: Path, *, remote: bool) -> None:
    files = {"a.md": "# A", "deep/er/b.txt": "b", "c.PNG": "no", ".hidden/d.md": "no", "e/.f.md": "no"}
    lake = Lake(f"memory://files-{tmp_path.name}") if remote else written(tmp_path, **files)
    for name, text in files.items() if remote else ():
        lake.fs.pipe_file(f"/files-{tmp_path.name}/documents/{name}", text.encode())
    assert set(source(lake).scan().stamps) == {"a.md", "deep/er/b.txt"}
    assert set(source(lake, include=["*.md"]).scan().stamps) == {"a.md"}
    assert set(source(lake, exclude=["deep/**"]).scan().stamps) == {"a.md"}
    read = everything(source(lake))
    assert [one.text for one in read.values() if isinstance(one, Document)] == ["# A", "b"]


def test_a_stamp_changes_with_size_or_time_only(tmp_path: Path) -> None:
    found = source(written(tmp_path, **{"a.md": "one", "b.md": "two"}))
    before = found.scan().stamps
    assert found.scan().stamps == before
    os.utime(tmp_path / "documents/a.md", ns=(1, 1))
    after = found.scan().stamps
    assert (after["b.md"], after["a.md"]) == (before["b.md"], "3:1")


def test_links_in_a_circle_and_files_that_went_harm_nothing(tmp_path: Path) -> None:
    lake = written(tmp_path, **{"a/x.md": "x", "b/y.md": "y"})
    (tmp_path / "documents/a/to_b").symlink_to("../b")
    (tmp_path / "documents/b/to_a").symlink_to("../a")
    (tmp_path / "documents/a/broken.md").symlink_to("nowhere.md")
    found = source(lake)
    assert set(found.scan().stamps) == {"a/x.md", "b/y.md", "a/to_b/y.md", "b/to_a/x.md"}
    (tmp_path / "documents/a/x.md").unlink()
    assert list(found.hashes(["a/x.md"])) == []
    assert list(found.read([Place("a/x.md", "a/x.md")])) == []


def test_a_broken_line_harms_no_other(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": 1, "text": "good", "team": "ops", "n": 2, "nested": {"a": 1}, "title": "T"}),
        '{"id": 2, "text": "cut off',
        json.dumps({"id": 3, "body": "elsewhere"}),
        json.dumps({"id": 1, "text": "again"}),
        json.dumps({"text": "nameless"}),
        '{"id": 5, "text": "half \\ud800"}',
    ]
    found = everything(source(written(tmp_path, **{"a.jsonl": "\n".join(lines)}), tenant_field="team"))
    good = found["a.jsonl#1"]
    assert isinstance(good, Document)
    assert (good.text, good.title, good.tenant, good.metadata) == ("good", "T", "ops", {"team": "ops", "n": 2})
    problems = {key: one.reason for key, one in found.items() if isinstance(one, Unreadable)}
    assert "line 2: it is no JSON" in problems["a.jsonl#2"]
    assert "'text' is missing" in problems["a.jsonl#3"]
    assert "key of line 1" in problems["a.jsonl#1 (line 4)"]
    assert "lone surrogate" in problems["a.jsonl#5"]
    assert [one.text for key, one in found.items() if "sha256-" in key and isinstance(one, Document)] == ["nameless"]


def test_days_of_the_interval_are_listed_and_the_others_stay(tmp_path: Path) -> None:
    names = ["2026-11-21/a.md", "20261122/b.md", "2026-11-23/c.md", "2026-02-30/d.md", "other/e.md"]
    lake = written(tmp_path, **dict.fromkeys(names, "text"))
    day = source(lake, url="documents/{date}", start="2026-11-22T00:00:00+00:00", end="2026-11-23T00:00:00+00:00")
    assert (set(day.scan().stamps), day.scan().complete) == ({names[1]}, False)
    assert (set(day.scan(full=True).stamps), day.scan(full=True).complete) == (set(names[:3]), True)
    assert set(source(lake, url="documents/{date}").scan().stamps) == set(names[:3])


def test_a_folder_that_is_not_there_is_no_empty_source(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no such folder"):
        source(Lake(f"file://{tmp_path}")).scan()
    with pytest.raises(BadConfig, match="no folder below the lake"):
        source(Lake(f"file://{tmp_path}"), url="../secrets")


def test_what_decides_a_document_is_in_its_hash_and_the_rest_is_not(tmp_path: Path) -> None:
    lake = written(tmp_path, **{"a.md": "text"})

    def hashed(**fields: Any) -> bytes:
        (found,) = source(lake, **fields).hashes(["a.md"])
        assert isinstance(found[1], dict)
        return found[1]["a.md"]

    assert hashed() == hashed(exclude=["b.md"]) != hashed(tenant="ops")
    assert source(lake).settings_digest != source(lake, exclude=["b.md"]).settings_digest


def test_a_tenant_that_cannot_be_understood_makes_nothing_public(tmp_path: Path) -> None:
    files = {
        "a.md": "---\nteam: [x, y]\n---\ntext",
        "b.md": "---\nteam: 'x\n---\ntext",
        "c.md": "---\nteam: ops\n---\nt",
    }
    found = everything(source(written(tmp_path, **files), tenant_field="team"))
    assert [type(one) for one in found.values()].count(Unreadable) == 2
    good = found["c.md"]
    assert isinstance(good, Document)
    assert (good.tenant, good.text) == ("ops", "t")
