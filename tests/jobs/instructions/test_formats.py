"""Formats: rows are taken apart into the columns of READ, and what is no row says why."""

import json
from typing import Any

import pytest

from llmjobs.contracts.data_contract import Format, Mapping
from llmjobs.instructions.raw.formats import COLUMNS, WrongShape, storable, take
from llmjobs.instructions.raw.row_layouts import Layouts


def taken(row: Any, form: Format = "auto", mapping: Mapping | None = None, raw: str = "") -> dict[str, Any]:
    return dict(zip(COLUMNS, take(row, raw, Layouts(form, mapping)), strict=True))


def said(row: Any, form: Format = "auto", mapping: Mapping | None = None) -> dict[str, Any]:
    return {name: column for name, column in taken(row, form, mapping).items() if column is not None}


CALL = {"name": "f", "arguments": {"a": [1, "ü"]}}
CALL_TEXT = '[{"name":"f","arguments":{"a":[1,"ü"]}}]'


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"instruction": "I", "output": "o"}, {"instruction": "I", "input": "", "output": "o"}),
        ({"instruction": "I", "input": None, "output": None}, {"instruction": "I", "input": "", "output": ""}),
        (
            {"instruction": "I", "input": None, "output": "o", "system": "S", "history": [["q", "a"]], "license": "x"},
            {
                "turns": [("user", "q", None), ("assistant", "a", None)],
                "system": "S",
                "instruction": "I",
                "input": "",
                "output": "o",
                "licence": "x",
            },
        ),
        (
            {"instruction": "I", "context": "C", "response": "R", "category": "qa", "source": "wiki"},
            {"instruction": "I", "input": "C", "output": "R", "topic": "qa", "source": "wiki"},
        ),
        ({"prompt": "P", "completion": "C", "label": 3}, {"instruction": "P", "output": "C"}),
        ({"prompt": "P", "response": "C", "label": "good"}, {"instruction": "P", "output": "C", "label": "good"}),
        (
            {
                "id": "7",
                "thread_id": "8",
                "system": "S",
                "tools": '[{"name": "f"}]',
                "conversations": [{"from": "human", "value": "h"}],
            },
            {"turns": [("system", "S", None), ("user", "h", None)], "tools": '[{"name": "f"}]', "conversation": "8"},
        ),
        (
            {
                "messages": [
                    {"role": "critic", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
                ]
            },
            {"turns": [("critic", "a\nb", None)]},
        ),
        (
            {"messages": [{"role": "user", "content": "u"}], "tools": [{"type": "function"}], "conversation_id": "9"},
            {"turns": [("user", "u", None)], "tools": '[{"type":"function"}]', "conversation": "9"},
        ),
    ],
    ids=["alpaca", "nulls", "alpaca with all", "dolly", "completion", "response", "sharegpt", "parts", "openai"],
)
def test_each_format_is_known_by_its_keys(row: Any, columns: dict[str, Any]) -> None:
    assert said(row) == columns


