"""Duplicates and the split: what stays and which side follow from the content alone."""

from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.base import digest
from llmjobs.contracts.instructions import Split
from llmjobs.instructions.duplicates import identify, point_to_kept
from llmjobs.instructions.splits import divide, refuse_leaks, side_of


def table(*pairs: tuple[str, str], system: str = "") -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(pairs):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        rows.append({"row": number, "messages": messages})
    return identify(pl.DataFrame(rows))


def test_row_id_is_the_digest_of_the_messages() -> None:
    rows = table(("q", "a"))
    assert rows["row_id"][0] == digest([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


def test_space_and_case_do_not_make_another_row() -> None:
    rows = table(("What is  up?", "Sky\n"), ("other", "row"), ("what is up?", "sky"), ("What is up?", "Sea"))
    kept = point_to_kept(rows, exact=True)["kept_row"].to_list()
    smallest = 0 if rows["row_id"][0] < rows["row_id"][2] else 2
    assert kept == [smallest, 1, smallest, 3]


def test_of_identical_rows_the_first_stays() -> None:
    assert point_to_kept(table(("q", "a"), ("q", "a"), ("q", "a")), exact=True)["kept_row"].to_list() == [0, 0, 0]


def test_text_does_not_move_between_turns() -> None:
    rows = table(("a b", "c"), ("a", "b c"))
    assert point_to_kept(rows, exact=True)["kept_row"].to_list() == [0, 1]


def test_dedupe_can_be_off() -> None:
    assert point_to_kept(table(("q", "a"), ("q", "a")), exact=False)["kept_row"].to_list() == [0, 1]


def test_rows_with_the_same_prompt_are_one_group() -> None:
    rows = pl.concat([table(("Say hi", "Hi"), ("say  HI", "Hello")), table(("Say hi", "Hoi"), system="Dutch.")])
    assert rows["group_id"].n_unique() == 1
    assert rows["row_id"].n_unique() == 3


def test_shares_are_met() -> None:
    split = Split(train=0.7, validation=0.1, test=0.2)
    sides = [side_of(f"group {number}", split) for number in range(20_000)]
    found = {side: sides.count(side) / len(sides) for side in ("train", "validation", "test")}
    assert found == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.01)


def test_sides_are_the_same_on_every_machine_and_day() -> None:
    split = Split()
    assert " ".join(side_of(str(number), split)[:2] for number in range(12)) == "tr va tr tr te tr tr tr te tr tr va"


def test_salt_deals_anew() -> None:
    groups = [str(number) for number in range(500)]
    one, other = ([side_of(group, Split(salt=salt)) for group in groups] for salt in ("", "2027"))
    assert one != other


def test_added_rows_move_nobody() -> None:
    few = divide(table(*[(f"q{number}", "a") for number in range(100)]), Split())
    many = divide(table(*[(f"q{number}", "a") for number in range(400)]), Split())
    for side, rows in few.items():
        assert set(rows["row_id"]) <= set(many[side]["row_id"])


def test_a_prompt_on_two_sides_stops_everything() -> None:
    rows = table(("q", "a"))
    with pytest.raises(RuntimeError, match="1 prompts of test are in train too"):
        refuse_leaks({"train": rows, "validation": rows.clear(), "test": rows})
