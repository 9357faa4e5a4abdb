"""JSON texts are taken apart, however deep they are."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from llmjobs.contracts.data_contract import Answer
from llmjobs.instructions.json_texts import texts_in, value_of
from llmjobs.instructions.problems import with_columns
from llmjobs.instructions.rules.json_answers import problems_and_labels
from llmjobs.instructions.rules.tool_calls import is_broken

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["{oops", "", DEEP])
def test_what_python_does_not_read_stays_a_text(text: str) -> None:
    assert value_of(text) == text


def test_texts_come_in_their_order() -> None:
    value = {"a": "1", "b": ["2", {"c": "3", "n": 4}, None], "d": "5"}
    assert list(texts_in(value)) == ["1", "2", "3", "5"]


def test_quoted_json_is_taken_apart_where_asked() -> None:
    quoted = json.dumps({"d": ["2", json.dumps(["3"])]})
    value: Any = ["1", quoted, "{oops", "4"]
    assert list(texts_in(value)) == value
    assert list(texts_in(value, quoted=True)) == ["1", quoted, "2", '["3"]', "3", "{oops", "4"]


def test_no_depth_is_too_deep() -> None:
    value: Any = "found"
    for _ in range(100_000):
        value = [value]
    assert list(texts_in(value)) == ["found"]
    assert list(texts_in([DEEP], quoted=True)) == [DEEP]


def test_rules_and_problems_survive_it() -> None:
    assert is_broken(DEEP, [])
    assert is_broken(None, [DEEP])
    assert with_columns("no row", DEEP) == "no row"


def test_a_json_answer_of_any_depth_is_judged() -> None:
    answer = Answer.model_validate({"format": "json", "label": "team", "fields": {"team": {"type": "string"}}})
    depths = [100_000, *range(800, 1000)]
    answers = pl.Series([f'{{"team": {"[" * depth}{"]" * depth}}}' for depth in depths])
    problems = problems_and_labels(answers, answer)["json_problem"].to_list()
    assert problems[0] == "not valid JSON: nested too deeply"
    assert all(problem is not None for problem in problems)
