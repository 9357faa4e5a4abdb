"""What `make run` prints: progress, the reason of a failure, and the table in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import create_autospec

import pytest

from embedded.api import Api, Refused, Unreachable
from embedded.errors import StackError
from embedded.health import Health
from embedded.home import Ports
from embedded.night import file_stem, last_error, merged, refuse_broken_dags
from embedded.stack import Started
from embedded.tables import Answer, Figures, print_summary
from embedded.watch import Followed, Watch, describe, name_of, progress_in

DATA = {
    "name": "tickets",
    "version": "a" * 64,
    "changed": True,
    "rows_in": 412,
    "published": 371,
    "quarantined": 30,
    "duplicates": 11,
    "train_rows": 275,
    "validation_rows": 48,
    "test_rows": 48,
    "reasons": {"output_is_json": 12},
}
TRAINING = {
    "name": "tickets",
    "adapter_version": "b" * 64,
    "promoted": True,
    "rows": 48,
    "exact_match_base": 0.0,
    "exact_match": 0.9375,
    "loss_base": 2.5,
    "loss": 0.0125,
    "sentence": "better than base",
}
INDEX = {
    "name": "guide",
    "changed": True,
    "chunks": 66,
    **{f"{kind}_{change}": 7 for kind in ("documents", "chunks") for change in ("added", "changed", "deleted")},
    "documents_unchanged": 5,
    "chunks_unchanged": 59,
}


def test_table_holds_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Figures(DATA, TRAINING, INDEX, Answer("Why?", "Because [0.9] a.md"), trained=True), seconds=90)
    said = capsys.readouterr().out
    for text in (
        "in 412   published 371   quarantined 30   duplicates 11",
        "on 48 held-out rows",
        "93.8%",
        "0.0125",
        "added 7   changed 7   deleted 7   unchanged 5",
        "added 7   changed 7   deleted 7   unchanged 59",
        "Q: Why?",
        "Because [0.9] a.md",
        "1.5 minutes",
        "promoted",
    ):
        assert text in said, said


def test_night_without_training_shows_the_last_figures_as_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Figures({**DATA, "changed": False}, TRAINING, INDEX, Answer("?", "!"), trained=False), seconds=1)
    said = capsys.readouterr().out
    assert "version bbbbbbbbbbbb, unchanged" in said
    assert "version aaaaaaaaaaaa, unchanged" in said


def test_reason_of_a_failure_is_the_last_exception() -> None:
    lines: list[dict[str, Any]] = [
        {"event": "began", "level": "info"},
        {
            "event": "Task failed",
            "level": "error",
            "error_detail": [{"exc_type": "BadData", "exc_value": "too few rows"}],
        },
        {"event": "done", "level": "info"},
    ]
    assert last_error(lines) == "too few rows"
    assert last_error([{"event": "no space left", "level": "error"}]) == "no space left"
    assert last_error([]) == "its log holds no error"


def test_progress_is_cut_out_of_a_log_line() -> None:
    line = "2026-11-23 16:25:36,357 INFO llmjobs.training.callbacks: step 1/72 loss 2.822 tokens/s 17 left 58m30s"
    assert progress_in(line) == "step 1/72 loss 2.822 tokens/s 17 left 58m30s"
    assert progress_in("a footstep 1 of 72") == ""


def test_mapped_task_is_called_by_its_name() -> None:
    task = {"task_id": "embed", "map_index": 0, "rendered_map_index": "shard 0: 12 documents"}
    assert name_of(task) == "embed [shard 0: 12 documents]"
    assert name_of({**task, "rendered_map_index": None}) == "embed [0]"
    assert name_of({"task_id": "plan", "map_index": -1}) == "plan"


def test_states_are_for_people() -> None:
    assert describe({"state": "up_for_retry", "try_number": 2, "duration": 3.0}) == "up for retry, try 2"
    assert describe({"state": "success", "try_number": 1, "duration": 3.2}) == "success in 3 s"


def test_run_ids_are_quoted_in_paths() -> None:
    run = Followed("train", "manual__2026-11-23T02:00:00+00:00")
    assert run.path == "dags/train/dagRuns/manual__2026-11-23T02%3A00%3A00%2B00%3A00"


RUNNING = {"task_id": "plan", "map_index": -1, "state": "running", "try_number": 1, "start_date": "", "duration": None}


def watch(log: Callable[[str], Any]) -> tuple[Watch, list[str]]:
    """A watch whose API answers with running tasks called plan, and with `log` for the log below a path."""

    def get(path: str, **_: Any) -> Any:
        if path.endswith("/taskInstances"):
            return {"task_instances": [RUNNING]}
        return log(path) if "/logs/" in path else {"state": "running"}

    api = create_autospec(Api, instance=True)
    api.get.side_effect = get
    said: list[str] = []
    return Watch(api, said.append), said


@pytest.mark.parametrize("error", [Unreachable("timed out"), Refused("no such log", 404)])
def test_watch_goes_on_without_a_log(error: Exception) -> None:
    def fail(path: str) -> Any:
        raise error

    watching, said = watch(fail)
    assert watching._look(Followed("train", "night")) == "running"
    assert [line.split()[-2:] for line in said] == [["plan", "running"]]


def test_progress_of_tasks_with_one_name_in_two_dags() -> None:
    watching, said = watch(lambda path: {"content": [{"event": "step 1/72 loss 2.8"}]})
    for dag_id in ("train", "refresh"):
        watching._look(Followed(dag_id, "night"))
    assert [line.split()[2] for line in said if "step 1/72" in line] == ["train", "refresh"]


@pytest.mark.parametrize(
    "config", ["prepare_instructions/tickets", "train_adapter/tickets", "refresh_embeddings/guide"]
)
def test_night_with_a_wrong_config_is_refused_with_the_reason(config: str) -> None:
    with pytest.raises(StackError, match=rf"cannot run .*\nconfigs/{config}\.yaml: nmae: unknown field$"):
        refuse_broken_dags(started({"check_configs.py": trace(f"configs/{config}.yaml: nmae: unknown field")}))


def test_wrong_config_of_another_night_does_not_matter() -> None:
    refuse_broken_dags(started({"check_configs.py": trace("configs/prepare_instructions/alpaca_demo.yaml: nmae: no")}))
    refuse_broken_dags(started({}))


def trace(said: str) -> str:
    return f"Traceback (most recent call last):\nllmjobs.contracts.errors.BadConfig: {said}\n"


def started(errors: dict[str, str]) -> Started:
    return Started(Ports(1, 2, 3), Health(import_errors=errors), was_up=True, cpu_seconds=0.0)


def test_later_results_win() -> None:
    assert merged(iter([{"a": 1, "b": 1}, {"b": 2}])) == {"a": 1, "b": 2}
    assert file_stem("dags/train_adapter.py") == "train_adapter"
