"""An index's nights in a real Airflow: every document is in it after the first, and the next one maps no shard."""

from __future__ import annotations

from typing import Any

import pytest

from embedded.api import fetch, segment
from embedded.home import REPOSITORY
from tests.fixtures.runs import Runs

pytestmark = pytest.mark.stack

REFRESH = "refresh_embeddings_guide"
URI = "nightshift://index/guide"
DOCUMENTS = len(list((REPOSITORY / "docs/guide").glob("*.md")))


def shards(runs: Runs, run_id: str) -> list[str]:
    """Return the states of the shards that were mapped."""
    path = f"dags/{REFRESH}/dagRuns/{segment(run_id)}/taskInstances"
    found = runs.api.get(path, task_id="embed")["task_instances"]
    return [task["state"] for task in found if task["task_id"] == "embed" and task["map_index"] >= 0]


def versions(runs: Runs) -> list[str]:
    """Return the versions that were announced."""
    return [event["extra"]["version"] for event in runs.events(URI)]


@pytest.fixture(scope="module")
def first(runs: Runs) -> str:
    """A night that leaves the index complete; another test of this stack may have filled it already."""
    run_id = runs.trigger(REFRESH)
    assert runs.finish(REFRESH, run_id) == "success"
    return run_id


@pytest.fixture(scope="module")
def announced(runs: Runs, first: str) -> list[str]:
    """What was announced after the first night."""
    return versions(runs)


@pytest.fixture(scope="module")
def unchanged(runs: Runs, announced: list[str]) -> str:
    """The night after, with the same documents."""
    run_id = runs.trigger(REFRESH)
    assert runs.finish(REFRESH, run_id) == "success"
    return run_id


def test_every_document_of_the_guide_is_in_the_index(runs: Runs, first: str) -> None:
    result: dict[str, Any] = runs.result(REFRESH, first, "finalise")
    assert result["documents"] == result["documents_added"] + result["documents_unchanged"] == DOCUMENTS
    assert result["refused"] == []
    assert result["active"] is True


def test_the_shards_that_the_plan_dealt_were_mapped(runs: Runs, first: str) -> None:
    plan: dict[str, Any] = runs.result(REFRESH, first, "plan")
    assert shards(runs, first) == ["success"] * len(plan["shards"])
    assert sum(shard["documents"] for shard in plan["shards"]) == plan["documents_added"]


def test_the_measuring_task_leads_to_the_report(runs: Runs, first: str, unchanged: str) -> None:
    page = runs.links(REFRESH, first, "measure")["Report"]
    assert page.startswith("nightshift/reports/refreshes/guide/versions/")
    # The night after changed nothing: it leads to the same page.
    assert runs.links(REFRESH, unchanged, "measure")["Report"] == page
    login = {"Authorization": f"Bearer {runs.api.token()}"}
    status, body = fetch("GET", f"{runs.api.base_url}/{page}", None, login, 60)
    assert status == 200
    assert f"the index holds {DOCUMENTS} documents" in body.decode()


def test_the_version_is_announced_once(runs: Runs, first: str, announced: list[str]) -> None:
    assert announced.count(runs.result(REFRESH, first, "finalise")["version"]) == 1


def test_an_unchanged_night_maps_no_shard(runs: Runs, unchanged: str) -> None:
    assert shards(runs, unchanged) == []
    assert runs.states(REFRESH, unchanged) == {
        "plan": "success",
        "deal": "success",
        "embed": "skipped",
        "finalise": "success",
        "measure": "success",
        "announce": "skipped",
    }


def test_an_unchanged_night_says_that_nothing_changed(runs: Runs, first: str, unchanged: str) -> None:
    result: dict[str, Any] = runs.result(REFRESH, unchanged, "finalise")
    assert result["changed"] is False
    assert result["documents"] == result["documents_unchanged"] == DOCUMENTS
    assert result["texts_embedded"] == 0
    assert result["version"] == runs.result(REFRESH, first, "finalise")["version"]


def test_an_unchanged_night_announces_nothing(runs: Runs, announced: list[str], unchanged: str) -> None:
    assert versions(runs) == announced
    assert "nothing is new" in runs.log(REFRESH, unchanged, "announce")
