"""A real Chromium in front of the shared stack.

``NIGHTSHIFT_SCREENSHOTS`` names a folder in which every test leaves its pictures; with it the longer tour runs too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from bootstrap import CHROMIUM_COMMANDS
from tests.fixtures.stack import RunningStack

FOLDER = os.environ.get("NIGHTSHIFT_SCREENSHOTS", "")
PATIENCE_MS = 60_000
"""For one step in the page: the machine may be busy with a job."""

collect_ignore = [] if FOLDER else ["test_tour.py"]

Shoot = Callable[[str], None]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium: the set-up installs it with apt."""
    path = next(filter(None, map(shutil.which, CHROMIUM_COMMANDS)), None)
    assert path, "there is no Chromium: apt-get install -y chromium"
    # Its own sandbox needs an unprivileged user; the pages are our own stack's.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*options, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def stranger(chromium: Browser, stack: RunningStack) -> Iterator[Page]:
    """A page of a browser that nobody has logged in with."""
    context = chromium.new_context(
        base_url=stack.base_url, viewport={"width": 1440, "height": 1000}, locale="en-GB", timezone_id="UTC"
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(stranger: Page, stack: RunningStack) -> Page:
    """A page of a browser whose user has logged in, by hand as it were."""
    stranger.goto("/")
    stranger.locator("input[name=username]").fill(stack.username)
    stranger.locator("input[name=password]").fill(stack.password)
    stranger.get_by_role("button", name="Sign in").click()
    stranger.wait_for_url(lambda url: "/auth/" not in url)
    return stranger


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Shoot:
    """Save a picture of a logged-in page under a name, where pictures are wanted."""

    def save(name: str) -> None:
        if FOLDER:
            page: Page = request.getfixturevalue("page")
            target = Path(FOLDER) / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower())}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=target)

    return save


@pytest.fixture
def open_form(page: Page) -> Callable[[str], Locator]:
    """Return a function that goes to a DAG's page and opens its trigger form."""

    def open_it(dag_id: str) -> Locator:
        page.goto(f"/dags/{dag_id}")
        button = page.get_by_test_id("trigger-dag-button")
        expect(button).to_have_count(1)  # the list of DAGs has one for each
        button.click()
        return page.get_by_role("dialog")

    return open_it