def test_function_calls_become_tool_calls() -> None:
    spoken = [
        {"from": "human", "value": "h"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "42"},
        {"from": "gpt", "value": "It is 42."},
    ]
    function = {"name": "f", "arguments": json.dumps(CALL["arguments"])}
    asked = [
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    turns = [("user", "h", None), ("assistant", "", CALL_TEXT), ("tool", "42", None), ("assistant", "It is 42.", None)]
    assert taken({"conversations": spoken})["turns"] == turns
    assert taken({"messages": asked})["turns"] == turns
    older = {"role": "assistant", "function_call": function}
    assert taken({"messages": [older]})["turns"] == [turns[1]]


@pytest.mark.parametrize(
    ("value", "calls"),
    [
        ("look it up", "look it up"),
        ('{"name": "f", "arguments": "{oops"}', '[{"name":"f","arguments":"{oops"}]'),
        ('[{"no": "name"}]', '[{"no":"name"}]'),
        ("[]", "[]"),
    ],
)
def test_broken_calls_stay_for_the_rule(value: str, calls: str) -> None:
    row = {"conversations": [{"from": "function_call", "value": value}]}
    assert taken(row)["turns"] == [("assistant", "", calls)]


def test_a_mapping_reaches_into_objects_and_lists() -> None:
    mapping = Mapping(
        instruction="ask.text",
        input="instances.0.input",
        output="a.b",
        system="who",
        label="score",
        topic="kind",
        licence="ok",
    )
    row = {
        "ask": {"text": "I"},
        "instances": [{"input": "in"}],
        "a.b": "o",
        "who": None,
        "score": 4.5,
        "kind": "",
        "ok": True,
    }
    assert said(row, mapping=mapping) == {
        "instruction": "I",
        "input": "in",
        "output": "o",
        "label": "4.5",
        "licence": "true",
    }


def test_a_mapping_of_turns_has_its_own_names() -> None:
    mapping = Mapping(messages="log.turns", role="who", content="said", roles={"Q": "user", "gpt": "tool"}, tools="api")
    turns = [{"who": "Q", "said": "q"}, {"who": "gpt", "said": "g"}, {"who": "human", "said": "h"}]
    columns = said({"log": {"turns": turns}, "api": {"name": "f"}}, mapping=mapping)
    assert columns["turns"] == [("user", "q", None), ("tool", "g", None), ("user", "h", None)]
    assert columns["tools"] == '{"name":"f"}'


@pytest.mark.parametrize(
    ("row", "form", "mapping", "why"),
    [
        ([1], "auto", None, "a list, not an object"),
        ("text", "auto", None, "a text, not an object"),
        (None, "auto", None, "null, not an object"),
        ({"instruction": "I"}, "auto", None, "field `output` is missing"),
        ({"instruction": "I", "output": 3}, "auto", None, "field `output` is a number, not a text"),
        ({"instruction": ["I"], "output": ""}, "auto", None, "field `instruction` is a list, not a text"),
        ({"instruction": "I", "output": "", "history": [["one"]]}, "auto", None, "`history` is not a list of pairs"),
        ({"messages": []}, "auto", None, "field `messages` is not a list of messages"),
        ({"messages": ["hi"]}, "auto", None, "messages[0] has no `role` and `content`"),
        ({"messages": [{"role": "user", "content": 1}]}, "auto", None, "messages[0].content is a number, not a text"),
        ({"instruction": "I", "output": "o"}, "messages", None, "field `messages` is missing"),
        ({"messages": [{"role": "user", "content": "c"}]}, "alpaca", None, "field `instruction` is missing"),
        (
            {"question": "q", "answer": "a"},
            "auto",
            None,
            "no format has its keys (question, answer): a mapping in the contract",
        ),
        ({}, "auto", None, "no format has its keys (none): a mapping"),
        ({f"{n}" * 50: n for n in range(12)}, "auto", None, f", {'9' * 40} and 2 more)"),
        ({"instruction": "I", "response": "r"}, "alpaca", None, "field `output` is missing"),
        ({"prompt": "p"}, "auto", None, "field `completion` is missing"),
        ({"conversations": [{"from": "human"}]}, "auto", None, "conversations[0] has no `from` and `value`"),
        ({"conversations": [{"from": "x", "value": 1}]}, "auto", None, "conversations[0].value is a number"),
        ({"conversations": {}}, "sharegpt", None, "field `conversations` is not a list of messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "auto", None, "holds a part that is no"),
        ({"a": {"b": 1}, "c": "d"}, "auto", Mapping(instruction="a.b", output="c"), "field `a.b` is a number"),
        ({"a": "x", "c": "d"}, "auto", Mapping(instruction="a.b", output="c"), "field `a.b` is missing"),
        ({"a": "x", "c": "d"}, "auto", Mapping(instruction="a", output="c", label="l"), "field `l` is missing"),
        ({"a": "x", "c": "d", "l": [1]}, "auto", Mapping(instruction="a", output="c", label="l"), "`l` is a list"),
    ],
)  # fmt: skip
def test_a_wrong_shape_names_the_field(row: Any, form: Format, mapping: Mapping | None, why: str) -> None:
    with pytest.raises(WrongShape) as caught:
        taken(row, form, mapping)
    assert why in str(caught.value)


def test_keys_that_json_text_repeats_are_noticed() -> None:
    repeated: list[str] = []
    cell = '{"name": "f", "name": "g"}'
    take({"conversations": [{"from": "function_call", "value": cell}]}, "", Layouts(), repeated)
    assert repeated == ["name"]


def test_lone_surrogates_become_replacement_characters_in_every_column() -> None:
    row = {"messages": [{"role": "user", "content": "a\ud800"}], "source": "\udc00", "tools": ["\ud800"]}
    columns = taken(row, raw=json.dumps(row))
    assert columns["turns"] == [("user", "a\ufffd", None)]
    assert (columns["source"], columns["tools"]) == ("\ufffd", '["\ufffd"]')
    assert storable("\ud83d\ude00") == "😀"


@pytest.mark.parametrize(
    ("value", "mapping", "is_one"),
    [
        ({"conversations": 1}, None, True),
        ({"prompt": 1}, None, False),
        ({"prompt": 1, "response": 2}, None, True),
        ({"role": "user", "content": "c"}, None, False),
        ([1], None, False),
        ({"q": {}, "a": 1}, Mapping(instruction="q.text", output="a"), True),
        ({"q": {}}, Mapping(instruction="q.text", output="a"), False),
    ],
)
def test_what_looks_like_a_row(value: Any, mapping: Mapping | None, is_one: bool) -> None:
    assert Layouts("auto", mapping).is_row(value) is is_one
