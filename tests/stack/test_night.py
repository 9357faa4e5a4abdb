"""What `make run` prints: progress, the reason of a failure, and the table in the end."""

from __future__ import annotations

from typing import Any

import pytest

from embedded.night import file_stem, last_error, merged
from embedded.tables import Answer, Figures, print_summary
from embedded.watch import Followed, describe, name_of, progress_in

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


def test_later_results_win() -> None:
    assert merged(iter([{"a": 1, "b": 1}, {"b": 2}])) == {"a": 1, "b": 2}
    assert file_stem("dags/train_adapter.py") == "train_adapter"
