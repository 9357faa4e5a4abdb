"""Identities: the same for the same rows, for ever, and equal to what the contract's digest says."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.base import digest
from llmjobs.instructions import tables
from llmjobs.instructions.identity import identify, key_of, normalised, said

QUICK = settings(max_examples=60, deadline=None, derandomize=True)

ODD = st.sampled_from(
    ['"', "\\", "\u0000", "\u001f", "\u007f", "\u2028", "\n", "\r\n", "\t", "\b\f", "é", "e\u0301", "😀"]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.lists(ODD, max_size=5).map("".join)
CALLS = st.none() | st.just('[{"arguments":{"a":1},"name":"f"}]')
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT, "tool_calls": CALLS})
MESSAGES = st.lists(st.lists(TURN, min_size=1, max_size=3), min_size=1, max_size=6)


def rows(messages: list[list[dict[str, Any]]], **columns: list[Any]) -> pl.DataFrame:
    count = len(messages)
    values = {
        "messages": messages,
        "tools": [None] * count,
        "prompt": [turns[0]["content"] for turns in messages],
        "conversation": [None] * count,
        "source": ["s"] * count,
        **columns,
    }
    kinds: Any = {"messages": pl.List(tables.MESSAGE), **dict.fromkeys(list(values)[1:], pl.String)}
    return pl.DataFrame(values, schema=kinds)


def one(text: str, prompt: str = "Ask") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": prompt, "tool_calls": None},
        {"role": "assistant", "content": text, "tool_calls": None},
    ]


@QUICK
@given(messages=MESSAGES, tools=st.none() | st.just('[{"name":"f"}]'))
def test_ids_are_the_digests_of_the_canonical_rows(messages: list[list[dict[str, Any]]], tools: str | None) -> None:
    found = identify(rows(messages, tools=[tools] * len(messages)))
    for row_id, key, turns in found.select("row_id", "row_key", "messages").iter_rows():
        bare = [{name: value for name, value in turn.items() if value is not None} for turn in turns]
        odd = tools is not None or any("tool_calls" in turn for turn in bare)
        assert row_id.hex() == digest({"messages": bare, "tools": tools} if odd else bare)
        assert key == int.from_bytes(row_id[:16], "big", signed=True)
    assert key_of(found["group_id"].bin.encode("hex")).to_list() == found["group_key"].to_list()


@QUICK
@given(ids=st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_keys_are_the_first_half_of_hexadecimal_digits(ids: list[bytes]) -> None:
    keys = key_of(pl.Series([one.hex() for one in ids], dtype=pl.String))
    assert keys.to_list() == [int.from_bytes(one[:16], "big", signed=True) for one in ids]


@QUICK
@given(text=TEXT)
def test_texts_are_normalised_as_python_would(text: str) -> None:
    found = normalised(pl.Series([text, None], dtype=pl.String))
    expected = " ".join(unicodedata.normalize("NFC", text).split())
    # Polars and Python differ in what is white space (0x1c to 0x1f) and in the lower case of a final sigma.
    if not set(text) & {"\x1c", "\x1d", "\x1e", "\x1f"} and "Σ" not in text:
        assert found[0] == expected.lower()
    assert found[1] is None


@QUICK
@given(texts=st.lists(st.text("aB \t\n\x0b\x0c\r\x1c\u00a0\u2028é", max_size=8) | st.none(), max_size=6))
def test_runs_of_white_space_are_one_space_whatever_they_are_of(texts: list[str | None]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    at_once = series.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    assert normalised(series).to_list() == at_once.to_list()


def test_ids_are_those_of_earlier_releases() -> None:
    pinned = [
        (
            "e0633c6a59e0dd8deabb37ef194d0e00221aea3906e18ae66082f0a3e7ca6660",
            95260225474721491839866721493051426312,
            28374400321156705279442419223626511438,
            28374400321156705279442419223626511438,
            28374400321156705279442419223626511438,
        ),
        (
            "55eb9d79009477d12cb8f8f360c6ca505c5ac612414b94c2a5e37ba93a37c9a1",
            155929809831228078519362832633870096741,
            62721809199327777049414426936376079525,
            162587105588075563920644500035636842223,
            162587105588075563920644500035636842223,
        ),
        (
            "017530e7f627554583f14460bfa0b0d2ac731da3756ce49281592c0f0a213902",
            -73402252413972140434907305869685341140,
            99159027114874008660626723315927488458,
            99159027114874008660626723315927488458,
            86278729144216183873766424620738952871,
        ),
    ]
    turns = [
        one("The  café\tis\nopen. ", " Is it OPEN? "),
        [{"role": "system", "content": 'Say "yes"\\', "tool_calls": None}, *one("Yes"), *one("No", "And now?")],
        one("漢字\u3000かな", "e\u0301"),
    ]
    found = identify(rows(turns, conversation=[None, None, "7"], prompt=["Is it OPEN?", "Ask", "e\u0301"]))
    assert found["row_id"].bin.encode("hex").to_list() == [ids[0] for ids in pinned]
    keys = found.select("said_key", "first_key", "prompt_key", "group_key")
    assert keys.rows() == [ids[1:] for ids in pinned]


def test_what_is_said_ignores_white_space_case_and_composition_only() -> None:
    texts = ["Der Café  ist zu.", "der cafe\u0301 \n ist ZU. ", "Der Cafe ist zu.", "Der Café ist zu!"]
    found = identify(rows([one(text) for text in texts]))
    keys = found["said_key"].to_list()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert found["row_key"].n_unique() == 4


def test_turns_and_roles_are_kept_apart() -> None:
    joined = [{"role": "user", "content": "a assistant b", "tool_calls": None}]
    apart = [
        {"role": "user", "content": "a", "tool_calls": None},
        {"role": "assistant", "content": "b", "tool_calls": None},
    ]
    swapped = [{**turn, "role": role} for turn, role in zip(apart, ("assistant", "user"), strict=True)]
    assert said(rows([joined, apart, swapped])).n_unique() == 3


def test_a_conversation_is_a_group_within_its_source() -> None:
    turns = [one("b", prompt) for prompt in ("p", "q", "p", "p", "P ")]
    found = identify(rows(turns, conversation=["7", "7", None, "7", None], source=["x", "x", "x", "y", "x"]))
    groups = found["group_key"].to_list()
    assert groups[0] == groups[1]
    assert groups[2] == groups[4] == found["prompt_key"][2]
    assert len(set(groups)) == 3


def test_no_rows() -> None:
    found = identify(rows([]))
    assert found.height == 0
    assert found.schema["row_key"] == found.schema["group_key"] == pl.Int128


def test_a_chat_is_known_by_all_that_is_asked_in_it() -> None:
    def chat(*asked: str, system: str | None = None) -> list[dict[str, Any]]:
        turns = [] if system is None else [{"role": "system", "content": system, "tool_calls": None}]
        for number, text in enumerate(asked):
            turns += one(f"Answer {number}", text)
        return turns

    chats = [
        chat("Hi", "Why?"),
        chat("hi ", "WHY?", system="Be brief."),
        chat("Hi", "How?"),
        chat("Hi"),
        chat("Hi Why?"),
    ]
    prompts = ["Hi", "hi ", "Hi", "Hi", "Hi Why?"]
    found = identify(rows(chats, prompt=prompts))
    first, prompt = found["first_key"].to_list(), found["prompt_key"].to_list()
    assert first[:4] == [first[0]] * 4
    assert prompt[0] == prompt[1]
    assert len(set(prompt)) == 4
    # Of a row with one question nothing changed: versions of all releases know it by the same key.
    assert prompt[3:] == first[3:]
    assert prompt[3] == int.from_bytes(hashlib.sha256(b"hi").digest()[:16], "big", signed=True)
    assert found["group_key"].to_list() == prompt
