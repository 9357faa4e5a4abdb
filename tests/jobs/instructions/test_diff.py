"""The diff of two versions, against a plain Python one; the statistics against SciPy's."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.report import diff as diff_module
from llmjobs.instructions.report.diff import Changes, Diff, Share, Shift, diff, lost_share, summary
from llmjobs.instructions.report.distributions import (
    NO_VALUE,
    counts,
    histogram,
    jensen_shannon,
    kolmogorov_smirnov,
    quantiles,
)

FAR = 2**126
"""Keys are hashes of 128 bits, negative ones too."""

Row = tuple[int, int]
"""Group and variant: which prompt, and which of the rows that have it."""


def key_of(row: Row) -> int:
    group, variant = row
    return (group * 7919 + variant * 104_729) * (FAR // 10**9) * (-1 if (group + variant) % 2 else 1)


def frame(rows: list[Row], salt: int = 0, columns: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Return published rows; the side follows from group and salt."""
    values = {
        "row_key": [key_of(row) for row in rows],
        "group_key": [group - 5 for group, _ in rows],
        "side": [SIDES[(group + salt) % 3] for group, _ in rows],
    }
    keys = pl.DataFrame(values, schema={"row_key": pl.Int128, "group_key": pl.Int128, "side": pl.String})
    return keys.with_columns(pl.Series(name, column) for name, column in (columns or {}).items())


def naive(base: list[Row], new: list[Row], salt: int) -> tuple[Changes, int]:
    """Return what `diff` should say, one row after the other."""
    old, now = Counter(base), Counter(new)
    same = old & now
    left_old: dict[int, int] = defaultdict(int)
    left_new: dict[int, int] = defaultdict(int)
    for rows, left in ((old - same, left_old), (now - same, left_new)):
        for (group, _), count in rows.items():
            left[group] += count
    changed = sum(min(left_old[group], left_new[group]) for group in {*left_old, *left_new})
    unchanged = same.total()
    moved = (unchanged + changed) if salt % 3 else 0
    return Changes(len(new) - unchanged - changed, len(base) - unchanged - changed, changed, unchanged), moved


rows_of_a_version = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=30)


@settings(max_examples=80, deadline=None)
@given(base=rows_of_a_version, new=rows_of_a_version, salt=st.integers(0, 1), at_once=st.sampled_from([1, 4, 500_000]))
def test_as_a_plain_diff_would(base: list[Row], new: list[Row], salt: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff_module, "_ROWS_AT_ONCE", at_once)
        found = diff(frame(base), frame(new, salt))
    changes, moved = naive(base, new, salt)
    assert (found.changes, found.moved) == (changes, moved)
    assert changes.added + changes.changed + changes.unchanged == found.new_rows == len(new)
    assert changes.removed + changes.changed + changes.unchanged == found.base_rows == len(base)
    for count in ("added", "removed", "changed", "unchanged"):
        assert sum(getattr(side, count) for side in found.sides.values()) == getattr(changes, count)
    assert found.empty == (Counter(base) == Counter(new) and not moved)
    _check_samples(found, base, new)


def _check_samples(found: Diff, base: list[Row], new: list[Row]) -> None:
    old, now = Counter(map(key_of, base)), Counter(map(key_of, new))
    group = {key_of(row): row[0] for row in [*base, *new]}
    for keys, count in ((found.added_keys, found.changes.added), (found.removed_keys, found.changes.removed)):
        assert len(keys) == min(count, 5)
        assert list(keys) == sorted(keys)
    assert len(found.changed_keys) == min(found.changes.changed, 5)
    assert not Counter(found.added_keys) - (now - old)
    assert not Counter(found.removed_keys) - (old - now)
    assert all(group[before] == group[after] and before != after for before, after in found.changed_keys)


@settings(max_examples=30, deadline=None)
@given(base=rows_of_a_version, new=rows_of_a_version, seed=st.randoms())
def test_the_order_of_rows_and_the_size_of_parts_change_nothing(base: list[Row], new: list[Row], seed: Any) -> None:
    once = diff(frame(base), frame(new))
    seed.shuffle(base)
    seed.shuffle(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff_module, "_ROWS_AT_ONCE", 3)
        assert diff(frame(base), frame(new)) == once


def test_a_changed_row_is_one_row() -> None:
    found = diff(frame([(1, 0), (2, 0)]), frame([(1, 1), (3, 0)]))
    assert found.changes == Changes(added=1, removed=1, changed=1)
    assert found.changed_keys == ((key_of((1, 0)), key_of((1, 1))),)
    assert found.added_keys == (key_of((3, 0)),)
    assert found.removed_keys == (key_of((2, 0)),)


def test_without_a_last_version_everything_is_added() -> None:
    found = diff(None, frame([(1, 0), (2, 0)], columns={"characters": [10, 20], "source": ["a", "b"]}))
    assert (found.first, found.empty, found.changes) == (True, False, Changes(added=2))
    assert (found.shifts, found.not_compared) == ((), {})


