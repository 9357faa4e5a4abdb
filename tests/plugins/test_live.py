"""The chart of a training task: its own figures and nobody else's, under a strict policy."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urljoin

import pytest

from llmjobs.contracts.environment import Identity
from llmjobs.contracts.training_results import TrainingPhase
from llmjobs.lake import Lake
from llmjobs.training.live import Live
from nightshift.views import live
from nightshift.views.lake_files import LakeFiles
from nightshift.views.mount import LIVE, PREFIX, report_path

TASK = Identity("train_adapter_tickets", "manual__2026-11-24T02:00:00+00:00", "train")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake in which one task has said what it trains."""
    monkeypatch.setenv("LLMJOBS_LAKE_URL", f"file://{tmp_path}/lake")
    for name, value in (("DAG_ID", TASK.dag_id), ("RUN_ID", TASK.run_id), ("TASK_ID", TASK.task_id)):
        monkeypatch.setenv(f"LLMJOBS_{name}", value)
    lake = Lake.from_environment()
    told(lake).phase("starting")
    return lake


def told(lake: Lake, *, heard: bool = True) -> Live:
    return Live.of_task(lake, name="tickets", version="v1", heard=heard)


def step(number: int) -> str:
    return json.dumps({"step": number, "loss": 2.5, "cpu_cores": 1.0, "secret": "x"}) + "\n"


def write(lake: Lake, folder: str, text: str) -> None:
    lake.write_text(f"{folder}/metrics.jsonl", text)


def test_a_running_task_shows_its_whole_steps(lake: Lake) -> None:
    write(lake, "work/adapters/tickets/v1", step(1) + step(2) + '{"step": 3, "lo')
    found = live.steps_of(LakeFiles(), TASK)
    assert found["steps"] == [{"step": n, "loss": 2.5, "cpu_cores": 1.0} for n in (1, 2)]
    assert (found["done"], found["sentence"]) == (False, "")


def test_a_finished_task_shows_the_published_steps(lake: Lake) -> None:
    write(lake, "work/adapters/tickets/v1", step(1))
    write(lake, "adapters/tickets/versions/v1", step(1) + step(2))
    found = live.steps_of(LakeFiles(), TASK)
    assert (len(found["steps"]), found["done"], found["version"]) == (2, True, "v1")


def test_before_the_first_step_and_elsewhere_there_is_a_sentence(lake: Lake) -> None:
    assert live.steps_of(LakeFiles(), TASK)["sentence"] == live.NO_STEP
    other = Identity(TASK.dag_id, TASK.run_id, "plan")
    assert live.steps_of(LakeFiles(), other) == {
        "steps": [], "done": False, "sentence": live.NOTHING, "progress": "",
    }  # fmt: skip


def said(lake: Lake) -> str:
    found = live.steps_of(LakeFiles(), TASK)["progress"]
    assert isinstance(found, str)
    return found


def test_the_page_says_what_the_training_is_at(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(lake) == "Looking up dataset and base"
    training = told(lake)
    training.phase("training")
    training.step(3, 10, loss=1.5, tokens_per_second=1234.5, left="1m20s")
    assert said(lake) == "Training", "a step of the last seconds waits"
    monkeypatch.setattr("llmjobs.training.live._EVERY_SECONDS", 0.0)
    training.step(4, 10, loss=1.25, tokens_per_second=1234.5, left="1m10s")
    assert said(lake) == "Training: step 4 of 10, loss 1.25, 1,234 tokens/s, 1m10s left"
    told(lake, heard=False).phase("saving")
    assert said(lake).startswith("Training: step 4"), "the other processes leave it to the first"
    training.phase("validating")
    assert said(lake) == "Validating: step 4 of 10, loss 1.25, 1,234 tokens/s"
    with pytest.raises(KeyboardInterrupt), training.ending_told():
        raise KeyboardInterrupt
    assert said(lake).startswith("Stopped before the end; the task's log says why: step 4 of 10")


def test_a_training_that_is_silent_is_told(lake: Lake) -> None:
    text = lake.read_text(TASK.live_path)
    assert text
    file = json.loads(text)
    later = datetime.fromisoformat(file["at"]) + timedelta(minutes=7)
    assert live.progress_of(file, later) == "Looking up dataset and base, nothing was heard for 7 minutes"
    assert live.progress_of({"name": "tickets", "version": "of an older release"}, later) == ""


def test_a_lake_that_cannot_be_written_ends_no_training(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    training = told(lake)
    monkeypatch.setattr(Lake, "write_text", _refused)
    training.phase("training")
    monkeypatch.undo()


def _refused(*_: object) -> None:
    raise ConnectionError("the store is gone")


def test_every_phase_has_a_sentence() -> None:
    assert set(live.PHASES) == set(get_args(TrainingPhase))


def test_a_name_that_leads_out_of_the_lake_is_refused(lake: Lake) -> None:
    lake.write_text(TASK.live_path, '{"name": "..", "version": "v1"}')
    with pytest.raises(FileNotFoundError):
        live.steps_of(LakeFiles(), TASK)


@pytest.mark.parametrize("number", [1, 599, 600, 601, 7001])
def test_long_runs_are_thinned_and_keep_their_last_step(number: int) -> None:
    steps: list[dict[str, Any]] = [{"step": n} for n in range(1, number + 1)]
    thinned = live._thinned(steps)
    assert thinned[-1] == {"step": number}
    assert min(number, 300) <= len(thinned) <= 600
    assert thinned == sorted(thinned, key=lambda one: int(one["step"]))


def test_a_task_that_is_not_mapped_leaves_its_brace() -> None:
    assert set(re.findall(r"{\w+}", LIVE)) == {"{DAG_ID}", "{RUN_ID}", "{TASK_ID}", "{MAP_INDEX}"}
    query = {"dag_id": "d", "run_id": "r", "task_id": "t"}
    assert live._task({**query, "map_index": "{MAP_INDEX}"}) == Identity("d", "r", "t")
    assert live._task({**query, "map_index": "3"}) == Identity("d", "r", "t", 3)


@pytest.mark.parametrize("base", ["http://host/", "http://host/airflow/"])
def test_links_lead_to_the_pages_below_any_base_url(base: str) -> None:
    from nightshift_plugin import NightshiftPlugin

    report = report_path("s3://lake/audits/tickets/versions/v1/report.html")
    hrefs = [view["href"] for view in NightshiftPlugin.external_views]
    assert LIVE in hrefs
    for href in (*hrefs, report):
        assert urljoin(base, href).startswith(f"{base}{PREFIX[1:]}/"), href


@pytest.mark.parametrize("name", ["live.html", "live.js", "live.css"])
def test_the_page_runs_our_script_alone(name: str) -> None:
    answer = live._file(name)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    text = (Path(live.__file__).parent / name).read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|eval\(| style=| on\w+=", text)
