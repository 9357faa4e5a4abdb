"""What an audit says of rows: where each went, why, and what stays in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmjobs.instructions.audit import (
    SetAside,
    as_raw,
    breach_sentence,
    files,
    quarantined_rows,
    reasons,
    repaired_parts,
)
from llmjobs.instructions.ends import Past
from llmjobs.instructions.expectations import Breach
from llmjobs.instructions.report.findings import _raw_parts
from tests.jobs.instructions.nights import accounts_of, config_of, lines


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"instruction": f"Add one to {number}.", "input": "", "output": f"The sum is {number + 1}.", **changes}


CONTENT = {
    "a.jsonl": lines([row(1), row(2, output=""), row(3, input="<noinput>")]) + b'\n{"instruction": \n',
    "b.jsonl": lines([row(1), row(4, output="As an AI, I rest."), row(5, output="")]),
}


def test_every_file_adds_up(tmp_path: Path) -> None:
    accounts = accounts_of(CONTENT, tmp_path / "part")
    found = {line["source_file"]: line for line in files(accounts)}
    assert {name: line["rows"] for name, line in found.items()} == {"a.jsonl": 4, "b.jsonl": 3}
    for line in found.values():
        assert line["rows"] == sum(line[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    assert reasons(accounts.read, config_of().contract) == {"empty_answer": 2, "speaks_as_ai": 1, "unreadable": 1}


def test_quarantined_rows_are_whole(tmp_path: Path) -> None:
    accounts = accounts_of(CONTENT, tmp_path / "part")
    found = list(quarantined_rows(accounts, config_of().contract))
    assert [(one["source_file"], one["source_line"]) for one in found] == [
        ("a.jsonl", 2), ("a.jsonl", 4), ("b.jsonl", 2), ("b.jsonl", 3),
    ]  # fmt: skip
    assert all(one["raw"] == one["raw_before"] for one in found)
    assert json.loads(found[0]["raw"]) == row(2, output="")
    assert "line 4" in found[1]["reasons"][0]["detail"]


def test_rows_set_aside_say_what_stays(tmp_path: Path) -> None:
    accounts = accounts_of(CONTENT, tmp_path / "part")
    writer = SetAside(tmp_path / "aside.parquet", accounts)
    for frame in accounts.part.in_order():
        writer.add(frame)
    writer.close()
    (found,) = pl.read_parquet(tmp_path / "aside.parquet").to_dicts()
    assert (found["end"], found["similarity"], found["kept_in_dataset"]) == ("duplicate", 1.0, None)
    assert (found["source_file"], found["kept_file"], found["kept_line"]) == ("b.jsonl", "a.jsonl", 1)
    assert found["messages"][0]["content"] == "Add one to 1."


def test_of_rows_taken_down_no_repair_is_told(tmp_path: Path) -> None:
    first = accounts_of(CONTENT, tmp_path / "one")
    assert [fix["before"] for fix in repaired_parts(first)] == ["<noinput>"]
    number = first.part.table("fixes")["row"][0]
    rows = pl.concat(first.part.in_order())
    taken = rows.filter(pl.col("row") == number)["row_id"].bin.encode("hex")
    accounts = accounts_of(CONTENT, tmp_path / "two", past=Past(taken_down=frozenset(taken)))
    assert list(repaired_parts(accounts)) == []
    gone = [one for one in quarantined_rows(accounts, config_of().contract) if one["row"] == number]
    assert [(one["raw"], one["reasons"]) for one in gone] == [(None, [{"rule": "taken_down"}])]


def test_a_row_is_written_as_the_reader_takes_it() -> None:
    calls = '[{"arguments":{"a":1},"name":"f"}]'
    messages = [
        {"role": "user", "content": "Go", "tool_calls": None},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    assert json.loads(as_raw({"messages": messages, "tools": '[{"name":"f"}]'})) == {
        "messages": [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
        ],
        "tools": [{"name": "f"}],
    }


@pytest.mark.parametrize(
    ("breach", "part"),
    [
        (Breach("budgets.max_quarantined_share", 8, 0.07, "fail"), "8 of 100 rows (8.00%) are quarantined"),
        (Breach("budgets.warn_lost_share", 0.3, 0.2, "ask"), "30.00% of the last version's rows are lost"),
        (Breach("budgets.min_rows", 4, 5, "fail"), "4 rows could be published and budgets.min_rows asks for 5"),
        (
            Breach("split.train_rows", 0, 1, "fail"),
            "none of 9 published rows is on the train side (4 validation, 5 test)",
        ),
        (Breach("drift.topic.fail", 0.31, 0.2, "fail"), "topic moved by 0.310 and drift.topic.fail allows 0.2"),
        (
            Breach("drift.topic.warn", 0.2500004, 0.25, "ask"),
            "topic moved by 0.2500004 and drift.topic.warn",
        ),
        (Breach("budgets.max_lost_share", 0.20004, 0.2, "fail"), "20.004% of the last version's rows are lost"),
        (Breach("rules.refusal", 3, 0, "fail"), "3 rows break rules.refusal, which is set to fail"),
    ],
)
def test_a_broken_limit_is_told_with_its_numbers(breach: Breach, part: str) -> None:
    counts = {"rows_in": 100, "published": 9, "validation_rows": 4, "test_rows": 5}
    assert part in breach_sentence(breach, counts)


def test_raw_rows_are_shown_in_parts() -> None:
    assert _raw_parts(None) == ()
    assert _raw_parts('{"a": "b", "c": [1], "d": ""}') == (("a", "b"), ("c", "[1]"))
    assert _raw_parts("oops") == (("raw", "oops"),)
    assert _raw_parts("[" * 100_000) == (("raw", "[" * 100_000),)
