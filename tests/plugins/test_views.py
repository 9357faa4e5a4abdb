"""The report pages: behind the login, only published text, nothing outside the lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmjobs.lake import Lake
from nightshift.views.lake_files import LakeFiles
from nightshift.views.mount import LazyReports, report_path

REPORT = "audits/tickets/versions/v1/report.html"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with one published audit."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "report.html").write_text("<h1>Tickets: grün</h1><script>alert(1)</script>", encoding="utf-8")
    (source / "quarantine.jsonl").write_text('{"line": 3}\n', encoding="utf-8")
    (source / "weights.bin").write_bytes(b"\0")
    lake = Lake(f"file://{tmp_path}/lake")
    counts = {"rows_in": 20, "published": 17, "sentence": ""}
    lake.publish(source, kind="audits", name="tickets", version="v1", metrics=counts)
    monkeypatch.setenv("LLMJOBS_LAKE_URL", lake.url)
    return lake


@pytest.fixture(scope="module")
def token() -> str:
    """A token that Airflow's own login manager made for a viewer."""
    from airflow import settings
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.models.revoked_token import RevokedToken

    # The one table that checking a token reads; migrating the whole database takes seconds more.
    engine: Any = settings.get_engine()  # type: ignore[no-untyped-call]
    RevokedToken.metadata.create_all(engine, tables=[RevokedToken.metadata.tables["revoked_token"]])
    manager = create_auth_manager()
    return manager.generate_jwt(SimpleAuthManagerUser(username="vera", role="viewer"))


@pytest.fixture
def stranger() -> Iterator[TestClient]:
    with TestClient(LazyReports()) as client:
        yield client


@pytest.fixture
def viewer(stranger: TestClient, token: str) -> TestClient:
    stranger.headers["Authorization"] = f"Bearer {token}"
    return stranger


@pytest.mark.parametrize("path", ["/reports/", f"/reports/{REPORT}", "/reports/nothing", "/elsewhere", "/openapi.json"])
def test_a_stranger_learns_nothing(lake: Lake, stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code in {401, 404}
    assert "tickets" not in stranger.get(path).text.lower()


@pytest.mark.parametrize(
    "path", ["/reports/", f"/reports/{REPORT}", "/training/", "/training/live.js", "/training/steps?dag_id=tickets"]
)
def test_pages_ask_for_the_login(lake: Lake, stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 401


def test_a_viewer_reads_a_report_and_its_scripts_are_dead(lake: Lake, viewer: TestClient) -> None:
    page = viewer.get(f"/reports/{REPORT}")
    assert page.status_code == 200
    assert "grün" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "allow-scripts" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_list_links_to_each_report(lake: Lake, viewer: TestClient) -> None:
    page = viewer.get("/reports/")
    assert f'href="{REPORT}"' in page.text
    assert "17 of 20 rows published" in page.text


def test_the_list_says_why_data_was_refused(lake: Lake, viewer: TestClient, tmp_path: Path) -> None:
    refused = {"rows_in": 20, "published": 0, "sentence": "19% of the rows <script>"}
    lake.publish(tmp_path / "source", kind="audits", name="tickets", version="v2", metrics=refused)
    page = viewer.get("/reports/").text
    assert "19% of the rows &lt;script&gt;" in page


def test_an_empty_lake_says_what_to_do(tmp_path: Path, viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMJOBS_LAKE_URL", f"file://{tmp_path}/none")
    assert "Trigger a" in viewer.get("/reports/").text


def test_without_a_lake_the_page_names_the_variable(viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMJOBS_LAKE_URL", raising=False)
    answer = viewer.get("/reports/")
    assert answer.status_code == 503
    assert "LLMJOBS_LAKE_URL" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "audits/tickets/versions/v1/weights.bin",
        "audits/tickets/versions/v1/../../../../../secret.txt",
        "audits/tickets/versions/v1/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "audits/tickets/versions/v1/..%2f..%2f..%2f..%2f..%2fsecret.txt",
        "audits/tickets/versions/v1//secret.txt",
        "audits/tickets/versions/.v1/report.html",
        "audits/tickets/current.json",
        "raw/tickets/versions/v1/rows.jsonl",
        "work/a/versions/v1/rows.jsonl",
        "../secret.txt",
        "/etc/hostname.txt",
        "audits/tickets/versions/v1/link.txt",
    ],
)
def test_nothing_else_is_served(lake: Lake, viewer: TestClient, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    for folder in ("raw/tickets/versions/v1", "work/a/versions/v1"):
        (tmp_path / "lake" / folder).mkdir(parents=True)
        (tmp_path / "lake" / folder / "rows.jsonl").write_text("secret")
    (tmp_path / "lake/audits/tickets/versions/v1/link.txt").symlink_to(tmp_path / "secret.txt")
    answer = viewer.get(f"/reports/{path}")
    assert answer.status_code == 404
    assert answer.text != "secret"


@pytest.mark.parametrize(
    "path", ["../secret.txt", "audits/a/versions/v1/../../../../../secret.txt", "audits/a/versions/../../../secret.txt"]
)
def test_dots_that_a_client_would_have_tidied_up_are_refused_too(lake: Lake, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(FileNotFoundError):
        LakeFiles().read(path)


@pytest.mark.parametrize("base", ["file:///srv/lake", "s3://bucket/deep/lake", "memory://lake"])
def test_a_report_has_one_page_wherever_the_lake_is(base: str) -> None:
    assert report_path(f"{base}/{REPORT}") == f"nightshift/reports/{REPORT}"


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "s3://bucket/raw/tickets/a.json"])
def test_what_was_not_published_has_no_page(url: str) -> None:
    assert not report_path(url)
