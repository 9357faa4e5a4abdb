"""Nights of dated folders on S3 in a real Airflow: a connection that is missing, a backfill, and no secret anywhere.

Beside them runs a night whose question nobody answers, for both wait most of the time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

from embedded.api import segment
from llmjobs.lake import Lake
from tests.fixtures.bundle import Bundle
from tests.fixtures.runs import Runs, until
from tests.fixtures.stack import RunningStack

pytestmark = pytest.mark.stack

KEY, SECRET = "AKIADATEDNIGHTS", "wJalrXUtnFEMI-K7MDENG-only-for-tests"
# Three intervals, all of them over; the scheduler starts the last one by itself (catchup=False).
SCHEDULE = "0 0 1-4 1 *"
DAYS = {"2026-01-01": "rows.jsonl", "2026-01-02": "rows.parquet", "2026-01-03": "rows.jsonl.gz"}
WAIT_SECONDS = 3.6
CONTRACT = {"owner": "tests", "budgets": {"max_quarantined_share": 0.9, "warn_quarantined_share": 0.0001}}
DATED: dict[str, Any] = {
    "name": "dated",
    "source": "s3://exports/{date}/",
    "schedule": SCHEDULE,
    "connection": "exports",
}
UNANSWERED: dict[str, Any] = {
    "name": "unanswered",
    "source": "raw/unanswered/*.json",
    "approval_hours": WAIT_SECONDS / 3600,
}


def row(number: int) -> dict[str, str]:
    return {"instruction": f"Add one to {number}.", "input": "", "output": f"The sum is {number + 1}."}


def content(day: int, name: str) -> bytes:
    """Return ten rows of one day, in the form that the file's name says."""
    rows = [row(number) for number in range(100 * day, 100 * day + 10)]
    if name.endswith("parquet"):
        buffer = io.BytesIO()
        pl.DataFrame(rows).write_parquet(buffer)
        return buffer.getvalue()
    return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture(scope="module")
def exports(s3_endpoint: str) -> str:
    """The bucket with one folder a day; the server's URL."""
    files = fsspec.filesystem("s3", key=KEY, secret=SECRET, endpoint_url=s3_endpoint)
    files.mkdir("exports")
    for day, (date, name) in enumerate(DAYS.items(), start=1):
        with files.open(f"exports/{date}/{name}", "wb", compression="infer") as stream:
            stream.write(content(day, name))
    return s3_endpoint


@pytest.fixture(scope="module")
def lake(stack: RunningStack) -> Lake:
    folder = stack.home.lake / "raw" / "unanswered"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [*map(row, range(30)), {**row(1), "output": "I'm sorry, but I can't help with that."}]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return Lake(stack.env["LLMJOBS_LAKE_URL"])


@pytest.fixture(scope="module")
def dags(more_dags: Bundle, lake: Lake, exports: str) -> Iterator[tuple[str, str]]:
    """The DAG of the dated folders, and that of the unanswered question."""
    configs = {config["name"]: {**config, "contract": "own"} for config in (DATED, UNANSWERED)}
    dated, unanswered = more_dags.add("prepare_instructions", configs, contract=CONTRACT, clock=True)
    yield dated, unanswered
    more_dags.clear()


@pytest.fixture(scope="module")
def asked(runs: Runs, dags: tuple[str, str]) -> str:
    """A night that asks, and is not answered."""
    return runs.trigger(dags[1])


@pytest.fixture(scope="module")
def scheduled(runs: Runs, dags: tuple[str, str], asked: str) -> str:
    """The night that the schedule started before there was a connection."""
    (run,) = until(lambda: runs.of(dags[0]), "the schedule's own night", seconds=60)
    assert runs.finish(dags[0], run["dag_run_id"]) == "failed"
    return str(run["dag_run_id"])


def test_a_connection_that_is_missing_is_named_and_not_tried_again(
    runs: Runs, dags: tuple[str, str], scheduled: str
) -> None:
    assert runs.states(dags[0], scheduled)["prepare"] == "failed"
    said = runs.result(dags[0], scheduled, "prepare", "refused_because")
    assert "connection: Airflow has no connection 'exports'; add it under Admin, Connections" in said


def backfill(runs: Runs, dag_id: str, how: str) -> dict[str, Any]:
    """Backfill the three nights as the page does."""
    when = {"from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-03T00:00:00Z", "max_active_runs": 1}
    made: dict[str, Any] = runs.api.post("backfills", {"dag_id": dag_id, **when, "reprocess_behavior": how})
    return made


def in_order(runs: Runs, dag_id: str) -> list[dict[str, Any]]:
    """Return the DAG's runs, the oldest interval first."""
    return sorted(runs.of(dag_id), key=lambda run: str(run["logical_date"]))


@pytest.fixture(scope="module")
def backfilled(runs: Runs, dags: tuple[str, str], scheduled: str, exports: str) -> dict[str, Any]:
    """A backfill, once an administrator has added the connection."""
    extra = json.dumps({"endpoint_url": exports, "region_name": "us-east-1"})
    connection = {"connection_id": "exports", "conn_type": "aws", "login": KEY, "password": SECRET, "extra": extra}
    runs.api.post("connections", connection)
    return backfill(runs, dags[0], "failed")


@pytest.fixture(scope="module")
def unanswered(runs: Runs, dags: tuple[str, str], asked: str, backfilled: dict[str, Any]) -> str:
    """The night whose question ran out of time."""
    assert runs.finish(dags[1], asked) == "success"
    return asked


