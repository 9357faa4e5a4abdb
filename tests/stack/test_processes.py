"""`make down` ends every process of a home and no other, whoever was killed before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from embedded import processes
from embedded.home import Home

SLEEPER = "import time; time.sleep(600)"
SPAWNS_IN_NEW_SESSION = (
    "import subprocess, sys, time;"
    f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True);"
    "print(p.pid, flush=True); time.sleep(600)"
)
IGNORES_TERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """Start Python code, by default with the home's marker."""
    started: list[subprocess.Popen[str]] = []

    def launch(code: str, *, marker: bool = True) -> subprocess.Popen[str]:
        env = {"NIGHTSHIFT_STACK": home.stack_id} if marker else {}
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(child)
        return child

    yield launch
    for child in started:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def record(home: Home, pid: int, *, name: str = "job-1", shift_seconds: float = 0.0) -> None:
    values = {"pid": pid, "started_at": psutil.Process(pid).create_time() + shift_seconds, "what": name}
    (home.records / f"{name}.json").write_text(json.dumps(values))


def test_marked_process_is_ended_and_others_are_not(home: Home, start: Start) -> None:
    ours, foreign = start(SLEEPER), start(SLEEPER, marker=False)
    assert set(processes.find(home)) == {ours.pid}
    assert processes.end(home, patience_seconds=5) == 1
    assert ours.wait(timeout=5) == -signal.SIGTERM
    assert foreign.poll() is None


def test_recorded_process_is_found_without_a_marker(home: Home, start: Start) -> None:
    child = start(SLEEPER, marker=False)
    record(home, child.pid)
    processes.end(home, patience_seconds=5)
    assert child.wait(timeout=5) == -signal.SIGTERM
    assert list(home.records.glob("*.json")) == []


def test_reused_pid_is_not_touched(home: Home, start: Start) -> None:
    """The record names an earlier process that had this pid."""
    child = start(SLEEPER, marker=False)
    record(home, child.pid, shift_seconds=-60)
    assert processes.find(home) == {}
    processes.end(home, patience_seconds=5)
    assert child.poll() is None


def test_grandchild_in_a_session_of_its_own_is_found_after_its_parent_was_killed(home: Home, start: Start) -> None:
    parent = start(SPAWNS_IN_NEW_SESSION)
    grandchild = psutil.Process(int(first_line(parent)))
    parent.kill()
    parent.wait()
    assert set(processes.find(home)) == {grandchild.pid}
    processes.end(home, patience_seconds=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_process_that_ignores_sigterm_is_killed_after_the_deadline(home: Home, start: Start) -> None:
    child = start(IGNORES_TERM)
    assert first_line(child) == "ready"
    processes.end(home, patience_seconds=1)
    assert child.wait(timeout=5) == -signal.SIGKILL


def test_only_the_first_process_of_a_job_is_asked_to_end(home: Home, start: Start, tmp_path: Path) -> None:
    """Its children, such as ranks of a training, must live until it has written its checkpoint."""
    saved = tmp_path / "saved"
    code = (
        "import pathlib, signal, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"
        f"    pathlib.Path({str(saved)!r}).write_text('dead' if child.poll() is not None else 'alive')\n"
        "    child.kill(); child.wait(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(600)\n"
    )
    job = start(code)
    assert first_line(job) == "ready"
    record(home, job.pid)
    processes.end(home, patience_seconds=10)
    assert job.wait(timeout=5) == 75
    assert saved.read_text() == "alive"


def test_caller_and_its_ancestors_are_never_chosen(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    record(home, os.getpid())
    assert os.getpid() not in processes.find(home)
    assert os.getppid() not in processes.find(home)


def test_half_written_record_is_passed_over(home: Home) -> None:
    (home.records / "service-x.json").write_text('{"pid": 1')
    (home.records / "service-y.json").write_text("[]")
    assert processes.read_records(home) == []


def test_memory_of_this_process_is_plausible() -> None:
    resident = psutil.Process().memory_info().rss
    assert 0 < processes.memory_bytes([psutil.Process()]) <= resident * 1.5


def test_nothing_is_ended_where_nothing_runs(home: Home) -> None:
    assert processes.end(home, patience_seconds=60) == 0
