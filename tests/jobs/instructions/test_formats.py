"""Formats: Alpaca and chats become parts, and what is neither says why."""

from typing import Any

import pytest

from llmjobs.instructions.formats import WrongShape, parts_of, storable


def test_alpaca_with_system_and_history() -> None:
    row = {"system": "Be kind.", "history": [["Hi", "Hello"]], "instruction": "I", "input": "x", "output": "o"}
    assert parts_of(row, "", "auto") == [
        (0, "system", "system", "Be kind."),
        (1, "user", "content", "Hi"),
        (2, "assistant", "content", "Hello"),
        (3, "user", "instruction", "I"),
        (3, "user", "input", "x"),
        (4, "assistant", "output", "o"),
    ]


def test_null_is_the_empty_text() -> None:
    parts = parts_of({"instruction": "I", "input": None, "output": None}, "", "alpaca")
    assert [text for *_, text in parts] == ["I", "", ""]


def test_chat_with_content_parts() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert parts_of({"messages": [message]}, "", "auto") == [(0, "user", "content", "a\nb")]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([1], "a list, not an object"),
        ("text", "a text, not an object"),
        (None, "null, not an object"),
        ({"question": "q"}, "neither `messages` nor `instruction` among its keys: question"),
        ({"instruction": "I"}, "field `output` is missing"),
        ({"instruction": "I", "output": 3}, "field `output` is a number, not a text"),
        ({"instruction": ["I"], "output": ""}, "field `instruction` is a list, not a text"),
        ({"instruction": "I", "output": "", "history": [["one"]]}, "field `history` is not a list of pairs of texts"),
        ({"messages": []}, "field `messages` is not a list of messages"),
        ({"messages": ["hi"]}, "messages[0] has no `role` and `content`"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content is a number, not a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content holds a part that is not a text",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "messages[0] calls tools, which this job cannot publish yet",
        ),
    ],
)
def test_what_is_no_row_says_why(row: Any, why: str) -> None:
    with pytest.raises(WrongShape) as caught:
        parts_of(row, "", "auto")
    assert str(caught.value) == why


def test_a_contract_can_insist_on_one_format() -> None:
    with pytest.raises(WrongShape, match="messages"):
        parts_of({"instruction": "I", "output": "o"}, "", "messages")
    with pytest.raises(WrongShape, match="instruction"):
        parts_of({"messages": [{"role": "user", "content": "c"}]}, "", "alpaca")


def test_lone_surrogates_become_replacement_characters() -> None:
    row, raw = {"instruction": "a\ud800b", "output": "😀"}, '{"instruction": "a\\ud800b"}'
    assert [text for *_, text in parts_of(row, raw, "auto")] == ["a\ufffdb", "", "😀"]
    assert storable("\ud83d\ude00") == "😀"
