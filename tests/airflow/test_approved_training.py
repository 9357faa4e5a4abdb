"""A training that a person lets begin and a champion that a person makes, exported: in a real Airflow, a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.lake import Lake
from tests.fixtures.bundle import Bundle
from tests.fixtures.runs import Runs
from tests.fixtures.stack import RunningStack
from tests.fixtures.sums import publish_sums
from tests.jobs.training.conftest import tiny_model, tokenizer  # noqa: F401  fixtures

pytestmark = [pytest.mark.stack, pytest.mark.long]

NAME = "approved"
URI = f"nightshift://adapter/{NAME}"
CONFIG: dict[str, Any] = {
    "name": NAME,
    "dataset": NAME,
    "lora": {"r": 4, "alpha": 8},
    "data": {"max_length_tokens": 128},
    "train": {"max_steps": 4, "global_batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.01},
    "evaluate": {"metric": "loss", "min_rows": 4, "approval": True},
    "limits": {"max_cost": 0.01, "price_per_hour": 3.6, "tokens_per_second": 10},
    "export": {"formats": ["safetensors", "gguf"], "max_loss_increase": 1.0, "rows": 4},
    "dist": {"threads": 1},
    "resources": {"cpus": 1, "memory_gib": 2},
}


@pytest.fixture(scope="module")
def lake(stack: RunningStack) -> Lake:
    return publish_sums(stack, NAME)


@pytest.fixture(scope="module")
def dag_id(more_dags: Bundle, lake: Lake, tiny_model: Path) -> Iterator[str]:  # noqa: F811  the fixture
    config = {**CONFIG, "model": str(tiny_model)}
    (found,) = more_dags.add("train_adapter", {NAME: config}, contract={"owner": "tests"}, clock=False)
    yield found
    more_dags.clear()


@pytest.fixture(scope="module")
def too_dear(runs: Runs, dag_id: str) -> str:
    """A night whose estimate exceeds the limit, rejected."""
    run_id = runs.trigger(dag_id)
    asked = runs.question(dag_id, run_id, "approve_budget")
    assert asked["subject"] == f"Train the adapter {NAME} beyond its limits?"
    assert "0.01 USD" in asked["body"]
    assert "**Reject** trains nothing" in asked["body"]
    runs.answer(dag_id, run_id, "approve_budget", "Reject")
    assert runs.finish(dag_id, run_id) == "success"
    return run_id


def test_rejected_nothing_is_trained(runs: Runs, lake: Lake, dag_id: str, too_dear: str) -> None:
    states = runs.states(dag_id, too_dear)
    assert (states["estimate"], states["approve_budget"]) == ("success", "success")
    assert {states[name] for name in ("train", "evaluate", "promote", "announce", "export")} == {"skipped"}
    assert lake.versions("adapters", NAME) == []


@pytest.fixture(scope="module")
def approved(runs: Runs, dag_id: str, too_dear: str) -> str:
    """The night after: both questions are answered with yes."""
    run_id = runs.trigger(dag_id)
    runs.question(dag_id, run_id, "approve_budget")
    runs.answer(dag_id, run_id, "approve_budget", "Approve")
    asked = runs.question(dag_id, run_id, "approve", seconds=400)
    assert asked["subject"] == f"Make another version of the adapter {NAME} champion?"
    assert runs.result(dag_id, run_id, "evaluate")["summary"] in asked["body"]
    assert runs.states(dag_id, run_id)["promote"] != "success"
    runs.answer(dag_id, run_id, "approve", "Approve")
    assert runs.finish(dag_id, run_id, seconds=400) == "success"
    return run_id


def test_approved_it_trains_and_promotes_and_says_by_whom(runs: Runs, lake: Lake, dag_id: str, approved: str) -> None:
    assert set(runs.states(dag_id, approved).values()) == {"success"}
    version = runs.result(dag_id, approved, "train")["version"]
    pointer = lake.pointer("adapters", NAME, "champion")
    assert pointer is not None
    assert pointer.version == version
    assert "was approved by admin at" in pointer.reason
    assert [event["extra"]["version"] for event in runs.events(URI)] == [version]


def test_the_champion_is_exported_and_measured_again(runs: Runs, lake: Lake, dag_id: str, approved: str) -> None:
    found = runs.result(dag_id, approved, "export")
    assert [one["format"] for one in found["exports"]] == ["safetensors", "gguf"]
    for one in found["exports"]:
        assert lake.manifest("exports", NAME, one["version"]) is not None
        assert one["loss"] == pytest.approx(one["loss_unmerged"], abs=0.05)
    assert "gguf (f16) exported" in runs.log(dag_id, approved, "export")


def test_the_night_after_has_nothing_to_do(runs: Runs, dag_id: str, approved: str) -> None:
    run_id = runs.trigger(dag_id)
    assert runs.finish(dag_id, run_id) == "success"
    states = runs.states(dag_id, run_id)
    assert {states[name] for name in ("estimate", "approve_budget", "train", "approve", "export")} == {"skipped"}
