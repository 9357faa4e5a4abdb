"""Leaks: nothing that is trained on, and nothing that is selected with, is what models are measured with."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.instructions.alike.leaks import SETS, leaking, refuse_leaks
from llmjobs.instructions.alike.near import PAIRS
from llmjobs.instructions.alike.sides import SIDE

SCHEMA: dict[str, Any] = {"row": pl.UInt32, "side": SIDE, "prompt_key": pl.Int128, "group_key": pl.Int128}
CHATS: dict[str, Any] = {"row": pl.UInt32, "side": SIDE, "first_key": pl.Int128, "prompt_key": pl.Int128}


def rows_of(*rows: tuple[str, int]) -> pl.DataFrame:
    """Return rows 0, 1, ... with a side and a prompt, each a group of its own."""
    table = pl.DataFrame([(row, *both, row) for row, both in enumerate(rows)], schema=SCHEMA, orient="row")
    return table.with_columns(first_key="prompt_key")


def sets_of(*rows: tuple[int, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SETS, orient="row")


def pairs_of(*pairs: tuple[int, int, float]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=PAIRS, orient="row")


def found(rows: pl.DataFrame, pairs: pl.DataFrame | None = None, **more: Any) -> list[tuple[int, str]]:
    leaks = leaking(rows, pairs, **{"sets": None, "near_threshold": 0.9, **more})
    assert leaks.columns == ["row", "matches"]
    return [(row, ", ".join(names)) for row, names in leaks.iter_rows()]


def test_a_prompt_of_a_held_out_row_leaks() -> None:
    rows = rows_of(("train", 1), ("test", 1), ("train", 2), ("validation", 3), ("train", 3), ("train", 1))
    assert found(rows) == [(0, "test"), (4, "validation"), (5, "test")]


def test_a_prompt_of_an_evaluation_set_leaks() -> None:
    rows = rows_of(("train", 1), ("validation", 2), ("test", 3), ("train", 4))
    sets = sets_of((-1, "gsm8k", 1), (-2, "mmlu", 1), (-3, "mmlu", 2), (-4, "gsm8k", 3))
    assert found(rows, sets=sets) == [(0, "gsm8k, mmlu"), (1, "mmlu")]


def test_a_set_with_a_comma_in_its_name_is_one_set() -> None:
    sets = sets_of((-1, "maths, easy", 1), (-2, "b", 1))
    leaks = leaking(rows_of(("train", 1)), None, sets=sets, near_threshold=0.9)
    assert leaks["matches"].to_list() == [["b", "maths, easy"]]


def test_chats_that_share_a_greeting_do_not_match_but_a_question_and_the_chat_that_begins_with_it_do() -> None:
    chats = [("train", 1, 10), ("test", 1, 11), ("train", 2, 2), ("test", 2, 12), ("train", 3, 13), ("test", 3, 3)]
    chats += [("train", 4, 14), ("validation", 4, 14)]
    rows = pl.DataFrame([(row, *chat) for row, chat in enumerate(chats)], schema=CHATS, orient="row")
    assert found(rows) == [(2, "test"), (4, "test"), (6, "validation")]
    refuse(rows.filter(~pl.col("row").is_in([2, 4, 6])))
    for row in (2, 4, 6):
        with pytest.raises(RuntimeError, match=r"1 prompts of (test|validation) are in train too"):
            refuse(rows.filter(pl.col("row").is_in([0, 1, 3, 5, 7, row])))


def test_whatever_follows_a_question_of_an_evaluation_set_it_leaks() -> None:
    rows = pl.DataFrame([(0, "train", 1, 10), (1, "validation", 1, 1), (2, "train", 2, 11)], schema=CHATS, orient="row")
    sets = sets_of((-1, "gsm8k", 1))
    assert found(rows, sets=sets) == [(0, "gsm8k"), (1, "gsm8k")]
    with pytest.raises(RuntimeError, match="1 prompts of gsm8k are in train too"):
        refuse(rows.filter(pl.col("row") != 1), sets=sets)


def test_a_near_row_leaks_from_the_threshold_on() -> None:
    rows = rows_of(("train", 1), ("test", 2), ("train", 3), ("train", 4), ("train", 5))
    pairs = pairs_of((0, 1, 0.9), (1, 2, 0.899), (-7, 3, 0.95), (0, 4, 0.95))
    sets = sets_of((-7, "gsm8k", 70))
    assert found(rows, pairs, sets=sets) == [(0, "test"), (3, "gsm8k")]
    assert found(rows, pairs, sets=sets, near_threshold=0.85) == [(0, "test"), (2, "test"), (3, "gsm8k")]
    assert found(rows, pairs, sets=sets, near_threshold=None) == []


def test_what_is_near_one_is_near_its_equals() -> None:
    rows = rows_of(("train", 1), ("train", 2), ("train", 3), ("test", 4), ("test", 5))
    pairs = pairs_of((0, 1, 1.0), (0, 2, 1.0), (0, 3, 0.9))
    assert found(rows, pairs) == [(0, "test"), (1, "test"), (2, "test")]
    assert found(rows.filter(pl.col("row") != 0), pairs) == [(1, "test"), (2, "test")]
    assert found(rows, pairs_of((1, 4, 1.0), (2, 4, 1.0))) == [(1, "test"), (2, "test")]


def test_a_row_is_not_lost_to_a_validation_row_that_goes() -> None:
    rows = rows_of(("train", 1), ("validation", 2), ("test", 2))
    assert found(rows, pairs_of((0, 1, 0.95))) == [(1, "test")]


def test_nothing_leaks_from_nothing() -> None:
    assert found(rows_of()) == []
    assert found(rows_of(("train", 1), ("train", 1))) == []


def refuse(rows: pl.DataFrame, pairs: pl.DataFrame | None = None, **more: Any) -> None:
    refuse_leaks(rows, pairs, **{"sets": None, "near_threshold": 0.9, **more})


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ((("train", 1), ("test", 1)), "1 prompts of test are in train too"),
        ((("train", 1), ("validation", 1)), "1 prompts of validation are in train too"),
        ((("validation", 1), ("test", 1)), "1 prompts of test are in validation too"),
        ((("train", 8),), "1 prompts of gsm8k are in train too"),
        ((("validation", 8),), "1 prompts of gsm8k are in validation too"),
    ],
)
def test_a_shared_prompt_stops_everything(rows: tuple[tuple[str, int], ...], text: str) -> None:
    with pytest.raises(RuntimeError, match=f"^{text}; nothing is published$"):
        refuse(rows_of(*rows), sets=sets_of((-1, "gsm8k", 8)))


def test_a_set_may_be_named_as_a_side_is() -> None:
    sets = sets_of((-1, "test", 8), (-2, "validation", 9))
    rows = rows_of(("train", 1), ("test", 1), ("validation", 9))
    assert found(rows, sets=sets) == [(0, "test"), (2, "validation")]
    with pytest.raises(RuntimeError, match="1 prompts of test are in train too"):
        refuse(rows.head(2), sets=sets)
    with pytest.raises(RuntimeError, match="1 prompts of validation are in validation too"):
        refuse(rows.tail(1), sets=sets)


def test_a_group_on_two_sides_stops_everything() -> None:
    with pytest.raises(RuntimeError, match="1 groups of validation are in train too"):
        refuse(rows_of(("train", 1), ("validation", 2)).with_columns(group_key=pl.lit(7, pl.Int128)))


def test_a_near_pair_over_sides_stops_everything() -> None:
    rows = rows_of(("train", 1), ("test", 2), ("train", 3))
    refuse(rows, pairs_of((0, 1, 0.8), (0, 2, 0.95)))
    with pytest.raises(RuntimeError, match="1 near rows of test are in train too"):
        refuse(rows, pairs_of((0, 1, 0.9)))
    with pytest.raises(RuntimeError, match="1 near rows of gsm8k are in train too"):
        refuse(rows, pairs_of((-1, 2, 0.9)), sets=sets_of((-1, "gsm8k", 8)))


ROWS = st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 6)), min_size=1, max_size=12)
ENDS = st.tuples(st.integers(-3, 11), st.integers(-3, 11), st.sampled_from([0.8, 0.9, 1.0]))


@settings(max_examples=25, deadline=None)
@given(ROWS, st.lists(ENDS, max_size=8), st.lists(st.integers(0, 9), max_size=3))
def test_without_the_leaking_rows_nothing_is_refused(
    rows: list[tuple[str, int]], ends: list[tuple[int, int, float]], prompts: list[int]
) -> None:
    table = rows_of(*rows)
    sets = sets_of(*[(-1 - number, f"set{number % 2}", prompt) for number, prompt in enumerate(prompts)])
    pairs = pairs_of(*[(min(one, other), max(one, other), like) for one, other, like in ends if one != other])
    leaks = leaking(table, pairs, sets=sets, near_threshold=0.9)
    gone = set(leaks["row"])
    assert len(gone) == len(leaks)
    staying = table.filter(~pl.col("row").is_in(gone))
    refuse(staying, pairs, sets=sets)
    for row in gone:  # each of them was a reason to refuse
        with pytest.raises(RuntimeError):
            refuse(pl.concat([staying, table.filter(pl.col("row") == row)]), pairs, sets=sets)
