"""A mix by weight: the shares are met, as many rows as can stay do, and a growing source reshuffles nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any
from zlib import crc32

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import Source
from llmjobs.instructions.choice import mix


def source(name: str, weight: float | None = None) -> Source:
    return Source(name=name, files="raw/*.json", weight=weight)


def table(**rows: int) -> pl.DataFrame:
    """Return so many rows of each source, their keys far from their order."""
    names = [name for name, count in rows.items() for _ in range(count)]
    keys = [crc32(f"{name} {number}".encode()) for name, count in rows.items() for number in range(count)]
    return pl.DataFrame(
        {"row": range(len(names)), "row_key": pl.Series(keys, dtype=pl.Int128), "source": names},
        schema_overrides={"source": pl.String},
    )


def kept(rows: pl.DataFrame, *sources: Source) -> dict[str, int]:
    staying = rows.filter(~mix.left_out(rows, sources))
    return dict(staying.group_by("source").len().iter_rows())


def test_shares_are_those_of_the_weights_and_the_scarce_source_keeps_all() -> None:
    rows = table(chats=1000, tickets=60)
    assert kept(rows, source("chats", 3), source("tickets", 1)) == {"chats": 180, "tickets": 60}


def test_a_source_without_weight_keeps_all_and_does_not_count() -> None:
    rows = table(chats=1000, tickets=60, notes=7, strangers=3)
    found = kept(rows, source("chats", 3), source("tickets", 1), source("notes"))
    assert found == {"chats": 180, "tickets": 60, "notes": 7, "strangers": 3}


def test_without_weights_nothing_is_left_out() -> None:
    rows = table(chats=5, tickets=2)
    out = mix.left_out(rows, [source("chats"), source("tickets")])
    assert out.to_list() == [False] * 7
    assert mix.left_out(rows.head(0), [source("chats")]).dtype == pl.Boolean


def test_rows_without_a_source_stay() -> None:
    rows = table(chats=4, tickets=1).with_columns(
        source=pl.when(pl.col("row") == 0).then(None).otherwise(pl.col("source"))
    )
    assert mix.left_out(rows, [source("chats", 1), source("tickets", 1)]).sum() == 2
    assert not mix.left_out(rows, [source("chats", 1), source("tickets", 1)])[0]
    assert [share.source for share in mix.shares(rows, [source("chats", 1), source("tickets", 1)])][-1] == ""


def test_an_empty_source_with_a_weight_is_refused_with_its_share() -> None:
    with pytest.raises(BadData, match=r"source tickets has no train row, so no mix can give it its share of 25.0%"):
        mix.left_out(table(chats=9), [source("chats", 3), source("tickets", 1)])


def test_the_best_ranks_stay() -> None:
    rows = table(chats=10, tickets=2).with_columns(rank=pl.lit(100) - pl.col("row"))
    out = mix.left_out(rows, [source("chats", 1), source("tickets", 1)])
    assert rows.filter(~out)["row"].to_list() == [8, 9, 10, 11]


def test_the_table_says_what_limits_the_mix() -> None:
    rows = table(chats=1000, tickets=60, notes=7)
    found = mix.shares(rows, [source("chats", 3), source("tickets", 1), source("notes")])
    assert found == [
        mix.Share("chats", 1000, 180, 0.75, 0.75, limits=False),
        mix.Share("tickets", 60, 60, 0.25, 0.25, limits=True),
        mix.Share("notes", 7, 7, None, None, limits=False),
    ]
    assert mix.sentence(found).startswith(
        "The mix leaves out 820 train rows: tickets has only 60 rows for its share of 25.0%"
    )
    assert mix.sentence(mix.shares(table(notes=7), [source("notes")])) == ""


def test_every_beginning_of_the_interleaved_order_has_the_shares_of_the_whole() -> None:
    rows = table(chats=180, tickets=60, notes=12).with_columns(rank=pl.col("row").reverse())
    mixed = rows.with_columns(mixed=mix.interleaved(rows)).sort("mixed")
    assert mixed["mixed"].to_list() == list(range(252))
    for count in range(1, 253):
        found = dict(mixed.head(count).group_by("source").len().iter_rows())
        for name, whole in (("chats", 180), ("tickets", 60), ("notes", 12)):
            assert abs(found.get(name, 0) - count * whole / 252) < 1.5
    assert mixed.filter(source="chats")["rank"].is_sorted()
    assert mix.interleaved(rows.head(0)).to_list() == []


SIZES = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 60), min_size=1)
WEIGHTS = st.fixed_dictionaries({name: st.integers(1, 9) for name in "abcd"})


@settings(deadline=None)
@given(SIZES, WEIGHTS)
def test_shares_are_met_within_a_row_and_no_mix_keeps_more(sizes: dict[str, int], weights: dict[str, int]) -> None:
    rows, sources = table(**sizes), [source(name, weights[name]) for name in sizes]
    found = kept(rows, *sources)
    most = min(Fraction(count, weights[name]) for name, count in sizes.items())
    assert all(found.get(name, 0) == int(most * weights[name]) for name in sizes)


@settings(deadline=None)
@given(SIZES, WEIGHTS, st.integers(1, 40), st.randoms())
def test_a_source_that_grows_adds_rows_and_takes_none(
    sizes: dict[str, int], weights: dict[str, int], more: int, chance: Any
) -> None:
    sources = [source(name, weights[name]) for name in sizes]
    before = table(**sizes)
    grown = next(iter(sizes))
    extra = table(**{grown: sizes[grown] + more}).filter(pl.col("row") >= sizes[grown])
    after = pl.concat([before, extra])
    after = after.sample(after.height, shuffle=True, seed=chance.randrange(1 << 30))
    stayed = set(before.filter(~mix.left_out(before, sources)).filter(pl.col("source") != grown)["row_key"])
    stays = set(after.filter(~mix.left_out(after, sources))["row_key"])
    assert stayed <= stays
