"""What the API server shows: no import errors, the plugin, and reports for those who are logged in."""

from __future__ import annotations

import pytest

from embedded.api import fetch
from llmjobs.lake import Lake
from tests.fixtures.runs import Runs
from tests.fixtures.stack import RunningStack

pytestmark = pytest.mark.stack

REPORT = "audits/looked_at/versions/v1/report.html"


@pytest.fixture(scope="module")
def report(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a report in the stack's lake."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text("<h1>Looked at</h1>", encoding="utf-8")
    Lake(stack.env["LLMJOBS_LAKE_URL"]).publish(folder, kind="audits", name="looked_at", version="v1")
    return f"{stack.base_url}/nightshift/reports/{REPORT}"


def get(url: str, **headers: str) -> tuple[int, str]:
    status, body = fetch("GET", url, None, headers, 60)
    return status, body.decode()


def test_every_dag_loaded(runs: Runs) -> None:
    assert runs.api.get("importErrors")["import_errors"] == []


def test_the_plugin_is_loaded_whole(runs: Runs) -> None:
    assert runs.api.get("plugins/importErrors")["import_errors"] == []
    (plugin,) = [p for p in runs.api.get("plugins")["plugins"] if p["name"] == "nightshift"]
    assert [app["url_prefix"] for app in plugin["fastapi_apps"]] == ["/nightshift"]
    views = {view["destination"]: view["href"] for view in plugin["external_views"]}
    assert views.pop("nav") == "nightshift/reports/"
    assert views.pop("task_instance").startswith("nightshift/training/")
    assert not views


def test_a_report_asks_for_the_login(report: str) -> None:
    status, body = get(report)
    assert status == 401
    assert "Looked at" not in body
    assert get(report, Authorization="Bearer no-token")[0] in {401, 403}
    assert get(report.removesuffix(REPORT))[0] == 401


def test_a_report_opens_for_a_token_and_for_the_browsers_cookie(stack: RunningStack, report: str) -> None:
    token = stack.api.token()
    assert get(report, Authorization=f"Bearer {token}") == (200, "<h1>Looked at</h1>")
    assert get(report, Cookie=f"_token={token}") == (200, "<h1>Looked at</h1>")


def test_nothing_outside_the_published_reports_is_served(stack: RunningStack, report: str) -> None:
    token = {"Authorization": f"Bearer {stack.api.token()}"}
    base = f"{stack.base_url}/nightshift/reports"
    for path in ("../../airflow/passwords.json", "audits/looked_at/versions/v1/../../../../../secrets.json",
                 "%2e%2e/secrets.json", "raw/tickets/2026-10.json"):  # fmt: skip
        assert get(f"{base}/{path}", **token)[0] == 404, path
