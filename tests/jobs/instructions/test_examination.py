"""The examination of whole frames: schema, order, repairs and masking on record, chats with tools, tokens, labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import PII_FLAGS, PII_KINDS, RULES
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.rules.examination import Examined, examine
from llmjobs.instructions.tables import EXAMINED, FIXES, MESSAGE, READ

_READ: Any = READ
_EXAMINED: Any = EXAMINED


def contract(**values: Any) -> DataContract:
    return DataContract.model_validate({"owner": "tests", **values})


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return rows as they are read; what a row does not say is null."""
    return pl.DataFrame([{**dict.fromkeys(READ), "line": 1, "raw": "{}", **row} for row in rows], schema=_READ)


def alpaca(instruction: str, output: str, given: str = "", **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "input": given, "output": output, **more}


def turn(role: str, content: str, tool_calls: Any = None) -> dict[str, Any]:
    return {"role": role, "content": content, "tool_calls": json.dumps(tool_calls) if tool_calls else None}


def contents(found: Examined, row: int = 0) -> list[str]:
    return [message["content"] for message in found.rows["messages"][row]]


MIXED = frame(
    {"read_problem": "line 1, column 3: cut off"},
    alpaca("Name one.", "Apple."),
    {"shape_problem": "field `output` is missing"},
    {"turns": [turn("system", "Be kind."), turn("user", "Hi"), turn("assistant", "Hello")]},
    alpaca("And now?", "Pear.", turns=[turn("user", "Name one."), turn("assistant", "Apple.")], system="Be kind."),
    alpaca("Name two.", "Apple, pear.", "of these", system="Be brief.", repeated_keys="output"),
)


def test_rows_come_back_in_order_with_the_stated_columns() -> None:
    found = examine(MIXED, contract())
    assert found.rows.schema == pl.Schema({**_EXAMINED, **dict.fromkeys((*RULES, *PII_FLAGS), pl.Boolean)})
    assert found.fixes.schema == pl.Schema(FIXES)
    assert found.rows["quarantined"].to_list() == [True, False, True, False, False, True]
    assert found.rows["messages"].is_null().to_list() == [True, False, True, False, False, False]
    assert found.rows["prompt"].to_list() == [None, "Name one.", None, "Hi", "Name one.", "Name two.\n\nof these"]
    assert found.rows["answer"].to_list() == [None, "Apple.", None, "Hello", "Pear.", "Apple, pear."]
    roles = [[message["role"] for message in row] for row in found.rows["messages"].drop_nulls()]
    assert roles == [
        ["user", "assistant"],
        ["system", "user", "assistant"],
        ["system", "user", "assistant", "user", "assistant"],
        ["system", "user", "assistant"],
    ]
    assert found.rows["characters"].to_list() == [None, 15, None, 15, 36, 40]
    flags = {flag for flag in (*RULES, *PII_FLAGS) if found.rows[flag].any()}
    assert flags == {"unreadable", "wrong_shape", "duplicate_keys"}


def test_no_rows_are_rows_too() -> None:
    found = examine(frame(), contract())
    assert (found.rows.height, found.fixes.height) == (0, 0)
    assert found.rows.columns == examine(MIXED, contract()).rows.columns


def test_rows_do_not_depend_on_their_neighbours() -> None:
    whole = examine(MIXED, contract()).rows
    alone = pl.concat(examine(MIXED[number], contract()).rows for number in range(MIXED.height))
    assert whole.equals(alone)


