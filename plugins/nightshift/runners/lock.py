"""One job at a time for each task instance: a lock that the job itself holds.

The lock is an flock on a file in the job's folder. The job's process inherits the descriptor, so the lock is held
for as long as the job lives, whatever happened to the Airflow process that started it, and it is free the moment
the job is gone, whatever happened to the job. No clean-up can be forgotten.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.failures import JobFailed
from nightshift.runners.processes import ProcessRecord, kill_stragglers, mark_of, stragglers

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_POLL_SECONDS = 0.2
_AFTER_KILL_SECONDS = 30.0


class JobLock:
    """The lock of one job's folder.

    Args:
        folder: The job's folder; made if absent.
        record: Where the job's `ProcessRecord` is.
        log: Says who is asked to end, and why we wait.
    """

    def __init__(self, folder: Path, *, record: Path, log: logging.Logger | Logger) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._mark = mark_of(folder)
        self._record = record
        self._log = log
        self._claim = uuid.uuid4().hex
        self._descriptor: int | None = None

    def claim(self) -> None:
        """Say that the newest try is ours: an older one then starts no job again."""
        (self._folder / "claim").write_text(self._claim, encoding="utf-8")

    def still_ours(self) -> bool:
        """Return whether no newer try has claimed the folder."""
        with suppress(FileNotFoundError):
            return (self._folder / "claim").read_text(encoding="utf-8") == self._claim
        return False

    def acquire(self, grace_seconds: float) -> int:
        """Take the lock, ending the job that holds it if there is one; return the descriptor.

        Args:
            grace_seconds: How long a former job may take to write its checkpoint before it is killed.

        Raises:
            JobFailed: Even SIGKILL did not end the former job.
        """
        if not self._try():
            self._end_former(grace_seconds)
        left = kill_stragglers(self._mark, grace_seconds=min(grace_seconds, 10.0))
        if left:
            self._log.warning("Ended processes that a former job left behind: %s", left)
        assert self._descriptor is not None
        return self._descriptor

    def release(self) -> None:
        """Close our descriptor; a job that inherited it holds the lock on."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self) -> bool:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _end_former(self, grace_seconds: float) -> None:
        asked: set[ProcessRecord] = set()
        started = time.monotonic()
        while time.monotonic() - started < grace_seconds:
            # Read again each time: the former try may just have started its job anew.
            former = ProcessRecord.read(self._record)
            if former and former not in asked and former.ask_to_end():
                asked.add(former)
                self._log.warning(
                    "The job of a former try still runs (%s, process %d): asked it to end, waiting up to %.0f s",
                    former.what, former.pid, grace_seconds,
                )  # fmt: skip
            if self._try():
                self._log.info("The former job has ended after %.1f s", time.monotonic() - started)
                return
            time.sleep(_POLL_SECONDS)
        self._kill_former()

    def _kill_former(self) -> None:
        pids = [process.pid for process in stragglers(self._mark)]
        self._log.warning("The former job did not end in time: killing processes %s", pids)
        deadline = time.monotonic() + _AFTER_KILL_SECONDS
        while time.monotonic() < deadline:
            former = ProcessRecord.read(self._record)
            (former.kill if former else lambda: kill_stragglers(self._mark))()
            if self._try():
                return
            time.sleep(_POLL_SECONDS)
        raise JobFailed(f"the job of a former try still holds {self._folder / 'lock'} after SIGKILL: end it by hand")
