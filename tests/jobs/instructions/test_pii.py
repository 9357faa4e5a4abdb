"""Personal data and keys: what is found, what only looks like it, and that masking leaves nothing behind."""
# ruff: noqa: RUF001 (Chinese texts have signs that look like ours)

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_rules import PII_KINDS
from llmjobs.contracts.errors import BadConfig
from llmjobs.instructions.rules import presidio
from llmjobs.instructions.rules.pii import HINTS, found_in, hint, mask_json, mask_text, mask_texts, masked

# Keys are put together here, so that nobody's secret scanner stops at this file. The PEM block is random.
KEY = "T3BlbkFJ9xQmZ2vLr8KdW4yNhB7c"
RANDOM36 = "a8Kd92mXq7Lp0Zt4Vb6Rn1Yw3Ec5Uf8Hj2Gs"
PEM_BODY = (
    "MIIEpAIBAAKCAQEA1c7+9z5Pad7OejecsQ0bu3aumqdWIVOTnPp5\n8Yw3Ec5Uf8Hj2GsQ0bu3aumqdWIVOTnPp5v2kJKq7Lp0Zt4Vb6Rn1YwA=="
)
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI4MjM0IiwibmFtZSI6IkFuYSJ9.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV"

FOUND: dict[str, list[str]] = {
    "email": ["ana@example.com", "first.last+tag@mail.example.co.uk", "a_b@x-y.org", "Ana <ana@firma.de>, call."],
    "phone": [
        "+1 (555) 123-4567",
        "+49 30 901820",
        "+86 138 0013 8000",
        "+4915112345678",
        "(415) 555-2671",
        "(555) 123-4567",
        "415-555-2671",
        "1-800-555-0199",
        "415.555.2671",
        "01 23 45 67 89",
        "030/901820",
        "0171 1234567",
        "020 7946 0958",
        "138 0013 8000",
        "电话：13800138000",
        "Phone: 555-1234",
        "call me at 5551234567",
    ],
    "iban": ["DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "NO9386011117947"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "5555555555554444", "3782 822463 10005", "6011111111111117"],
    "ip": ["8.8.8.8", "http://93.184.216.34/index", "2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888"],
    "api_key": [
        f"sk-{KEY}",
        f"sk-proj-{KEY}_x4",
        f"sk-ant-api03-{KEY}",
        "AKIA" + "Z7QWX2M4K9P3LT5V",
        f"ghp_{RANDOM36}",
        f"github_pat_{RANDOM36}",
        "AIza" + RANDOM36[:35],
        "xoxb-" + "2345-98765-a8Kd92mXq7Lp",
        "sk_live_" + RANDOM36[:24],
        "hf_" + RANDOM36[:34],
        JWT,
        f"Authorization: Bearer {RANDOM36}",
        f"aws_secret_access_key = {RANDOM36}/x+Z",
    ],
    "private_key": [
        f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{PEM_BODY}",
        "-----BEGIN OPENSSH PRIVATE KEY-----\\n"
        + PEM_BODY.replace("\n", "\\n")
        + "\\n-----END OPENSSH PRIVATE KEY-----",
    ],
}

LOOK_ALIKES = {
    "email": ["@app.route('/')", "git@github.com:team/project.git", "logo@2x.png", "lodash@4.17.21", "me @ home"],
    "phone": [
        "2026-11-23 10:15:30",
        "from 1990-2000",
        "3.14159265358979",
        "40.7128, -74.0060",
        "ISBN 978-0-306-40615-7",
        "ISBN: 0-306-40615-2",
        "order number 415-555-2671",
        "$1,234,567.89",
        "1, 2, 3, 4, 5, 6, 7, 8",
        "10 000 000",
        "0101 0110 0111 0000",
        "01 02 03 04 05",
        "123-45-6789",
        "555-1234",
        "13800000000",
        "x = 48/2 + 72/3 - 12345678",
        "2x1=2 | 3x1=3 | 10x10=100",
        "23.11.2026 and 24.12.2026",
    ],
    "iban": ["DE89 3704 0044 0532 0130 01", "XX89 3704 0044 0532 0130 00", "AB12 is a seat", "DE8937040044"],
    "card": ["4111 1111 1111 1112", "1234 5678 9012 3456", "0.4111111111111111", "1600000000000", "41111111 11111111"],
    "ip": ["192.168.0.1", "10.0.0.7", "127.0.0.1", "203.0.113.9", "version 8.8.8.8", "Chrome/91.0.4472.124", "::1",
           "2001:db8::1", "10:20:30", "std::vector", "1.2.3.4 Scope of this text", "256.1.1.1", "aa:bb:cc:dd:ee:ff"],
    "api_key": ["sk-your-key-here-please-and-thanks", "sk-xxxxxxxxxxxxxxxxxxxxxxxx", "AKIAIOSFODNN7EXAMPLE",
                "ghp_" + "x" * 36, "task-based-learning-and-teaching-method", "Bearer of the heavy golden ring",
                "Bearer YOUR_ACCESS_TOKEN_GOES_HERE_1", "hf_hub_download_from_the_hub_and_more"],
    "private_key": ["The file begins with -----BEGIN PRIVATE KEY----- and ends with its footer.",
                    "-----BEGIN PUBLIC KEY-----\n" + PEM_BODY,
                    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----"],
}  # fmt: skip


def kinds_in(text: str) -> set[str]:
    return {kind for _, _, kind in found_in(text)}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_is_found(kind: str, text: str) -> None:
    sentence = f"Here it is: {text}"
    assert kinds_in(sentence) == {kind}
    assert mask_text(sentence).count(f"[{kind.upper()}]") == 1
    assert pl.Series([sentence]).str.contains(HINTS[kind]).all()


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in LOOK_ALIKES.items() for text in texts])
def test_what_only_looks_like_it(kind: str, text: str) -> None:
    assert kind not in kinds_in(text)


