"""A training's sweep in a real Airflow, with a model of 0.1 million parameters: mapped candidates, one champion."""

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

NAME = "swept"
URI = f"nightshift://adapter/{NAME}"
CANDIDATES = [(0.25, 2), (0.25, 4), (1.0, 2), (1.0, 4)]
CONFIG: dict[str, Any] = {
    "name": NAME,
    "dataset": NAME,
    "lora": {"r": 4, "alpha": 8},
    "data": {"max_length_tokens": 128},
    "train": {"max_steps": 4, "global_batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.01},
    "evaluate": {"metric": "loss", "min_rows": 4},
    "dist": {"threads": 1},
    "resources": {"cpus": 1, "memory_gib": 2},
    "sweep": {"fractions": [1.0, 0.25], "ranks": [4, 2]},
}


@pytest.fixture(scope="module")
def lake(stack: RunningStack) -> Lake:
    """The stack's lake with a dataset whose rows are ranked."""
    return publish_sums(stack, NAME, ranked=True)


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> dict[str, Any]:  # noqa: F811  the fixture
    return {**CONFIG, "model": str(tiny_model)}


@pytest.fixture(scope="module")
def dag_id(more_dags: Bundle, lake: Lake, config: dict[str, Any]) -> Iterator[str]:
    (found,) = more_dags.add("train_adapter", {NAME: config}, contract={"owner": "tests"}, clock=False)
    yield found
    more_dags.clear()


@pytest.fixture(scope="module")
def night(runs: Runs, dag_id: str) -> str:
    """The sweep's night."""
    run_id = runs.trigger(dag_id)
    assert runs.finish(dag_id, run_id, seconds=600) == "success"
    return run_id


def test_each_candidate_is_trained_and_one_comparison_names_the_best(runs: Runs, dag_id: str, night: str) -> None:
    assert set(runs.states(dag_id, night).values()) == {"success"}
    assert runs.mapped(dag_id, night, "train") == {
        f"{part} of the rows, rank {rank}": "success" for part, rank in CANDIDATES
    }
    trained = [runs.result(dag_id, night, "train", map_index=index) for index in range(len(CANDIDATES))]
    few, _, everything, _ = (found["train_rows"] for found in trained)
    assert 0 < few < everything / 3
    swept = runs.result(dag_id, night, "sweep")
    assert [(point["settings"]["data.fraction"], point["settings"]["lora.r"]) for point in swept["curve"]] == CANDIDATES
    assert [point["adapter_version"] for point in swept["curve"]] == [found["version"] for found in trained]
    losses = [point["score"]["loss"] for point in swept["curve"]]
    assert swept["adapter_version"] == trained[losses.index(min(losses))]["version"]
    assert max(losses) < swept["base"]["loss"]
    assert runs.links(dag_id, night, "sweep")["Report"].startswith(f"nightshift/reports/sweeps/{NAME}/")


def test_the_best_alone_is_champion_and_announced(runs: Runs, lake: Lake, dag_id: str, night: str) -> None:
    swept = runs.result(dag_id, night, "sweep")
    best = swept["adapter_version"]
    assert runs.result(dag_id, night, "evaluate")["adapter_version"] == best
    pointer = lake.pointer("adapters", NAME, "champion")
    assert pointer is not None
    assert pointer.version == best
    assert len(lake.versions("adapters", NAME)) == len(CANDIDATES)
    assert [event["extra"]["version"] for event in runs.events(URI)] == [best]


def test_the_night_after_has_nothing_to_do(runs: Runs, lake: Lake, dag_id: str, night: str) -> None:
    before = lake.pointer("adapters", NAME, "champion")
    run_id = runs.trigger(dag_id)
    assert runs.finish(dag_id, run_id) == "success"
    states = runs.states(dag_id, run_id)
    assert {states[name] for name in ("sweep", "evaluate", "promote", "announce")} == {"skipped"}
    assert set(runs.mapped(dag_id, run_id, "train").values()) == {"skipped"}
    assert "the best of a sweep" in runs.log(dag_id, run_id, "needed")
    assert lake.pointer("adapters", NAME, "champion") == before
    assert len(runs.events(URI)) == 1
