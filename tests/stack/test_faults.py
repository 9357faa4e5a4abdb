"""`make down` leaves no process of a whole stack, also when its runner, scheduler or a task's supervisor was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from embedded import processes
from embedded.api import Api
from embedded.home import Home
from embedded.ports import free_ports
from tests.fixtures.stack import command

pytestmark = pytest.mark.stack


def record_of(home: Home, what: str) -> processes.Record | None:
    return next((record for record in processes.read_records(home) if record.what == what), None)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.1)


def carrying(marker: str) -> list[psutil.Process]:
    """Every process with the stack's marker, found here by another way than the code under test."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("NIGHTSHIFT_STACK") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def working_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process)
    return found


def job_of(home: Home) -> processes.Record | None:
    return next((record for record in processes.read_records(home) if not record.is_service), None)


def freeze_running_job(home: Home) -> psutil.Process:
    """Stop the job where it is, so that it neither ends by itself nor reacts to SIGTERM."""
    wait_for(lambda: (job := job_of(home)) is not None and processes.alive(job), "running job")
    record = job_of(home)
    assert record is not None
    job = psutil.Process(record.pid)
    job.suspend()
    return job


def test_down_after_everything_above_a_running_job_was_killed(tmp_path: Path) -> None:
    """Killed with -9: the task's supervisor, the scheduler (which comes back), and the process runner."""
    home, ports = Home(tmp_path / "home"), free_ports()
    try:
        done = command(home, ports, "up")
        assert done.returncode == 0, done.stdout + done.stderr
        data = home.postgres.resolve()
        assert working_in(data)
        Api.of(home, ports).post("dags/prepare_instructions_tickets/dagRuns", {"logical_date": None})
        job = freeze_running_job(home)
        for above in job.parents()[:2]:  # the task's process and its supervisor
            above.kill()
        first = record_of(home, "scheduler")
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: (again := record_of(home, "scheduler")) is not None and again.pid != first.pid, "restart")
        supervisor = record_of(home, "supervisor")
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_for(lambda: not processes.alive(supervisor), "end of the runner")
        assert job.is_running()
        assert job in carrying(home.stack_id)
    finally:
        ended = command(home, ports, "down", timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert carrying(home.stack_id) == []
    assert working_in(data) == []
    assert command(home, ports, "status").returncode == 3
