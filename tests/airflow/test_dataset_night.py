"""A dataset's nights in a real Airflow: announced once, training started once, and not forgotten after a crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded.api import Refused
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.lake import Lake
from tests.fixtures.runs import Runs, until
from tests.fixtures.stack import RunningStack

pytestmark = pytest.mark.stack

REPOSITORY = Path(__file__).parents[2]
PREPARE = "prepare_instructions_tickets"
TRAIN = "train_adapter_tickets"
URI = "nightshift://dataset/tickets"
UNASKED = {"approve": "skipped", "publish": "skipped"}
"""Tasks of a night that asks nobody; approvals have tests of their own."""


def prepare_by_hand(stack: RunningStack) -> None:
    """Run the job outside Airflow: all that a task leaves which was killed between publishing and its success."""
    config = PrepareConfig.from_yaml(REPOSITORY / "dags/configs/prepare_instructions/tickets.yaml")
    command = [sys.executable, "-m", "llmjobs.instructions.prepare"]
    subprocess.run(command, env=stack.env | {"LLMJOBS_CONFIG": config.model_dump_json()}, check=True, timeout=300)


@pytest.fixture(scope="module")
def after_a_crash(stack: RunningStack, runs: Runs) -> Iterator[str]:
    """The first run that Airflow completes, after one that published and died."""
    assert runs.events(URI) == []
    prepare_by_hand(stack)
    assert Lake(stack.env["LLMJOBS_LAKE_URL"]).pointer("datasets", "tickets", "current") is not None
    run_id = runs.trigger(PREPARE)
    assert runs.finish(PREPARE, run_id) == "success"
    yield run_id
    for run in runs.of(TRAIN):
        if run["state"] not in {"success", "failed"}:
            runs.stop(TRAIN, run["dag_run_id"])  # these tests are about its start; training has tests of its own


@pytest.fixture(scope="module")
def unchanged(runs: Runs, after_a_crash: str, started_training: dict[str, Any]) -> str:
    """The night after, with the same files."""
    run_id = runs.trigger(PREPARE)
    assert runs.finish(PREPARE, run_id) == "success"
    return run_id


@pytest.fixture(scope="module")
def started_training(runs: Runs, after_a_crash: str) -> dict[str, Any]:
    """The training run that the announcement started."""
    found: list[dict[str, Any]] = until(lambda: runs.of(TRAIN), "the training's start", seconds=60)
    return found[0]


def test_a_version_that_was_published_but_not_announced_is_announced(runs: Runs, after_a_crash: str) -> None:
    assert runs.states(PREPARE, after_a_crash) == {**UNASKED, "prepare": "success", "announce": "success"}
    assert runs.result(PREPARE, after_a_crash, "prepare")["changed"] is False


def test_the_event_carries_version_counts_and_report(runs: Runs, after_a_crash: str) -> None:
    (event,) = runs.events(URI)
    extra = event["extra"]
    result = runs.result(PREPARE, after_a_crash, "prepare")
    assert extra == {key: value for key, value in result.items() if key != "summary"}
    assert extra["rows_in"] == sum(extra[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    assert extra["report_url"].endswith("/report.html")
    assert event["source_run_id"] == after_a_crash


def test_the_announcement_starts_the_training(started_training: dict[str, Any]) -> None:
    assert started_training["run_type"] == "asset_triggered"


def test_an_unchanged_night_announces_nothing_and_starts_nothing(runs: Runs, unchanged: str) -> None:
    assert runs.states(PREPARE, unchanged) == {**UNASKED, "prepare": "success", "announce": "skipped"}
    assert len(runs.events(URI)) == 1
    assert len(runs.of(TRAIN)) == 1


def test_the_skip_says_why(runs: Runs, unchanged: str) -> None:
    log = runs.log(PREPARE, unchanged, "announce")
    assert f"{URI}: version" in log
    assert "nothing is new" in log


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"contract.budgets.max_quarantined_share": 7}, "7 is greater than the maximum of 1"),
        ({"contract.budgets.min_rows": "many"}, "'many' is not of type 'integer'"),
    ],
)
def test_the_form_refuses_what_the_model_refuses(runs: Runs, conf: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as caught:
        runs.trigger(PREPARE, conf)
    assert caught.value.status == 400
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def refused(runs: Runs, unchanged: str) -> str:
    """A run whose contract the data breaks: a version needs more rows than there are."""
    run_id = runs.trigger(PREPARE, {"contract.budgets.min_rows": 100_000})
    assert runs.finish(PREPARE, run_id) == "failed"
    return run_id


def test_a_refused_night_says_why_and_shows_its_report(runs: Runs, refused: str) -> None:
    assert runs.states(PREPARE, refused) == {
        "prepare": "failed",
        **dict.fromkeys(("approve", "publish", "announce"), "upstream_failed"),
    }
    assert "100000" in runs.result(PREPARE, refused, "prepare", "refused_because").replace(",", "").replace("_", "")
    assert runs.links(PREPARE, refused, "prepare")["Report"].startswith("nightshift/reports/audits/tickets/")


def test_a_refused_night_is_not_tried_again(runs: Runs, refused: str) -> None:
    task = runs.api.get(f"dags/{PREPARE}/dagRuns/{refused.replace('+', '%2B')}/taskInstances/prepare")
    assert task["try_number"] == 1
    assert len(runs.events(URI)) == 1
