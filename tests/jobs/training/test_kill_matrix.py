"""SIGTERM and SIGKILL in every phase of a training, on one process or on one of two: no work is lost, none is faked.

SIGTERM ends with 75 and publishes nothing; after any end the rerun is green, and its adapter is the uninterrupted
one's, byte by byte. The six kills run always, the thirty with `make test-long`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.environment import LAKE_URL, MLFLOW_URL
from llmjobs.contracts.errors import ExitCode
from llmjobs.lake import Lake

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
TERM, KILL = [int(signal.SIGTERM)], [int(signal.SIGKILL)]
TWICE = TERM * 2

Kill = tuple[list[int], str, int, int]
"""Signals, phase, before which call of its function, and of how many processes (the second one gets it)."""

SIX: list[Kill] = [
    (TERM, "loading", 1, 1), (TERM, "validation", 2, 1), (KILL, "manifest", 9, 1), (KILL, "publishing", 1, 1),
    (TWICE, "training", 6, 2), (KILL, "training", 9, 1),
]  # fmt: skip
THIRTY: list[Kill] = [
    *SIX,
    (TERM, "tokenising", 1, 1), (TERM, "building", 1, 1), (TERM, "training", 1, 1), (TERM, "training", 7, 1),
    (TERM, "step end", 12, 1), (TWICE, "validation", 3, 1), (TERM, "saving", 1, 1), (TWICE, "random numbers", 2, 1),
    (TERM, "manifest", 3, 1), (TERM, "pruning", 1, 1), (TERM, "self-test", 1, 1), (TERM, "assembling", 1, 1),
    (KILL, "tokenising", 1, 1), (KILL, "loading", 1, 1), (KILL, "saving", 2, 2), (KILL, "self-test", 1, 1),
    (KILL, "validation", 3, 1), (KILL, "random numbers", 2, 1), (KILL, "pruning", 2, 1), (KILL, "outcome", 1, 1),
    (TERM, "loading", 1, 2), (TERM, "validation", 2, 2), (TERM, "saving", 2, 2), (KILL, "training", 6, 2),
]  # fmt: skip


def stories(kills: list[Kill], folder: Path, recipe: Any, model: Path, published: Any) -> list[dict[str, Any]]:
    """Return how each kill ended; the first two are of runs without one, on one and on two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LAKE_URL, f"file://{folder / 'lake'}")
        published(Lake.from_environment(), folder / "dataset", train=range(100, 140), test=range(140, 148))
    config = recipe(
        model,
        train={"max_steps": 12, "micro_batch_size": 2},
        checkpoint={"every_steps": 4, "keep_last": 1},
        evaluate={"validate_every_steps": 5, "micro_batch_size": 2, "early_stopping": {"patience": 9}},
    )
    given = {
        "folder": str(folder),
        "datasets": str(folder / "lake" / "datasets"),
        "config": config.model_dump(mode="json"),
        "kills": [([], "", 0, 1), ([], "", 0, 2), *kills],
    }
    environment = {**os.environ, "KILLS": json.dumps(given), "PYTHONPATH": str(REPOSITORY / "jobs")} | {
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", MLFLOW_URL: "",
    }  # fmt: skip
    program = [sys.executable, str(Path(__file__).parent / "training_kills.py")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads((folder / "stories.json").read_text())
    return found


def check(kills: list[Kill], told: list[dict[str, Any]], folder: Path) -> None:
    """Hold every story against what is promised; tell all that are broken at once."""
    whole = {processes: told[processes - 1]["adapter"] for processes in (1, 2)}
    assert all(whole.values())
    broken = {}
    for number, (kill, story) in enumerate(zip(kills, told[2:], strict=True), start=2):
        signals, _, _, processes = kill
        struck = story["first"][processes - 1]
        wrong = [
            None in story["first"] + story["again"] and "hung",
            0 in story["first"] and "ended green",
            struck != (ExitCode.INTERRUPTED if signals[0] == signal.SIGTERM else -signal.SIGKILL) and "another end",
            story["between"] and "published",
            story["again"] != [0] * processes and "no rerun",
            story["adapter"] != whole[processes] and "another adapter",
        ]
        if any(wrong):
            broken[str(kill)] = {"wrong": [one for one in wrong if one], "folder": str(folder / str(number)), **story}
    assert not broken, json.dumps(broken, indent=1)
    shutil.rmtree(folder)


def test_six_kills_lose_nothing(tmp_path: Path, recipe: Any, tiny_model: Path, published: Any) -> None:
    check(SIX, stories(SIX, tmp_path, recipe, tiny_model, published), tmp_path)


@pytest.mark.long
def test_thirty_kills_lose_nothing(tmp_path: Path, recipe: Any, tiny_model: Path, published: Any) -> None:
    assert len(THIRTY) == 30
    check(THIRTY, stories(THIRTY, tmp_path, recipe, tiny_model, published), tmp_path)
