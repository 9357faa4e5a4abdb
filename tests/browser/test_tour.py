"""The longer tour, with pictures: every page of the UI that Nightshift has something to do with. `make tour`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from embedded.api import segment
from tests.fixtures.runs import Runs

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Shoot = Callable[[str], None]
DAGS = ("prepare_instructions_tickets", "refresh_embeddings_guide", "train_adapter_tickets")


def settle(page: Page) -> None:
    """Wait until the page has asked for all it shows; Airflow's pages poll, so the network never stays quiet."""
    page.wait_for_load_state("load")
    expect(page.locator(".chakra-spinner, .chakra-skeleton:not([data-loaded])")).to_have_count(0)


def test_the_list_of_dags(page: Page, shoot: Shoot) -> None:
    page.goto("/dags?tags=nightshift")
    for name in ("Prepare instructions: tickets", "Refresh embeddings: guide"):
        expect(page.get_by_role("link", name=name).first).to_be_visible()
    settle(page)
    shoot("dags")


@pytest.mark.parametrize("dag_id", DAGS)
def test_graph_and_documentation_of_each_dag(page: Page, shoot: Shoot, dag_id: str) -> None:
    page.goto(f"/dags/{dag_id}")
    page.get_by_role("button", name="Show Graph").or_(page.get_by_label("Show Graph")).first.click()
    expect(page.locator(".react-flow__node").first).to_be_visible()
    settle(page)
    shoot(f"graph {dag_id}")
    page.get_by_role("button", name="Dag Docs").or_(page.get_by_label("Dag Docs")).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("One file of")
    shoot(f"docs {dag_id}")


def test_form_of_the_training(page: Page, open_form: Callable[[str], Locator], shoot: Shoot) -> None:
    form = open_form("train_adapter_tickets")
    form.get_by_role("button", name="Train", exact=True).click()
    expect(form.locator("label", has_text="Learning rate")).to_be_visible()
    settle(page)
    shoot("form of the training")


def test_a_finished_run_with_its_graph_and_buttons(page: Page, shoot: Shoot, runs: Runs) -> None:
    dag_id = "refresh_embeddings_guide"
    run_id = runs.trigger(dag_id)
    assert runs.finish(dag_id, run_id) == "success"
    page.goto(f"/dags/{dag_id}/runs/{segment(run_id)}")
    page.get_by_role("button", name="Show Graph").or_(page.get_by_label("Show Graph")).first.click()
    expect(page.locator(".react-flow__node").first).to_be_visible()
    settle(page)
    shoot("graph of a finished run")


def test_the_assets(page: Page, shoot: Shoot) -> None:
    page.goto("/assets")
    for name in ("dataset_tickets", "index_guide"):
        expect(page.get_by_role("link", name=name).first).to_be_visible()
    settle(page)
    shoot("assets")


def test_the_reports_are_in_the_menu(page: Page, shoot: Shoot, runs: Runs) -> None:
    dag_id = "prepare_instructions_tickets"
    assert runs.finish(dag_id, runs.trigger(dag_id)) == "success"
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Reports").click()
    reports = page.frame_locator("iframe")
    expect(reports.get_by_role("heading", name="Reports")).to_be_visible()
    shoot("reports")
    reports.get_by_role("link", name="tickets").first.click()
    expect(reports.get_by_role("heading", name="Reports", exact=True)).to_have_count(0)
    expect(reports.locator("body")).to_contain_text("tickets")
    shoot("report")