TEXT = st.text(alphabet="aB 1@.\n\u200bé中", max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_both_paths_say_the_same(rows: list[tuple[str, str]]) -> None:
    """An Alpaca row and the chat of the same turns have the same messages, texts and flags."""
    plain = examine(frame(*(alpaca(question, answer) for question, answer in rows)), contract()).rows
    chats = [{"turns": [turn("user", question), turn("assistant", answer)]} for question, answer in rows]
    assert plain.equals(examine(frame(*chats), contract()).rows)


def test_repairs_are_written_and_recorded_in_order() -> None:
    found = examine(
        frame(
            alpaca("Say\u200b hi.", "Hi\u0007.", "\u200b<noinput>"),
            alpaca("Say bye.", "Bye.", "loudly"),
            {"turns": [turn("user", "A\u200bna"), turn("assistant", "x")]},
        ),
        contract(),
    )
    assert contents(found) == ["Say hi.", "Hi."]
    assert contents(found, 1) == ["Say bye.\n\nloudly", "Bye."]
    assert sorted(found.fixes.rows()) == [
        (0, "control_characters", "input", "\u200b<noinput>", "<noinput>"),
        (0, "control_characters", "instruction", "Say\u200b hi.", "Say hi."),
        (0, "control_characters", "output", "Hi\u0007.", "Hi."),
        (0, "no_input_marker", "input", "<noinput>", ""),
        (2, "control_characters", "messages[0]", "A\u200bna", "Ana"),
    ]


def test_an_invisible_character_hides_nothing() -> None:
    """What a repair uncovers is found: an address, a marker, a template."""
    found = examine(frame(alpaca("Write to ana\u200b@example.com.", "Done {\u200b{name}}.")), contract())
    assert found.rows.select("pii_email", "unrendered_template").row(0) == (True, True)
    assert contents(found)[0] == "Write to [EMAIL]."


def test_masking_is_recorded_without_what_was_masked() -> None:
    row = alpaca("Write to ana@example.com and bob@example.com.", "Done\u0007: ana@example.com")
    found = examine(frame(row), contract())
    assert contents(found) == ["Write to [EMAIL] and [EMAIL].", "Done: [EMAIL]"]
    assert found.fixes.sort("rule", "part").rows() == [
        (0, "control_characters", "output", "Done\u0007: [EMAIL]", "Done: [EMAIL]"),
        (0, "pii_email", "instruction", "email: 2", "[EMAIL]"),
        (0, "pii_email", "output", "email: 1", "[EMAIL]"),
    ]
    assert not found.rows["quarantined"].any()


@pytest.mark.parametrize(
    ("policy", "flag", "quarantined", "text"),
    [
        ("off", False, False, "at 8.8.8.8"),
        ("warn", True, False, "at 8.8.8.8"),
        ("mask", True, False, "at [IP]"),
        ("quarantine", True, True, "at 8.8.8.8"),
        ("fail", True, True, "at 8.8.8.8"),
    ],
)
def test_each_policy(policy: str, flag: bool, quarantined: bool, text: str) -> None:
    found = examine(frame(alpaca("Where?", "at 8.8.8.8")), contract(pii={"ip": policy}))
    assert found.rows.select("pii_ip", "quarantined", "answer").row(0) == (flag, quarantined, text)
    assert found.fixes.height == (policy == "mask")


def test_what_is_only_warned_of_is_masked_where_it_is_shown() -> None:
    found = examine(frame(alpaca("Where?", "at\u0007 8.8.8.8")), contract())
    assert found.fixes.rows() == [(0, "control_characters", "output", "at\u0007 [IP]", "at [IP]")]
    assert found.rows["answer"].to_list() == ["at 8.8.8.8"]


def test_calls_and_tools_are_masked_and_stay_json() -> None:
    calls = [{"name": "send", "arguments": {"to": "ana@example.com"}}]
    tools = json.dumps([{"name": "send", "description": "for example to bob@example.com"}])
    turns = [turn("user", "Send it."), turn("assistant", "", calls), turn("tool", "ok"), turn("assistant", "Sent.")]
    found = examine(frame({"turns": turns, "tools": tools}), contract())
    assert json.loads(found.rows["messages"][0][1]["tool_calls"]) == [{"name": "send", "arguments": {"to": "[EMAIL]"}}]
    assert json.loads(found.rows["tools"][0])[0]["description"] == "for example to [EMAIL]"
    assert found.fixes["part"].sort().to_list() == ["messages[1].tool_calls", "tools"]
    assert found.rows["quarantined"].to_list() == [False]


@pytest.mark.parametrize(
    ("roles", "ordered"),
    [
        ("user call tool assistant", True),
        ("system user call tool tool call tool assistant user assistant", True),
        ("user call", True),
        ("user call tool", False),
        ("user call assistant", False),
        ("user tool assistant", False),
        ("user call user assistant", False),
        ("call tool assistant", False),
    ],
)
def test_order_of_turns_with_tools(roles: str, ordered: bool) -> None:
    call = [{"name": "f", "arguments": {}}]
    turns = [turn("assistant", "", call) if role == "call" else turn(role, "text") for role in roles.split()]
    rows = examine(frame({"turns": turns}), contract()).rows
    assert rows["role_order"].to_list() == [not ordered]
    assert not rows.select("empty_turn", "empty_answer").row(0)[0] or not ordered


def test_tokens_are_counted_of_rows_that_can_be_read() -> None:
    seen: list[pl.DataFrame] = []

    def count(rows: pl.DataFrame) -> pl.Series:
        seen.append(rows)
        return pl.Series([None if row[0]["content"] == "Hi" else 7 for row in rows["messages"]], dtype=pl.Int64)

    asked = contract(limits={"max_tokens": 5, "tokenizer": "any"})
    rows = examine(MIXED, asked, count_tokens=count).rows
    assert rows["tokens"].to_list() == [None, 7, None, 7, 7, 7]
    assert rows["too_many_tokens"].to_list() == [False, True, False, True, True, True]
    assert sum(part.height for part in seen) == 4
    assert seen[0].schema == pl.Schema([("messages", pl.List(MESSAGE)), ("tools", pl.String)])
    unlimited = examine(MIXED, contract(), count_tokens=count).rows
    assert unlimited["tokens"].null_count() == 2
    assert not unlimited["too_many_tokens"].any()
    assert examine(MIXED, asked).rows["tokens"].null_count() == MIXED.height


def test_languages_are_told_only_when_somebody_asks() -> None:
    rows = frame(alpaca("Why is the sky blue?", "The sky is blue because of the air in it."))
    assert examine(rows, contract()).rows["language"].to_list() == ["en"]
    off = {"language_mismatch": "off"}
    assert examine(rows, contract(rules=off)).rows["language"].to_list() == [None]
    asked = contract(rules=off, drift={"language": {"warn": 0.1}})
    assert examine(rows, asked).rows["language"].to_list() == ["en"]


def test_label_is_that_of_the_row_or_of_its_answer() -> None:
    answer = {"format": "json", "fields": {"team": {"type": "string"}}, "label": "team"}
    rows = frame(
        alpaca("Whose?", '{"team": "data"}'),
        alpaca("Whose?", '{"team": "data"}', label="mine"),
        alpaca("Whose?", '{"team": "ana@example.com", "x": 1}'),
        alpaca("Whose?", '{"team": NaN}'),
    )
    found = examine(rows, contract(answer=answer)).rows
    assert found["label"].to_list() == ["data", "mine", "[EMAIL]", None]
    assert found["invalid_json_answer"].to_list() == [False, False, True, True]
    assert found["json_problem"][3] == "not valid JSON: NaN is no JSON"


def test_a_rule_that_fails_refuses_its_row() -> None:
    rows = frame(alpaca("Say hi.", "Hi.\u0007"), alpaca("Say hi.", "Hi."))
    found = examine(rows, contract(rules={"control_characters": "fail"}))
    assert found.rows["quarantined"].to_list() == [True, False]
    assert (found.fixes.height, contents(found)[1]) == (0, "Hi.\u0007")


def test_everything_off_is_allowed() -> None:
    rules = {rule: "off" for rule in RULES if rule not in {"unreadable", "wrong_shape"}}
    found = examine(MIXED, contract(rules=rules, pii=dict.fromkeys(PII_KINDS, "off"))).rows
    assert found["quarantined"].to_list() == [True, False, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("alpaca_en_demo.json", 999), ("alpaca_zh_demo.json", 1000), ("sharegpt_toolcall_demo.json", 300)],
)
def test_real_files_lose_no_row(real: Callable[[str], Path], name: str, rows: int) -> None:
    with real(name).open("rb") as file:
        read = pl.concat(read_frames(file, name=name))
    found = examine(read, contract()).rows
    assert (found.height, found["line"].equals(read["line"])) == (rows, True)
    assert (
        not found.select("unreadable", "wrong_shape", "role_order", "broken_tools", "too_long")
        .sum()
        .sum_horizontal()[0]
    )


@pytest.mark.parametrize("column", ["source", "licence", "topic", "label"])
def test_personal_data_beside_the_text_is_masked_too(column: str) -> None:
    rows = frame(alpaca("A", "a", **{column: "jane.roe@example.com"}), alpaca("B", "b", **{column: "plain"}))
    found = examine(rows, contract())
    assert found.rows[column].to_list() == ["[EMAIL]", "plain"]
    assert found.rows["pii_email"].to_list() == [True, False]
    assert found.fixes.rows() == [(0, "pii_email", column, "email: 1", "[EMAIL]")]


@pytest.mark.parametrize(("policy", "quarantined"), [("quarantine", True), ("fail", True), ("warn", False)])
def test_personal_data_beside_the_text_follows_the_policy(policy: str, quarantined: bool) -> None:
    rows = frame(alpaca("Mail b@example.com", "Done."), alpaca("Say it.", "Here.", source="jane.roe@example.com"))
    found = examine(rows, contract(pii={"email": policy}))
    assert found.rows["source"].to_list() == [None, "jane.roe@example.com"]
    assert found.rows["pii_email"].to_list() == [True, True]
    assert found.rows["quarantined"].to_list() == [quarantined, quarantined]
    assert found.fixes.is_empty()
