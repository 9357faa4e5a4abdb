"""Whole nights with the lake in an object store: a real S3 server on loopback, reached by the usual variables."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, PublishConfig
from llmjobs.instructions import examine, files, prepare, publish
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.takedown import take_down
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import Good, MakeConfig, Row, current, lines, prompts_of


@pytest.fixture
def lake(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Lake:
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    variables = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**variables, "AWS_ENDPOINT_URL": s3_endpoint, "LLMJOBS_LAKE_URL": f"s3://{bucket}/all"}.items():
        monkeypatch.setenv(name, value)
    found = Lake.from_environment()
    found.fs.mkdir(bucket)
    return found


def put(lake: Lake, name: str, rows: list[Row]) -> None:
    """Write a raw file, as somebody else does while no night runs."""
    lake.fs.pipe_file(f"{lake._root}/raw/rows/{name}", lines(rows))


def published(lake: Lake, version: str, folder: Path) -> pl.DataFrame:
    """Return the rows of a version, fetched anew."""
    local = lake.fetch("datasets", "rows", version, folder / uuid.uuid4().hex)
    return pl.concat(pl.read_parquet(local / f"{side}.parquet") for side in SIDES)


def changed(config: PrepareConfig, **values: Any) -> PrepareConfig:
    return PrepareConfig.from_mapping({**config.model_dump(mode="json"), **values}, origin="test")


def test_published_unchanged_more_and_rolled_back(lake: Lake, config: MakeConfig, good: Good, tmp_path: Path) -> None:
    put(lake, "a.jsonl", [*map(good, range(20)), good(20, output="As an AI, I cannot.")])
    first = prepare.run(config())
    assert (first.published, first.quarantined, first.changed) == (20, 1, True)
    assert first.dataset_url.startswith("s3://lake-")
    assert published(lake, first.version, tmp_path).height == 20
    assert lake.fs.isfile(first.report_url)

    before = sorted(lake.fs.find(str(lake._root)))
    again = prepare.run(config())
    assert (again.version, again.changed) == (first.version, False)
    assert sorted(lake.fs.find(str(lake._root))) == before

    put(lake, "b.jsonl", [*map(good, range(10, 30))])
    second = prepare.run(config())
    assert (second.base_version, second.published, second.duplicates) == (first.version, 30, 10)
    assert (second.added_rows, second.removed_rows) == (10, 0)

    back = prepare.run(changed(config(), rollback_to=first.version[:12]))
    assert (back.version, back.changed, current(lake)) == (first.version, True, first.version)
    stays = prepare.run(config())
    assert (stays.version, stays.changed) == (first.version, False)  # the second version was withdrawn


def test_asked_approved_replayed_and_taken_down(lake: Lake, config: MakeConfig, good: Good, tmp_path: Path) -> None:
    budgets = {"max_quarantined_share": 0.9, "warn_quarantined_share": 0.01}
    put(lake, "a.jsonl", [*map(good, range(20)), good(20, output="As an AI, I cannot.")])
    asked = prepare.run(config(budgets=budgets))
    assert (asked.verdict, current(lake)) == ("ask", "")
    assert publish.run(PublishConfig(name="rows", version=asked.version, reason="approved by a test")).changed
    assert current(lake) == asked.version

    looser = config(rules={"speaks_as_ai": "warn"})
    replayed = prepare.run(changed(looser, replay="last"))
    assert (replayed.published, published(lake, replayed.version, tmp_path).height) == (21, 21)

    take_down(lake, "rows", texts=["Add one to 7."], reason="asked")
    after = prepare.run(looser)
    assert (after.published, after.removed_rows) == (20, 1)
    assert "Add one to 7." not in prompts_of(published(lake, after.version, tmp_path))


def test_files_in_tasks_of_their_own_leave_parts_that_are_used(
    lake: Lake, config: MakeConfig, good: Good, tmp_path: Path
) -> None:
    for name, numbers in (("a.jsonl", range(10)), ("b.jsonl", range(10, 20))):
        put(lake, name, [*map(good, numbers)])
    mapped = changed(config(), map_files=True)
    listed = files.run(mapped).files
    assert listed == ["raw/rows/a.jsonl", "raw/rows/b.jsonl"]
    parts = [examine.run(changed(mapped, only_file=label)) for label in listed]
    assert [(part.rows_in, part.cached) for part in parts] == [(10, False), (10, False)]
    assert examine.run(changed(mapped, only_file=listed[0])).cached
    result = prepare.run(mapped)
    assert (result.published, len(lake.versions("parts", "rows"))) == (20, 2)


def test_a_version_that_was_damaged_is_noticed(lake: Lake, config: MakeConfig, good: Good, tmp_path: Path) -> None:
    put(lake, "a.jsonl", [*map(good, range(20))])
    version = prepare.run(config()).version
    lake.fs.pipe_file(f"{lake._root}/datasets/rows/versions/{version}/train.parquet", b"PAR1")
    put(lake, "b.jsonl", [*map(good, range(20, 40))])
    with pytest.raises(BadData, match=r"train\.parquet: its SHA-256 is not the manifest's"):
        prepare.run(config())
    assert current(lake) == version