def test_sides_count_where_the_row_is_now() -> None:
    found = diff(frame([(1, 0), (2, 0)]), frame([(1, 0), (3, 0)], salt=1))
    assert found.moved == 1
    assert found.sides["test"] == Changes(removed=1, unchanged=1)
    assert found.sides["validation"] == Changes(added=1)


# --- shifts


def _shift(kind: str, base: pl.Series, new: pl.Series) -> Diff:
    column = "characters" if kind == "length" else kind
    rows = [(number, 0) for number in range(max(len(base), len(new)))]
    return diff(frame(rows[: len(base)], columns={column: base}), frame(rows[: len(new)], columns={column: new}))


def test_a_shift_names_shares_and_movers() -> None:
    found = _shift("topic", pl.Series(["sums"] * 6 + ["words"] * 3 + [None]), pl.Series(["sums"] * 2 + ["games"] * 8))
    (shift,) = found.shifts
    expected = jensenshannon([0.6, 0.3, 0.1, 0], [0.2, 0, 0, 0.8], base=2)
    assert (shift.kind, shift.statistic) == ("topic", "Jensen-Shannon")
    assert math.isclose(shift.value, expected)
    assert shift.shares[0] == Share("games", 0, 0.8)
    assert [share.name for share in shift.movers] == ["games", "sums", "words", NO_VALUE]


def test_only_the_largest_categories_are_named() -> None:
    names = [f"topic {number:02}" for number in range(20) for _ in range(20 - number)]
    found = _shift("topic", pl.Series(names), pl.Series(names))
    (shift,) = found.shifts
    assert [share.name for share in shift.shares] == [f"topic {number:02}" for number in range(8)]
    assert (shift.others, shift.movers, shift.value) == (12, (), 0)


def test_categories_of_any_type_are_compared_as_text() -> None:
    found = _shift("language", pl.Series(["en", "de"], dtype=pl.Categorical), pl.Series(["en", "de"]))
    assert [shift.value for shift in found.shifts] == [0]


def test_the_length_shift_holds_quantiles_and_both_histograms() -> None:
    base, new = np.arange(1, 1001), np.arange(501, 1501)
    found = _shift("length", pl.Series(base), pl.Series(new))
    (shift,) = found.shifts
    assert math.isclose(shift.value, 0.5)
    assert [share.name for share in shift.shares] == ["p5", "p25", "p50", "p75", "p95"]
    assert shift.shares[2] == Share("p50", float(np.quantile(base, 0.5, method="nearest")), 1001)
    assert shift.histogram is not None
    assert {name: sum(rows) for name, rows in shift.histogram.rows.items()} == {"base": 1000, "new": 1000}


@pytest.mark.parametrize(
    ("base", "new", "kinds", "reason"),
    [
        ({"topic": [None, None]}, {"topic": [None, None]}, [], None),
        ({}, {"topic": ["a", "b"]}, [], "the last version does not say it"),
        ({"topic": ["a", "b"]}, {}, [], "the new version does not say it"),
        ({"topic": [None, None]}, {"topic": ["a", "b"]}, ["topic"], None),
        ({"topic": ["a", None]}, {"topic": ["a", "b"]}, ["topic"], None),
    ],
)
def test_what_one_version_does_not_know_is_no_shift(
    base: dict[str, Any], new: dict[str, Any], kinds: list[str], reason: str | None
) -> None:
    typed = [{name: pl.Series(values, dtype=pl.String) for name, values in side.items()} for side in (base, new)]
    found = diff(frame([(1, 0), (2, 0)], columns=typed[0]), frame([(1, 0), (2, 0)], columns=typed[1]))
    assert [shift.kind for shift in found.shifts] == kinds
    assert found.not_compared.get("topic") == reason


def test_a_language_that_nobody_looked_for_has_not_drifted() -> None:
    found = _shift("language", pl.Series([None, None], dtype=pl.String), pl.Series(["en", "en"]))
    assert found.shifts == ()
    assert "last version" in found.not_compared["language"]


def test_a_version_without_rows_is_compared_but_for_its_mix() -> None:
    found = diff(
        frame([(1, 0)], columns={"characters": [5]}), frame([]).with_columns(characters=pl.lit(1, dtype=pl.Int64))
    )
    assert found.changes == Changes(removed=1)
    assert found.shifts == ()
    assert found.not_compared["length"] == "the new version has no rows"


# --- statistics

lengths = st.lists(st.integers(0, 40), min_size=2, max_size=60)
mixes = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), min_size=1).filter(lambda mix: sum(mix.values()))


@settings(max_examples=100, deadline=None)
@given(one=lengths, other=lengths)
def test_kolmogorov_smirnov_is_scipys(one: list[int], other: list[int]) -> None:
    expected = ks_2samp(one, other, method="asymp").statistic
    assert math.isclose(kolmogorov_smirnov(pl.Series(one), pl.Series([*other, None])), expected, abs_tol=1e-12)


