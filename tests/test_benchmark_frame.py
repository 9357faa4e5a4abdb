"""Benchmarks print figures in one form; a missed target fails, a missing peer is said and never a number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.figures import Figure, Skipped, report

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("figure", "ok"),
    [
        (Figure("dags", "parse", 1.4, "s", target=1.5), True),
        (Figure("dags", "parse", 1.6, "s", target=1.5), False),
        (Figure("training", "tokens", 90, "1/s", peer="trl 1.16", ratio=0.9, target=0.8, better="higher"), True),
        (Figure("training", "tokens", 70, "1/s", peer="trl 1.16", ratio=0.7, target=0.8, better="higher"), False),
        (Figure("training", "memory", 70, "MiB"), True),
    ],
)
def test_a_figure_is_one_line_and_a_missed_target_fails(
    figure: Figure, ok: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(lambda: [figure]) == (0 if ok else 1)
    line = json.loads(capsys.readouterr().out)
    assert list(line) == ["bench", "metric", "value", "unit", "peer", "ratio", "target", "ok"]
    assert line["ok"] is ok


def test_a_missing_peer_is_said_without_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(lambda: [Skipped("prompts", "agreement", "promptfoo needs Node", peer="promptfoo")]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["skipped"] == "promptfoo needs Node"
    assert "value" not in line


def test_a_room_without_benchmark_prints_a_skipped_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks, "HERE", tmp_path)
    assert benchmarks.run_room("training") == 0
    assert json.loads(capsys.readouterr().out)["skipped"]


def test_a_room_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "kitchen"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the rooms are dags" in done.stderr