@pytest.fixture(scope="module")
def afresh(runs: Runs, dags: tuple[str, str], unanswered: str) -> str:
    """The night after it, which need not ask."""
    return runs.trigger(dags[1], {"contract.budgets.warn_quarantined_share": 0.5})


@pytest.fixture(scope="module")
def nights(runs: Runs, dags: tuple[str, str], backfilled: dict[str, Any], afresh: str) -> list[dict[str, Any]]:
    """Its three runs, once they have ended."""
    for run in in_order(runs, dags[0]):
        runs.finish(dags[0], run["dag_run_id"])
    return in_order(runs, dags[0])


def audits(lake: Lake) -> list[dict[str, Any]]:
    """Return what each night read, in the order in which the nights ended."""
    return [audit.inputs for audit in lake.versions("audits", "dated")]


def test_each_night_reads_the_days_up_to_its_end_in_order(
    runs: Runs, dags: tuple[str, str], lake: Lake, nights: list[dict[str, Any]]
) -> None:
    assert [run["state"] for run in nights] == ["success"] * 3
    labels = [f"s3://exports/{date}/{name}" for date, name in DAYS.items()]
    found = audits(lake)
    assert [[file["path"] for file in night["files"]] for night in found] == [labels[:1], labels[:2], labels]
    ends = [datetime(2026, 1, day, tzinfo=UTC).isoformat() for day in (2, 3, 4)]
    assert [night["interval_end"] for night in found] == ends


def test_each_night_becomes_current_and_is_announced(
    runs: Runs, dags: tuple[str, str], lake: Lake, nights: list[dict[str, Any]]
) -> None:
    results = [runs.result(dags[0], run["dag_run_id"], "prepare") for run in nights]
    assert [result["published"] for result in results] == [10, 20, 30]
    versions = [result["version"] for result in results]
    assert [event["extra"]["version"] for event in runs.events("nightshift://dataset/dated")] == versions
    pointer = lake.pointer("datasets", "dated", "current")
    assert pointer is not None
    assert pointer.version == versions[-1]


def test_no_file_of_the_stack_holds_the_secret(stack: RunningStack, nights: list[dict[str, Any]]) -> None:
    """Logs, results, manifests, job folders, and the database, which holds connections encrypted."""
    places = [stack.home.root, stack.home.postgres.resolve()]
    files = {path for place in places for path in place.rglob("*") if path.is_file()}

    def holding(text: str) -> list[Path]:
        return [path for path in files if text.encode() in path.read_bytes()]

    assert any(path.suffix == ".log" for path in holding("s3://exports"))
    assert holding(SECRET) == []


def test_the_page_and_the_command_line_show_no_secret(
    runs: Runs, dags: tuple[str, str], nights: list[dict[str, Any]]
) -> None:
    run_id = nights[0]["dag_run_id"]
    path = f"dags/{dags[0]}/dagRuns/{segment(run_id)}/taskInstances/prepare"
    shown = runs.api.get(path)["rendered_fields"]
    entries = runs.api.get(f"{path}/xcomEntries")["xcom_entries"]
    results = [runs.api.get(f"{path}/xcomEntries/{entry['key']}", deserialize="true") for entry in entries]
    assert "s3://exports" in json.dumps(shown)
    assert "return_value" in {entry["key"] for entry in entries}
    assert SECRET not in json.dumps([shown, results])
    log = runs.log(dags[0], run_id, "prepare").splitlines()
    (started,) = [line for line in log if line.startswith("Started process")]
    assert started.endswith("python -m llmjobs.instructions.prepare")


def test_without_an_answer_a_night_publishes_nothing_and_says_so(
    runs: Runs, dags: tuple[str, str], lake: Lake, unanswered: str
) -> None:
    states = {"prepare": "success", "approve": "success", "publish": "skipped", "announce": "skipped"}
    assert runs.states(dags[1], unanswered) == states
    assert runs.result(dags[1], unanswered, "prepare")["verdict"] == "ask"
    said = runs.log(dags[1], unanswered, "announce")
    assert "was refused at" in said
    assert "nobody answered within 0.001 hours" in said
    assert runs.result(dags[1], unanswered, "prepare")["changed"] is False


def test_the_night_after_starts_afresh(runs: Runs, dags: tuple[str, str], lake: Lake, afresh: str) -> None:
    assert runs.finish(dags[1], afresh) == "success"
    states = {"prepare": "success", "approve": "skipped", "publish": "skipped", "announce": "success"}
    assert runs.states(dags[1], afresh) == states
    pointer = lake.pointer("datasets", "unanswered", "current")
    assert pointer is not None
    (event,) = runs.events("nightshift://dataset/unanswered")
    assert pointer.moved_by["run_id"] == event["source_run_id"] == afresh


def test_the_same_backfill_again_does_nothing(
    runs: Runs, dags: tuple[str, str], lake: Lake, backfilled: dict[str, Any], nights: list[dict[str, Any]]
) -> None:
    """The last test: Airflow looks every half a minute whether a backfill is complete, and allows one at a time."""
    path = f"backfills/{backfilled['id']}"
    until(lambda: runs.api.get(path)["completed_at"], "the end of the backfill", seconds=120)
    before = audits(lake)
    backfill(runs, dags[0], "none")
    assert in_order(runs, dags[0]) == nights
    assert audits(lake) == before
