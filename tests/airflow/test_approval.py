"""Nights that a person decides, in a real Airflow: asked, rejected, approved, rolled back, and another contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmjobs.instructions import versions
from llmjobs.lake import Lake
from tests.fixtures.runs import Runs
from tests.fixtures.stack import RunningStack

pytestmark = pytest.mark.stack

PREPARE = "prepare_instructions_alpaca_demo"
NAME = "alpaca_demo"
URI = f"nightshift://dataset/{NAME}"
# Another salt deals the rows anew, which is another version of the same files; no refusal at all is without a warning.
BEYOND_A_WARN_LIMIT = {"contract.split.salt": "anew", "contract.budgets.warn_quarantined_share": 0.0001}


@pytest.fixture(scope="module")
def lake(stack: RunningStack) -> Lake:
    """The stack's lake, with thirty good rows and two refusals of a dataset that nothing else uses."""
    rows = [{"instruction": f"Add one to {n}.", "input": "", "output": f"The sum is {n + 1}."} for n in range(30)]
    rows += [{**row, "output": "I'm sorry, but I can't help with that."} for row in rows[:2]]
    folder = stack.home.lake / "raw" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return Lake(stack.env["LLMJOBS_LAKE_URL"])


def current(lake: Lake) -> str:
    pointer = lake.pointer("datasets", NAME, "current")
    return pointer.version if pointer is not None else ""


def question(runs: Runs, run_id: str) -> dict[str, Any]:
    return runs.question(PREPARE, run_id, "approve")


def answer(runs: Runs, run_id: str, option: str) -> str:
    """Answer, and return how the run ended."""
    runs.answer(PREPARE, run_id, "approve", option)
    return runs.finish(PREPARE, run_id)


@pytest.fixture(scope="module")
def within(runs: Runs, lake: Lake) -> str:
    """A night within all limits."""
    run_id = runs.trigger(PREPARE)
    assert runs.finish(PREPARE, run_id) == "success"
    return run_id


@pytest.fixture(scope="module")
def first(lake: Lake, within: str) -> str:
    """The version that it published."""
    return current(lake)


def test_within_its_limits_a_night_asks_nobody(runs: Runs, within: str, first: str) -> None:
    states = {"prepare": "success", "approve": "skipped", "publish": "skipped", "announce": "success"}
    assert runs.states(PREPARE, within) == states
    assert [event["extra"]["version"] for event in runs.events(URI)] == [first]


@pytest.fixture(scope="module")
def asked(runs: Runs, first: str) -> tuple[str, dict[str, Any]]:
    """A night beyond a warn limit, and its question."""
    run_id = runs.trigger(PREPARE, BEYOND_A_WARN_LIMIT)
    return run_id, question(runs, run_id)


def test_beyond_a_warn_limit_it_asks_with_the_differences(
    runs: Runs, lake: Lake, first: str, asked: tuple[str, dict[str, Any]]
) -> None:
    run_id, detail = asked
    result = runs.result(PREPARE, run_id, "prepare")
    assert result["verdict"] == "ask"
    assert result["version"] != first == current(lake)
    assert detail["subject"] == f"Publish a new version of the dataset {NAME}?"
    assert detail["options"] == ["Approve", "Reject"]
    assert detail["defaults"] == ["Reject"]
    assert result["summary"]
    assert result["summary"] in detail["body"]
    assert f"(nightshift/reports/audits/{NAME}/versions/{result['audit_version']}/report.html)" in detail["body"]


@pytest.fixture(scope="module")
def rejected(runs: Runs, asked: tuple[str, dict[str, Any]]) -> str:
    """The night that was rejected."""
    assert answer(runs, asked[0], "Reject") == "success"
    return asked[0]


def test_rejected_it_publishes_and_announces_nothing_and_says_who(
    runs: Runs, lake: Lake, first: str, rejected: str
) -> None:
    states = {"prepare": "success", "approve": "success", "publish": "skipped", "announce": "skipped"}
    assert runs.states(PREPARE, rejected) == states
    assert "was refused by admin at" in runs.log(PREPARE, rejected, "announce")
    assert current(lake) == first
    assert len(runs.events(URI)) == 1


@pytest.fixture(scope="module")
def approved(runs: Runs, rejected: str) -> str:
    """The same night once more, approved this time."""
    run_id = runs.trigger(PREPARE, BEYOND_A_WARN_LIMIT)
    question(runs, run_id)
    assert answer(runs, run_id, "Approve") == "success"
    return run_id


@pytest.fixture(scope="module")
def second(lake: Lake, approved: str) -> str:
    """The version that was approved."""
    return current(lake)


def test_approved_it_publishes_and_announces(runs: Runs, lake: Lake, first: str, approved: str, second: str) -> None:
    assert set(runs.states(PREPARE, approved).values()) == {"success"}
    result = runs.result(PREPARE, approved, "prepare")
    assert second == result["version"] != first
    pointer = lake.pointer("datasets", NAME, "current")
    assert pointer is not None
    assert "was approved by admin at" in pointer.reason
    event = runs.events(URI)[-1]
    assert event["source_run_id"] == approved
    assert event["extra"] == {key: value for key, value in result.items() if key != "summary"}


@pytest.fixture(scope="module")
def rolled_back(runs: Runs, first: str, second: str) -> str:
    """A run that goes back to the first version."""
    run_id = runs.trigger(PREPARE, {"rollback_to": first[:12]})
    assert runs.finish(PREPARE, run_id) == "success"
    return run_id


def test_a_rollback_asks_nobody_is_announced_and_withdraws_what_it_left(
    runs: Runs, lake: Lake, first: str, second: str, rolled_back: str
) -> None:
    states = {"prepare": "success", "approve": "skipped", "publish": "skipped", "announce": "success"}
    assert runs.states(PREPARE, rolled_back) == states
    assert current(lake) == first
    assert [event["extra"]["version"] for event in runs.events(URI)] == [first, second, first]
    assert versions.is_withdrawn(lake, NAME, second) is not None


def test_another_contract_counts_with_its_own_budgets(runs: Runs, lake: Lake, first: str, rolled_back: str) -> None:
    run_id = runs.trigger(PREPARE, {"contract": "tickets", "contract.budgets.max_quarantined_share": 1.0})
    assert runs.finish(PREPARE, run_id) == "failed"
    said = runs.result(PREPARE, run_id, "prepare", "refused_because")
    assert "min_rows" in said
    assert "300" in said
    assert current(lake) == first
