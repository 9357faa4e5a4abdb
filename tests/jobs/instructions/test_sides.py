"""The split: a group has one side, for ever; near groups share it."""

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import Split
from llmjobs.instructions.alike.leaks import leaking
from llmjobs.instructions.alike.near import PAIRS
from llmjobs.instructions.alike.sides import SIDE, SIDES, assign_sides, remembered, side_of_keys

THIRDS = Split(train=0.4, validation=0.3, test=0.3)


def keys(*numbers: int) -> pl.Series:
    """Return keys as hashes are: spread over 128 bits, positive and negative."""
    chance = [random.Random(number).getrandbits(128) - (1 << 127) for number in numbers]
    return pl.Series("group_key", chance, dtype=pl.Int128)


def rows_of(*groups: int) -> pl.DataFrame:
    """Return rows 0, 1, ... of these groups."""
    return asking(list(groups), list(groups))


def asking(groups: list[int], prompts: list[int], firsts: list[int] | None = None) -> pl.DataFrame:
    """Return rows 0, 1, ... of these groups that ask these things, first these."""
    columns = {"group_key": keys(*groups), "prompt_key": keys(*prompts), "first_key": keys(*(firsts or prompts))}
    return pl.DataFrame({"row": range(len(groups)), **columns}, schema_overrides={"row": pl.UInt32})


def pairs_of(*pairs: tuple[int, int], similarity: float = 0.9) -> pl.DataFrame:
    return pl.DataFrame([(*pair, similarity) for pair in pairs], schema=PAIRS, orient="row")


def known_of(**sides: int | list[int]) -> pl.DataFrame:
    numbers = [
        (number, side) for side, group in sides.items() for number in ([group] if isinstance(group, int) else group)
    ]
    return pl.DataFrame({"group_key": keys(*[number for number, _ in numbers]), "side": [side for _, side in numbers]})


def assigned(rows: pl.DataFrame, split: Split = THIRDS, **more: Any) -> list[str]:
    return assign_sides(rows, split, **{"known": None, "pairs": None, **more}).to_list()


def of_group(side: str, count: int) -> list[int]:
    """Return the numbers of groups that have this side by themselves."""
    sides = side_of_keys(keys(*range(400)), THIRDS).to_list()
    return [number for number, mine in enumerate(sides) if mine == side][:count]


def test_shares_are_met() -> None:
    split = Split(train=0.7, validation=0.1, test=0.2)
    found = dict(side_of_keys(keys(*range(20_000)), split).value_counts(normalize=True).rows())
    assert found == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.01)


def test_shares_are_met_by_keys_that_are_no_hashes() -> None:
    counted = pl.Series(range(-10_000, 10_000), dtype=pl.Int128)
    found = dict(side_of_keys(counted, THIRDS).value_counts(normalize=True).rows())
    assert found == pytest.approx({"train": 0.4, "validation": 0.3, "test": 0.3}, abs=0.015)


def test_sides_are_the_same_on_every_machine_and_in_every_release() -> None:
    numbers = pl.Series([0, 1, -1, 1 << 100, -(1 << 127), (1 << 127) - 1, *range(10, 20)], dtype=pl.Int128)
    assert (
        " ".join(side[:2] for side in side_of_keys(numbers, THIRDS))
        == "te tr va te te va tr tr te tr te tr tr tr tr te"
    )
    salted = THIRDS.model_copy(update={"salt": "2027"})
    assert (
        " ".join(side[:2] for side in side_of_keys(numbers, salted))
        == "te va tr te te tr tr te te va tr te va tr va tr"
    )


def test_another_salt_deals_anew() -> None:
    one, other = (side_of_keys(keys(*range(2_000)), Split(salt=salt)).to_list() for salt in ("", "2027"))
    moved = sum(mine != yours for mine, yours in zip(one, other, strict=True)) / 2_000
    assert moved == pytest.approx(1 - 0.8**2 - 2 * 0.1**2, abs=0.04)  # as two independent deals differ


def test_a_side_that_has_no_share_gets_nothing() -> None:
    assert set(side_of_keys(keys(*range(500)), Split(train=1, validation=0, test=0))) == {"train"}


def test_rows_keep_their_order_and_groups_their_side() -> None:
    rows = rows_of(5, 3, 5, 1, 3)
    sides = assign_sides(rows, THIRDS, known=None, pairs=None)
    assert sides.dtype == SIDE
    assert sides.name == "side"
    assert sides.to_list() == side_of_keys(rows["group_key"], THIRDS).to_list()


def test_no_rows_no_sides() -> None:
    assert assigned(rows_of(), pairs=pairs_of(), known=known_of()) == []


def test_near_groups_take_the_side_of_the_smallest_key() -> None:
    groups = of_group("train", 1) + of_group("validation", 1) + of_group("test", 1)
    rows = rows_of(*groups)
    smallest = rows.sort("group_key")["row"][0]
    assert assigned(rows) == ["train", "validation", "test"]
    assert assigned(rows, pairs=pairs_of((0, 1), (1, 2))) == [SIDES[smallest]] * 3


