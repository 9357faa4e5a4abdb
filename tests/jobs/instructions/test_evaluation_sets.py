"""Evaluation sets: read in their own format, with the contract's repairs, and part of what a night asks."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.instructions import prepare
from llmjobs.instructions.evaluation import evaluation_rows, sources_of
from llmjobs.instructions.identity import normalised
from llmjobs.lake import Lake
from tests.jobs.instructions.nights import (
    Good,
    MakeConfig,
    Raw,
    audit_file,
    audit_lines,
    config_of,
    prompts_of,
    rows_of,
)


def test_rows_of_all_sets_in_any_format(lake: Lake, raw: Raw) -> None:
    raw("one.jsonl", [{"q": "Where is  IT?", "a": ""}, {"q": "And\u0007 now?", "a": "N/A"}])
    raw("two.json", [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}])
    raw("three.jsonl", b"oops\n")
    sets = [
        {"name": "one", "source": "raw/rows/one.jsonl", "mapping": {"instruction": "q", "output": "a"}},
        {"name": "two", "source": "raw/rows/two.json\nraw/rows/three.jsonl"},
    ]
    contract = config_of(leaks={"sets": sets}).contract
    evaluation = evaluation_rows(sources_of(lake, contract, None), contract)
    assert evaluation.sets == {"one": {"read": 2, "usable": 2}, "two": {"read": 2, "usable": 1}}
    found = evaluation.rows
    assert found["row"].to_list() == [-1, -2, -3]
    assert found["name"].to_list() == ["one", "one", "two"]
    assert "and now?" in found["text"][1]
    assert found["text"].to_list() == normalised(found["text"]).to_list()


def test_a_set_without_files_is_an_error(lake: Lake, raw: Raw, good: Good) -> None:
    contract = config_of(leaks={"sets": [{"name": "held", "source": "raw/held/*"}]}).contract
    with pytest.raises(BadData, match=r"'raw/held/\*' matches no file"):
        sources_of(lake, contract, None)


def test_another_set_is_another_question(lake: Lake, raw: Raw, config: MakeConfig, good: Good) -> None:
    raw("a.json", [good(row) for row in range(20)])
    held = [{"name": "held", "source": "raw/held/*.jsonl"}]
    raw("../held/a.jsonl", [good(100)])
    asked = config(leaks={"sets": held}, split={"train": 1, "validation": 0, "test": 0})
    assert prepare.run(asked).published == 20
    raw("../held/a.jsonl", [good(3, output="Another answer.")])
    second = prepare.run(asked)
    assert (second.published, second.reasons) == (19, {"leak": 1})
    (row,) = audit_lines(lake, second.audit_version, "quarantine.jsonl")
    assert row["reasons"] == [{"rule": "leak", "detail": "held"}]
    assert good(3)["instruction"] not in prompts_of(rows_of(lake, second.version))


QUESTIONS = [{"question": f"What is {number} and one?", "answer": f"It is {number + 1}."} for number in range(100)]


def gsm8k(**reading: Any) -> dict[str, Any]:
    return {"sets": [{"name": "gsm8k", "source": "raw/held/x.jsonl", **reading}]}


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        ({"mapping": {"instruction": "q", "output": "answer"}}, "field `q` is missing; its columns: question, answer"),
        ({"format": "alpaca"}, "field `instruction` is missing; its columns: question, answer"),
        ({"format": "messages"}, "field `messages` is missing; its columns: question, answer"),
    ],
)
def test_a_set_of_which_no_row_can_be_read_is_an_error(
    lake: Lake, raw: Raw, config: MakeConfig, reading: dict[str, Any], why: str
) -> None:
    raw("a.json", QUESTIONS[:1])
    raw("../held/x.jsonl", QUESTIONS)
    said = f"leaks.sets[gsm8k]: none of 100 rows of raw/held/x.jsonl can be read ({why})"
    with pytest.raises(BadData, match=f"^{re.escape(said)}$"):
        prepare.run(config(leaks=gsm8k(**reading)))
    contract = config(leaks={**gsm8k(**reading), "severity": "off"}).contract
    assert evaluation_rows(sources_of(lake, contract, None), contract).sets == {}  # nobody asks


def test_an_empty_set_and_one_without_questions_are_errors(lake: Lake, raw: Raw) -> None:
    contract = config_of(leaks=gsm8k()).contract
    raw("../held/x.jsonl", b"")
    with pytest.raises(BadData, match=r"none of 0 rows of raw/held/x\.jsonl can be read$"):
        evaluation_rows(sources_of(lake, contract, None), contract)
    raw("../held/x.jsonl", [{"messages": [{"role": "assistant", "content": "Ho"}]}])
    with pytest.raises(BadData, match="it asks nothing; its columns: messages"):
        evaluation_rows(sources_of(lake, contract, None), contract)


def test_rows_of_a_set_that_cannot_be_read_are_counted(
    lake: Lake, raw: Raw, config: MakeConfig, good: Good, caplog: pytest.LogCaptureFixture
) -> None:
    raw("a.json", [good(row) for row in range(20)])
    raw("../held/x.jsonl", [*QUESTIONS[:7], {"q": "Which?", "a": "That."}, "oops"])
    asked = gsm8k(mapping={"instruction": "question", "output": "answer"})
    with caplog.at_level(logging.WARNING):
        result = prepare.run(config(leaks=asked))
    said = "leaks.sets[gsm8k]: 7 of 9 rows of raw/held/x.jsonl can be read (field `question` is missing; its columns: "
    assert [record.message for record in caplog.records if "leaks.sets" in record.message] == [f"{said}q, a)"]
    audit = lake.manifest("audits", "rows", result.audit_version)
    assert audit
    assert audit.metrics["evaluation_sets"] == {"gsm8k": {"read": 9, "usable": 7}}
    report = audit_file(lake, result.audit_version, "report.html").read_text()
    assert [cell.partition("<")[0] for cell in report.partition(">gsm8k<")[2].split('">')[1:4]] == ["9", "7", "0"]
    assert "No train row matches a row that is tested on" in report


def test_a_chat_that_begins_with_a_question_of_a_set_leaks(lake: Lake, raw: Raw, config: MakeConfig) -> None:
    def chat(*asked: str) -> dict[str, Any]:
        roles = ("user", "assistant")
        return {"messages": [{"role": role, "content": f"{role} {text}"} for text in asked for role in roles]}

    raw("a.jsonl", [chat("where is it?", "and now?"), chat("hi", "where is it?"), chat("where is it?")])
    raw("../held/x.jsonl", [{"q": "User  WHERE is it?", "a": "Here."}])
    asked = gsm8k(mapping={"instruction": "q", "output": "a"})
    result = prepare.run(config(leaks=asked, split={"train": 1, "validation": 0, "test": 0}))
    assert (result.published, result.reasons) == (1, {"leak": 2})
    report = audit_file(lake, result.audit_version, "report.html").read_text()
    assert [cell.partition("<")[0] for cell in report.partition(">gsm8k<")[2].split('">')[1:4]] == ["1", "1", "2"]
    assert "<b>2</b> rows match one that is tested on" in report
    assert prompts_of(rows_of(lake, result.version)) == ["user hi"]
