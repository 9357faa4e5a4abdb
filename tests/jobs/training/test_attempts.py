"""Attempts of a training are counted with their seconds, also those that were killed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmjobs.training.publication.attempts import Attempt, begin, device_seconds, end, now, read_attempts


def test_a_killed_attempt_ends_with_its_last_sign_of_life(tmp_path: Path) -> None:
    curves, started = tmp_path / "metrics.jsonl", 1_700_000_000
    curves.touch()
    os.utime(curves, (started + 90, started + 90))
    killed = Attempt(
        began_at=datetime.fromtimestamp(started, UTC).isoformat(), from_step=0, layout={}, devices=["cpu", "cpu"]
    )
    begin(tmp_path, killed, sign_of_life=curves)
    begin(tmp_path, Attempt(began_at=now(), from_step=8, layout={}, devices=["cpu"]), sign_of_life=curves)
    first, second = end(tmp_path)
    assert (first.seconds, second.from_step) == (90, 8)
    assert second.seconds < 60
    assert device_seconds([first, second]) == pytest.approx(180 + second.seconds, abs=0.06)
    assert read_attempts(tmp_path) == [first, second]


def test_an_attempt_that_died_before_its_first_step_costs_nothing_negative(tmp_path: Path) -> None:
    curves = tmp_path / "metrics.jsonl"
    curves.touch()
    os.utime(curves, (1_700_000_000, 1_700_000_000))
    for _ in range(2):
        begin(tmp_path, Attempt(began_at=now(), from_step=0, layout={}, devices=["cpu"]), sign_of_life=curves)
    assert read_attempts(tmp_path)[0].seconds == 0