def test_joining_many_groups_favours_no_side() -> None:
    groups = list(range(6_000))
    pairs = pairs_of(*[(number, number + 1) for number in groups[:-1] if number % 3 < 2])
    found = dict(pl.Series(assigned(rows_of(*groups), pairs=pairs)).value_counts(normalize=True).rows())
    assert found == pytest.approx({"train": 0.4, "validation": 0.3, "test": 0.3}, abs=0.04)


def test_a_new_group_joins_the_side_of_its_known_neighbours() -> None:
    new = of_group("train", 1)[0]
    sides = assigned(rows_of(new, 500, 501), pairs=pairs_of((0, 1)), known=known_of(test=500, validation=501))
    assert sides == ["test", "test", "validation"]


def test_between_two_sides_a_new_group_goes_to_train_and_nobody_moves() -> None:
    new = of_group("test", 1)[0]
    known = known_of(test=500, validation=501)
    assert assigned(rows_of(new, 500, 501), pairs=pairs_of((0, 1), (0, 2)), known=known) == [
        "train",
        "test",
        "validation",
    ]


def test_rows_that_are_equal_share_their_neighbours() -> None:
    groups = of_group("train", 1) + of_group("test", 1) + of_group("validation", 1)
    pairs = pl.concat([pairs_of((0, 1), (0, 2), similarity=1.0), pairs_of((0, 3))])
    kept = rows_of(999, *groups).filter(pl.col("row") > 0)  # the row that stands for the others was dropped
    assert len(set(assigned(kept, pairs=pairs))) == 1


def test_rows_that_are_not_there_join_nobody() -> None:
    groups = of_group("train", 1) + of_group("test", 1)
    assert assigned(rows_of(*groups), pairs=pairs_of((-1, 0), (-1, 1), (0, 7), (1, 7))) == ["train", "test"]


def test_groups_that_ask_the_same_are_on_one_side() -> None:
    apart = [side for name in SIDES for side in of_group(name, 2)]
    rows = asking(apart, [900] * 6)
    assert len(set(assigned(rows))) == 1
    assert len(set(assigned(asking(apart, apart, [900] * 6)))) == 3  # a shared greeting joins nobody
    first_of_all = asking([*apart, 900], [*apart, 900], [900] * 7)
    assert len(set(assigned(first_of_all))) == 1  # but to the row that asks nothing else
    known = known_of(test=apart[0])
    assert set(assigned(rows, known=known)) == {"test"}


def test_a_row_remembers_its_side_when_it_is_in_another_group() -> None:
    rows = pl.DataFrame({"row_key": keys(1, 2, 3, 4, 5), "group_key": keys(10, 11, 11, 12, 13)})
    published = pl.DataFrame(
        {
            "row_key": keys(1, 2, 3, 9),
            "group_key": keys(10, 20, 21, 12),
            "side": ["train", "train", "test", "validation"],
        }
    )
    found = dict(remembered(rows, published).iter_rows())
    wanted = {10: "train", 11: "test", 12: "validation", 20: "train", 21: "test"}
    assert found == {keys(group)[0]: side for group, side in wanted.items()}


GROUPS = st.integers(0, 11)
NIGHT = st.tuples(st.lists(GROUPS, min_size=1, max_size=14), st.sets(st.tuples(GROUPS, GROUPS), max_size=8))


@settings(max_examples=50, deadline=None)
@given(st.lists(NIGHT, min_size=2, max_size=6))
def test_no_group_ever_changes_sides(nights: list[tuple[list[int], set[tuple[int, int]]]]) -> None:
    """Rows come and go, and groups turn out to be near each other, over several versions."""
    last: dict[int, str] = {}
    for groups, links in nights:
        rows = rows_of(*groups)
        first_row = {group: groups.index(group) for group in groups}
        ends = [(first_row[one], first_row[other]) for one, other in sorted(links) if {one, other} <= set(groups)]
        pairs = pairs_of(*[(min(end), max(end)) for end in ends if end[0] != end[1]])
        named = {side: [group for group in last if last[group] == side] for side in SIDES}
        sides = assigned(rows, known=known_of(**named), pairs=pairs)
        of: dict[int, set[str]] = {}
        for group, side in zip(groups, sides, strict=True):
            of.setdefault(group, set()).add(side)
        assert all(len(found) == 1 for found in of.values())
        now = {group: next(iter(found)) for group, found in of.items()}
        assert all(last[group] == side for group, side in now.items() if group in last)
        for one, other in pairs.select("row", "other").rows():
            strangers = {groups[one], groups[other]} - last.keys()
            held = {last[group] for group in set(groups) & last.keys()}
            if strangers == {groups[one], groups[other]} and not held:
                assert sides[one] == sides[other]
        last = now


ASKED = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14)


@settings(max_examples=50, deadline=None)
@given(ASKED)
def test_a_first_night_has_no_leak_of_its_own_making(asked: list[tuple[int, int, int]]) -> None:
    """Whatever conversations rows name, and whatever they ask first and later."""
    firsts = [first for _, first, _ in asked]
    prompts = [first if not later else 100 + 10 * first + later for _, first, later in asked]
    rows = asking([1_000 + group for group, _, _ in asked], prompts, firsts)
    rows = rows.with_columns(side=assign_sides(rows, THIRDS, known=None, pairs=None))
    assert leaking(rows, None, sets=None, near_threshold=None).is_empty()
