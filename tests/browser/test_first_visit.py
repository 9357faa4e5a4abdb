"""What an operator does first: log in, open a DAG, start it with its form, see it succeed, read the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from playwright.sync_api import Locator, Page, expect

from embedded.api import segment
from llmjobs.contracts.environment import Identity
from tests.fixtures.runs import Runs
from tests.fixtures.stack import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.browser]

DAG = "prepare_instructions_tickets"
TRAIN = "train_adapter_tickets"
RUN_MS = 300_000


def test_without_login_there_is_nothing_to_see(stranger: Page) -> None:
    stranger.goto(f"/dags/{DAG}")
    expect(stranger.get_by_role("button", name="Sign in")).to_be_visible()
    answer = stranger.goto("/nightshift/reports/")
    assert answer is not None
    assert answer.status == 401


@pytest.fixture
def started(page: Page, open_form: Callable[[str], Locator], shoot: Callable[[str], None]) -> str:
    """The id of a run that was started with the form, its share of allowed quarantine raised."""
    page.goto("/dags")
    page.get_by_role("link", name="Prepare instructions: tickets").first.click()
    page.wait_for_url(f"**/dags/{DAG}**")
    form = open_form(DAG)
    for section in ("Run", "Contract"):
        form.get_by_role("button", name=section, exact=True).click()
    share = form.get_by_role("group").filter(has_text="Largest quarantined share").get_by_role("spinbutton")
    expect(share).to_be_visible()
    share.fill("0.9")
    share.press("Tab")
    shoot("trigger form")
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/[^/]+"))
    found = re.search(r"/runs/([^/?]+)", page.url)
    assert found
    return unquote(found[1])


def test_a_run_is_started_with_the_form_and_seen_to_succeed(
    page: Page, started: str, runs: Runs, stack: RunningStack, shoot: Callable[[str], None]
) -> None:
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_MS)
    assert runs.finish(DAG, started) == "success"
    expect(page.get_by_text("Running", exact=True)).to_have_count(0)
    shoot("run")
    assert runs.get(DAG, started)["conf"]["contract.budgets.max_quarantined_share"] == 0.9

    page.goto(f"/dags/{DAG}/runs/{segment(started)}/tasks/prepare/details")
    page.get_by_role("link", name="Report", exact=True).click()
    page.wait_for_url("**/nightshift/reports/audits/tickets/versions/**/report.html")
    expect(page.locator("body")).to_contain_text("tickets")
    shoot("report of the run")


def test_the_form_of_the_training_can_be_sent_as_it_is(
    page: Page, open_form: Callable[[str], Locator], runs: Runs, stack: RunningStack, shoot: Callable[[str], None]
) -> None:
    form = open_form(TRAIN)
    expect(form.get_by_role("button", name="Train", exact=True)).to_be_visible()
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/[^/]+"))
    found = re.search(r"/runs/([^/?]+)", page.url)
    assert found
    run_id = unquote(found[1])
    runs.stop(TRAIN, run_id)
    see_its_chart_grow(page, stack, run_id, shoot)


def see_its_chart_grow(page: Page, stack: RunningStack, run_id: str, shoot: Callable[[str], None]) -> None:
    """Look at the tab of the run's training task while steps are written as the training writes them."""
    named = stack.home.lake / Identity(TRAIN, run_id, "train").live_path
    named.parent.mkdir(parents=True, exist_ok=True)
    begun = {"name": "charted", "version": "v1", "phase": "loading", "at": datetime.now(UTC).isoformat()}
    named.write_text(json.dumps(begun), encoding="utf-8")
    curves = stack.home.lake / "work/adapters/charted/v1/metrics.jsonl"
    curves.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": n, "loss": 2 / n, "tokens_per_second": 90, "cpu_cores": 1.5, "memory_gib": 2} for n in range(1, 9)
    ]
    curves.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:4]), encoding="utf-8")
    page.goto(f"/dags/{TRAIN}/runs/{segment(run_id)}/tasks/train")
    page.get_by_role("link", name="Training", exact=True).click()
    chart = page.frame_locator("iframe")
    expect(chart.get_by_role("status")).to_have_text("Not published yet: adapter charted, version v1, step 4")
    expect(chart.get_by_role("img")).to_have_count(4)
    expect(chart.locator("#progress")).to_have_text("Loading the base")
    at_step = {"phase": "training", "step": 8, "steps": 20, "loss": 0.25, "tokens_per_second": 90.0, "left": "12s"}
    named.write_text(json.dumps({**begun, **at_step}), encoding="utf-8")
    curves.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    expect(chart.get_by_role("status")).to_have_text("Not published yet: adapter charted, version v1, step 8")
    expect(chart.locator("#progress")).to_have_text("Training: step 8 of 20, loss 0.25, 90 tokens/s, 12s left")
    shoot("chart of a training")
