"""Examined rows on disk: what goes in comes out, in the order of the ids, however many chunks there are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.instructions import intake, parts
from llmjobs.instructions.parts import Part, many
from tests.jobs.instructions.nights import config_of, lines, part_of


def rows(first: int, count: int) -> list[dict[str, str]]:
    """Return rows of which every fifth has no answer and every seventh is repaired."""
    return [
        {
            "instruction": f"Add one to {number}.",
            "input": "<noinput>" if number % 7 == 0 else "",
            "output": "" if number % 5 == 0 else f"The sum is {number + 1}.",
        }
        for number in range(first, first + count)
    ]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 20)


def made(folder: Path, **files: list[Any]) -> Part:
    return part_of({f"{name}.jsonl": lines(content) for name, content in files.items()}, folder, config_of())


def ids(frames: Any) -> list[bytes]:
    return [row_id for frame in frames for row_id in frame["row_id"]]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("for_buckets", "at_once"), [(4096, 100_000), (4096, 10), (1, 10), (12, 10)])
def test_rows_come_back_in_the_order_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_buckets: int, at_once: int
) -> None:
    """One bucket or many: chunks that are too small for buckets lie beside chunks that have them."""
    monkeypatch.setattr(parts, "_ROWS_FOR_BUCKETS", for_buckets)
    monkeypatch.setattr(parts, "_ROWS_AT_ONCE", at_once)
    part = made(tmp_path / "part", a=rows(0, 103), b=rows(200, 7))
    assert part.chunks > 3
    assert part.rows == 110
    frames = list(part.in_order())
    assert len(frames) == (1 if at_once >= 110 else parts.BUCKETS)
    found = ids(frames)
    assert found == sorted(found)
    assert len(set(found)) == 110 - sum(number % 5 == 0 for number in [*range(103), *range(200, 207)])
    numbers = [row for frame in frames for row in frame["row"]]
    assert sorted(numbers) == part.table("good")["row"].to_list()
    by_number = dict(
        zip(numbers, (turns[0]["content"] for frame in frames for turns in frame["messages"].to_list()), strict=True)
    )
    read = part.table("read")
    for number, prompt in by_number.items():
        asked = int(prompt.split()[3].split(".")[0])
        assert (read["file"][number], read["source_line"][number]) == (
            (0, asked + 1) if asked < 200 else (1, asked - 199)
        )


@pytest.mark.usefixtures("small_chunks")
def test_every_table_has_what_was_added(tmp_path: Path) -> None:
    part = made(tmp_path / "part", a=rows(0, 50))
    read, good, refused, fixes = (part.table(kind) for kind in ("read", "good", "refused", "fixes"))
    assert read.height == good.height + refused.height == 50
    assert refused["row"].to_list() == read["quarantined"].arg_true().to_list() == list(range(0, 50, 5))
    assert [json.loads(text)["output"] for text in refused["raw"]] == [""] * 10
    assert fixes["row"].to_list() == list(range(0, 50, 7))
    for chunk in range(part.chunks):
        there = part.chunk_rows(chunk)
        assert there["row_id"].is_sorted()
        assert sorted(there["row"]) == good.filter(pl.col("chunk") == chunk)["row"].to_list()


def test_a_part_is_opened_again(tmp_path: Path) -> None:
    part = made(tmp_path / "part", a=rows(0, 12), b=rows(20, 3))
    again = Part.opened(tmp_path / "part")
    assert again == part
    assert ids(again.in_order()) == ids(part.in_order())


@pytest.mark.usefixtures("small_chunks")
def test_many_parts_are_one(tmp_path: Path) -> None:
    content = {"a": rows(0, 30), "b": [], "c": rows(100, 11), "d": [{"instruction": "x", "output": ""}]}
    (tmp_path / "whole").mkdir()
    whole = many((made(tmp_path / name, **{name: content[name]}) for name in content), tmp_path / "whole")
    together = made(tmp_path / "together", **content)
    assert (whole.rows, whole.files) == (together.rows, together.files)
    for kind in ("read", "refused", "fixes"):
        assert whole.table(kind).equals(together.table(kind)), kind
    different = {"chunk", "features"}
    good = [part.table("good") for part in (whole, together)]
    assert good[0].drop(different).equals(good[1].drop(different))
    both = [pl.concat(part.in_order()) for part in (whole, together)]
    assert both[0].equals(both[1])
    for chunk, table in good[0].group_by("chunk"):
        assert sorted(whole.chunk_rows(int(str(chunk[0])))["row"]) == sorted(table["row"])


def test_a_chunk_without_a_good_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [{"instruction": "x", "output": ""}] * 3
    for name, limit in itertools.product(("few", "many"), (4096, 0)):
        monkeypatch.setattr(parts, "_ROWS_FOR_BUCKETS", limit)
        monkeypatch.setattr(parts, "_ROWS_AT_ONCE", 100 if name == "few" else 0)
        part = made(tmp_path / f"{name}{limit}", a=bad)
        assert ids(part.in_order()) == []
        assert part.table("good").height == 0
        assert part.table("read")["quarantined"].all()


def test_no_row_is_no_chunk(tmp_path: Path) -> None:
    part = made(tmp_path / "part", a=[])
    assert (part.chunks, part.rows, part.files) == (0, 0, ["a.jsonl"])
