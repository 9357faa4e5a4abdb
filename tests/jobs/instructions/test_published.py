"""Dataset versions: written in order, with an id that follows from the rows, and read back as keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.instructions import published, tables
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.identity import key_of
from llmjobs.instructions.published import COLUMNS, Published, SideWriter, empty, version_of
from llmjobs.lake import Lake


def rows(count: int, **changes: Any) -> pl.DataFrame:
    ids = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(count))
    turns = [[{"role": "user", "content": one[:4], "tool_calls": None}] for one in ids]
    values: dict[str, Any] = dict.fromkeys(COLUMNS) | {"source": "s", "characters": 4, "source_line": 1} | changes
    frame = pl.DataFrame({"row_id": ids, "group_id": [one[:32] for one in ids], "messages": turns})
    others = {name: value for name, value in values.items() if name not in frame.columns}
    schema = empty().schema
    frame = frame.with_columns(pl.lit(value).cast(schema[name]).alias(name) for name, value in others.items())
    return frame.with_columns(pl.col("messages").cast(pl.List(tables.MESSAGE))).select(COLUMNS)


def digest_of(path: Path, *frames: pl.DataFrame) -> str:
    writer = SideWriter(path)
    for frame in frames:
        writer.add(frame)
    return writer.close()


def test_the_id_does_not_depend_on_how_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(50)
    expected = digest_of(tmp_path / "one.parquet", whole)
    monkeypatch.setattr(published, "_ROWS_AT_ONCE", 7)
    assert digest_of(tmp_path / "two.parquet", whole[:3], whole[3:3], whole[3:30], whole[30:]) == expected
    for name in ("one", "two"):
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(whole)


@pytest.mark.parametrize("name", ["source", "licence", "topic", "label", "rank"])
def test_what_a_row_is_decides_the_id(tmp_path: Path, name: str) -> None:
    values = (None, 1, 2) if name == "rank" else (None, "a", "b")
    found = {digest_of(tmp_path / f"{value}.parquet", rows(3, **{name: value})) for value in values}
    assert len(found) == 3


@pytest.mark.parametrize("name", ["source_file", "source_line", "language", "score", "tokens"])
def test_where_a_row_was_found_does_not(tmp_path: Path, name: str) -> None:
    value = "b" if name in {"source_file", "language"} else 2
    assert digest_of(tmp_path / "a.parquet", rows(3)) == digest_of(tmp_path / "b.parquet", rows(3, **{name: value}))


def test_a_value_is_not_taken_for_another_columns(tmp_path: Path) -> None:
    one, other = rows(3, topic="x"), rows(3, label="x")
    assert digest_of(tmp_path / "a.parquet", one) != digest_of(tmp_path / "b.parquet", other)
    one, other = rows(1, topic="x\x1flabel=y"), rows(1, topic="x", label="y")
    assert digest_of(tmp_path / "a.parquet", one) != digest_of(tmp_path / "b.parquet", other)
    escaped, plain = rows(1, topic="\x1a2"), rows(1, topic="\x1f")
    assert digest_of(tmp_path / "a.parquet", escaped) != digest_of(tmp_path / "b.parquet", plain)
    assert version_of({"train": "a", "test": "b"}) != version_of({"train": "b", "test": "a"})


def test_a_side_without_rows_is_a_file_of_the_same_columns(tmp_path: Path) -> None:
    digest_of(tmp_path / "none.parquet")
    digest_of(tmp_path / "some.parquet", rows(2))
    none, some = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("none", "some"))
    assert none.schema == some.schema
    assert none.height == 0


def test_a_version_is_read_back_as_keys(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    whole = rows(9)
    for number, side in enumerate(SIDES):
        digest_of(folder / f"{side}.parquet", whole[number * 3 : number * 3 + 3])
    assert Published.current(lake, "rows", tmp_path / "scratch") is None
    lake.publish(folder, kind="datasets", name="rows", version="v1")
    lake.move_pointer("datasets", "rows", "current", "v1")
    found = Published.current(lake, "rows", tmp_path / "scratch")
    assert found is not None
    keys = found.keys()
    assert keys["row_key"].to_list() == key_of(whole["row_id"]).to_list()
    assert keys["side"].to_list() == [side for side in SIDES for _ in range(3)]
    assert pl.concat(frame for _, frame in found.rows()).equals(whole)
    wanted = keys["row_key"][4]
    assert {key: turns[0]["content"] for key, turns in found.messages([wanted, 0]).items()} == {
        wanted: whole["row_id"][4][:4]
    }


def test_a_version_of_an_older_release_lacks_columns(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    for side in SIDES:
        rows(2).select("row_id", "group_id", "messages").write_parquet(folder / f"{side}.parquet")
    manifest = lake.publish(folder, kind="datasets", name="rows", version="v1")
    keys = Published(folder, manifest).keys()
    assert set(keys.columns) == {"row_key", "group_key", "side"}
