"""Rows of a version: of early ones and of today's, all of them or the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake
from llmjobs.training.data.rows import read_split, rows_of_fraction


def test_early_versions_have_neither_tools_nor_ranks(lake: Lake, tmp_path: Path, published: Any) -> None:
    version = published(lake, tmp_path / "rows", train=range(100, 110), test=range(140, 144))
    rows = read_split(lake, "tickets", version, "train")
    assert len(rows) == 10
    assert rows[0].origin == "tickets.jsonl line 100"
    assert {row.tools for row in rows} == {None}
    with pytest.raises(BadData, match=r"10 of 10 train rows have no rank.*the contract needs quality\.score: true"):
        read_split(lake, "tickets", version, "train", fraction=0.5)


def test_a_fraction_is_the_best_rows_in_the_order_of_the_file(lake: Lake, tmp_path: Path, published: Any) -> None:
    version = published(lake, tmp_path / "rows", train=range(100, 110), test=range(140, 144), ranked=True)
    lines = [row.origin for row in read_split(lake, "tickets", version, "train", fraction=0.25)]
    assert lines == ["tickets.jsonl line 107", "tickets.jsonl line 108", "tickets.jsonl line 109"]
    assert len(read_split(lake, "tickets", version, "train", fraction=1)) == 10


@given(fraction=st.floats(0, 1, exclude_min=True), rows=st.integers(1, 10**7))
def test_a_fraction_is_rounded_up_and_never_nothing(fraction: float, rows: int) -> None:
    count = rows_of_fraction(fraction, rows)
    assert 1 <= count <= rows
    assert fraction * rows - 1e-5 <= count <= fraction * rows + 1


@pytest.mark.parametrize(("fraction", "rows", "count"), [(0.1, 30, 3), (0.25, 10, 3), (1.0, 7, 7), (1e-9, 5, 1)])
def test_how_many_rows_a_fraction_is(fraction: float, rows: int, count: int) -> None:
    assert rows_of_fraction(fraction, rows) == count