def test_the_whole_of_a_finding_is_masked() -> None:
    text = "Ana (ana@example.com, +49 30 901820) pays 4111 1111 1111 1111 from DE89 3704 0044 0532 0130 00 at 8.8.8.8."
    assert mask_text(text) == "Ana ([EMAIL], [PHONE]) pays [CARD] from [IBAN] at [IP]."
    assert mask_text(text, ["card"]).count("[") == 1
    key = FOUND["private_key"][1]
    assert mask_text(f"Key:\n{key}") == "Key:\n[PRIVATE_KEY]"
    assert masked(text)[1] == {"email": 1, "phone": 1, "card": 1, "iban": 1, "ip": 1}


def test_json_stays_json() -> None:
    text = '[{"name": "send", "arguments": {"to": "ana@example.com", "card": 4111111111111111, "ok": true, "n": 1.5}}]'
    safe, counts = mask_json(text)
    assert safe == '[{"name": "send", "arguments": {"to": "[EMAIL]", "card": "[CARD]", "ok": true, "n": 1.5}}]'
    assert counts == {"email": 1, "card": 1}
    assert mask_json('{"a": 1}') == ('{"a": 1}', {})
    assert mask_json("to: ana@example.com")[0] == "to: [EMAIL]"


def test_columns_are_masked_as_texts_are() -> None:
    every = [text for texts in (*FOUND.values(), *LOOK_ALIKES.values()) for text in texts]
    column = pl.Series("text", [*every, None, ""])
    assert mask_texts(column).to_list() == [*map(mask_text, every), None, ""]
    assert mask_texts(column, []).equals(column)


def test_long_texts_are_searched_in_one_go() -> None:
    """Each of these would take hours where the search goes back and forth."""
    for text in ("(" * 300_000, "+" * 300_000, "1 " * 100_000, "a@" * 100_000, "sk-" * 100_000, "1:" * 100_000):
        assert mask_text(text) == text
    assert masked("ana@example.com, " * 20_000)[1] == {"email": 20_000}
    assert mask_json("[" * 900 + '"ana@example.com"' + "]" * 900)[1] == {"email": 1}


PIECES = [text for texts in (*FOUND.values(), *LOOK_ALIKES.values()) for text in texts]
MIXED = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(alphabet="0123456789 -.+()@:/aBz\n,电", max_size=14)), max_size=6
).map("".join)


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_masked_text_holds_nothing_more(text: str) -> None:
    safe = mask_text(text)
    assert found_in(safe) == []
    assert mask_text(safe) == safe


@settings(max_examples=300, deadline=None)
@given(MIXED)
def test_hints_miss_nothing(text: str) -> None:
    """A column is searched in Python only where the cheap expression matches; alone or together with others."""
    column = pl.Series([text])
    for kind in PII_KINDS:
        if found_in(text, [kind]):
            assert column.str.contains(HINTS[kind]).all(), kind
            assert column.str.contains(hint()).all(), kind


def test_real_files_hold_no_numbers_of_accounts_and_no_keys(real: Callable[[str], Path]) -> None:
    """Each hit of these files was looked at: all are e-mail addresses and telephone numbers, and all are right."""
    hits: dict[str, int] = {}
    names = ["alpaca_en_demo.json", "alpaca_zh_demo.json", "gsm8k_train.jsonl", "sharegpt_conversation.json"]
    for name in names:
        for _, _, kind in found_in(real(name).read_text(encoding="utf-8").replace("\\n", "\n")):
            hits[kind] = hits.get(kind, 0) + 1
    assert hits == {"phone": 1, "email": 5}


class Engine:
    """The part of presidio's AnalyzerEngine that is used."""

    def analyze(self, text: str, entities: list[str], language: str, score_threshold: float) -> list[Any]:
        raise NotImplementedError


class Result:
    def __init__(self, entity_type: str, start: int, end: int) -> None:
        self.entity_type, self.start, self.end = entity_type, start, end


def test_presidio_adds_what_it_alone_finds() -> None:
    engine = create_autospec(Engine, instance=True)
    engine.analyze.side_effect = lambda text, **_: (
        [Result("PHONE_NUMBER", text.index("ext. 77"), text.index("ext. 77") + 7)] if "ext. 77" in text else []
    )

    def also(text: str) -> list[tuple[int, int, str]]:
        return presidio.found_by(engine, text)

    assert masked("Write to ana@example.com or ext. 77.", also=also) == (
        "Write to [EMAIL] or [PHONE].",
        {"email": 1, "phone": 1},
    )
    assert engine.analyze.call_args.kwargs["language"] == "en"


def test_presidio_that_is_not_installed_is_a_bad_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
    presidio.analyzer.cache_clear()
    with pytest.raises(BadConfig, match="pip install presidio-analyzer"):
        presidio.analyzer()