@settings(max_examples=100, deadline=None)
@given(one=mixes, other=mixes)
def test_jensen_shannon_is_scipys(one: dict[str, int], other: dict[str, int]) -> None:
    names = sorted({*one, *other})
    expected = jensenshannon([one.get(n, 0) for n in names], [other.get(n, 0) for n in names], base=2)
    found = jensen_shannon(one, other)
    # Near 0 the square root makes SciPy's rounding visible, or a nan of it.
    assert math.isclose(found, 0.0 if math.isnan(expected) else expected, abs_tol=1e-7)
    assert math.isclose(found, jensen_shannon(other, one), abs_tol=1e-9)
    assert 0 <= found <= 1


def test_nothing_in_common_is_one() -> None:
    assert jensen_shannon({"a": 3}, {"b": 5}) == 1
    assert kolmogorov_smirnov(pl.Series([1, 2]), pl.Series([3])) == 1


def test_no_rows_have_no_distance() -> None:
    with pytest.raises(ValueError, match="no rows"):
        kolmogorov_smirnov(pl.Series([1]), pl.Series([None], dtype=pl.Int64))
    with pytest.raises(ValueError, match="no rows"):
        jensen_shannon({}, {"a": 1})


@settings(max_examples=100, deadline=None)
@given(one=lengths, other=st.lists(st.integers(0, 10**6), max_size=40))
def test_a_histogram_holds_every_row(one: list[int], other: list[int]) -> None:
    found = histogram({"one": pl.Series(one), "other": pl.Series(other, dtype=pl.Int64)})
    assert found is not None
    assert list(found.edges) == sorted(set(found.edges))
    assert 1 <= found.bins <= 24
    assert [len(rows) for rows in found.rows.values()] == [found.bins] * 2
    assert {name: sum(rows) for name, rows in found.rows.items()} == {"one": len(one), "other": len(other)}


def test_a_histogram_puts_rows_where_they_belong() -> None:
    found = histogram({"rows": pl.Series(range(100, 148))})
    assert found is not None
    assert (found.edges[0], found.edges[-1], found.bins) == (100, 148, 24)
    assert set(found.rows["rows"]) == {2}


def test_a_histogram_of_nothing_is_none() -> None:
    assert histogram({"rows": pl.Series([], dtype=pl.Int64)}) is None
    assert quantiles(pl.Series([], dtype=pl.Int64)) == {}


def test_counts_name_what_has_no_value() -> None:
    assert counts(pl.Series(["b", "a", None, "b", None, "c"])) == {NO_VALUE: 2, "b": 2, "a": 1, "c": 1}


# --- the question to a person


def test_a_summary_fits_a_task() -> None:
    found = Diff(
        base_rows=60_000, new_rows=52_000, changes=Changes(1_000, 9_000, 500, 50_500), moved=7,
        shifts=tuple(Shift(kind, "Jensen-Shannon", 0.125, ()) for kind in diff_module.KINDS),
    )  # fmt: skip
    text = summary(
        found,
        {"rows_in": 61_000, "published": 52_000, "quarantined": 6_000, "duplicates": 3_000, "left_out": 0},
        [f"reason {number}" for number in range(9)],
        added=["ask me@example.org\n| `a` ``b`` |"] * 5,
        removed=["x" * 5_000] * 5,
        report_url="/nightshift/reports/a(b).html",
        mask=lambda text: text.replace("me@example.org", "[EMAIL]"),
    )
    lines = text.splitlines()
    assert len(lines) <= 25
    assert lines[0] == "A person is asked because 9 limits of the contract are broken:"
    assert "- and 5 more" in lines
    assert "| 61,000 | 52,000 | 6,000 | 3,000 | 0 |" in lines
    assert "| 60,000 | 1,000 | 9,000 | 500 | 50,500 | 7 |" in lines
    assert lines.count("- added: ``` ask [EMAIL] | `a` ``b`` | ```") == 3
    assert "length 0.125" in text
    assert "(5,000 characters)" in text
    assert max(map(len, lines)) < 260
    assert lines[-1] == "[The whole report](</nightshift/reports/a(b).html>)"


def test_a_first_version_is_compared_with_nothing() -> None:
    text = summary(diff(None, frame([(1, 0)])), {"rows_in": 1, "published": 1}, ["one"], mask=str)
    assert text.startswith("A person is asked because 1 limit of the contract is broken:\n- one\n")
    assert "Shifts" not in text
    assert "rows before" not in text


@pytest.mark.parametrize(
    ("base", "new", "share"), [(100, 90, 0.1), (100, 100, 0), (100, 120, 0), (0, 5, 0), (10, 0, 1)]
)
def test_the_lost_share(base: int, new: int, share: float) -> None:
    assert lost_share(Diff(base, new, Changes(removed=max(0, base - new), unchanged=min(base, new)))) == share
