"""The report: one file that needs nothing from outside and shows bad rows as text."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import prepare
from llmjobs.instructions.report import shorten
from llmjobs.lake import Lake

ATTACK = "<script>alert(1)</script><img src=https://evil.example/x>{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.fixture
def page(lake: Lake, raw: Callable[[str, Any], Path], config: Callable[..., PrepareConfig], good: Any) -> str:
    rows = [good(number) for number in range(30)]
    rows += [good(40, output=f"As an AI, {ATTACK}"), good(3), good(41, output="Hi\u0007!"), good(42, output="")]
    raw("a.json", rows)
    result = prepare.run(config(description=f"Sums {ATTACK}"))
    return Path(result.report_url.removeprefix("file://")).read_text()


def test_nothing_comes_from_outside_and_nothing_runs(page: str) -> None:
    seen = Page(page)
    assert {tag for tag, _ in seen.tags} & {"script", "img", "link", "iframe", "object", "form"} == set()
    names = {name for _, attributes in seen.tags for name in attributes}
    assert names & {"src", "href", "style"} == set()
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in page


def test_the_policy_allows_this_style_and_nothing_else(page: str) -> None:
    policy = next(a["content"] for tag, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"


def test_bad_rows_are_shown_as_text(page: str) -> None:
    seen = Page(page)
    assert seen.text.count(ATTACK) == 2
    assert "⟨U+0007⟩" in seen.text


def test_the_verdict_and_the_sum_come_first(page: str) -> None:
    words = " ".join(Page(page).text.split())
    assert words.index("Accepted") < words.index("34 rows in = 31 published + 2 quarantined + 1 duplicates")
    assert words.index("rows in =") < words.index("Rules")
    assert "raw/rows/a.json, line" in words


def test_long_texts_are_shortened_with_their_length() -> None:
    assert shorten("a" * 700) == "a" * 600 + " … (700 characters)"
    assert shorten("a" * 600) == "a" * 600
