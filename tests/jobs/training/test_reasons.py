"""Why a run of several processes ended: who was first counts, and a killed process is never taken for a stopped one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmjobs.contracts.errors import ExitCode
from llmjobs.training.launcher import reason_of

STOPPED, CRASHED, DIVERGED = (75, "stopped"), (1, "RuntimeError: connection closed"), (70, "loss is nan")


@pytest.mark.parametrize(
    ("left", "signalled", "code", "says"),
    [
        ([(1, STOPPED), (0, CRASHED)], False, ExitCode.INTERRUPTED, "stopped"),  # one was asked to stop
        ([(0, CRASHED), (1, STOPPED)], False, ExitCode.UNKNOWN, "connection closed"),  # torchrun asked the other
        ([(1, STOPPED)], False, ExitCode.UNKNOWN, "without a reason"),  # the first was killed
        ([], False, ExitCode.UNKNOWN, "without a reason"),
        ([], True, ExitCode.INTERRUPTED, "stopped by a signal"),
        ([(0, CRASHED), (1, STOPPED)], True, ExitCode.INTERRUPTED, "stopped by a signal"),
        ([(0, STOPPED), (1, DIVERGED)], True, ExitCode.DIVERGED, "nan"),
        ([(0, CRASHED), (1, DIVERGED)], False, ExitCode.DIVERGED, "nan"),
    ],
)
def test_who_was_first_counts(
    tmp_path: Path, left: list[tuple[int, tuple[int, str]]], signalled: bool, code: ExitCode, says: str
) -> None:
    for place, (rank, (exit_code, sentence)) in enumerate(left):
        file = tmp_path / f"failure-{rank}.json"
        file.write_text(json.dumps({"exit_code": exit_code, "sentence": sentence}))
        os.utime(file, ns=(place, place))
    error = reason_of(tmp_path, 2, interrupted=signalled)
    assert error.exit_code == code
    assert says in str(error)
