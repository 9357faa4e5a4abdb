"""The report of a refresh in a real Chromium: its policy lets its own style through, and it fits a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from llmjobs.embeddings.report.page import write_report
from tests.jobs.embeddings.example_refresh import example

pytestmark = [pytest.mark.browser]

CUT_OFF = """[...document.querySelectorAll('.card')]
    .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.previousElementSibling.id)"""
"""The sections of which a part is seen only by scrolling sideways."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names hold what breaks a layout: long words, long paths."""
    path = tmp_path_factory.mktemp("refresh") / "report.html"
    write_report(path, example(lambda text: f"{text} {'unbroken' * 12}"))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_fits_and_breaks_no_policy(chromium: Browser, report: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert said == []
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CUT_OFF) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(247, 246, 242)", "dark": "rgb(18, 22, 31)"}[scheme]
    context.close()
