"""Records of the processes that jobs run as, so that whoever comes later can end them and only them.

    $NIGHTSHIFT_HOME/run/processes/<name>.json    {"pid": ..., "started_at": ..., "what": ...}

A pid alone says little: after a while another process has it. Pid and start time together name one process.
Every process of a job, however deep, also carries a mark in its environment (`MARKER`: the job's folder, ``#`` and
the launch); so workers are found even when their parent is gone and they have a session of their own, as torchrun
gives them.

``python -m nightshift.runners.processes RECORD GRACE_SECONDS`` ends the recorded job: it waits that long for the
job to end by itself, then kills it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MARKER = "NIGHTSHIFT_LAUNCH"
_SAME_START_SECONDS = 1.0


@dataclass(frozen=True)
class ProcessRecord:
    """One started job.

    Attributes:
        pid: Its process id, which is also its process group and session.
        started_at: `psutil.Process.create_time`, seconds since 1970.
        what: For people: dag, run, task and try.
        mark: What its processes carry in `MARKER`.
    """

    pid: int
    started_at: float
    what: str
    mark: str = ""

    @classmethod
    def of(cls, pid: int, *, what: str, mark: str) -> ProcessRecord:
        """Describe a living (or just ended, not yet reaped) child of ours."""
        return cls(pid=pid, started_at=psutil.Process(pid).create_time(), what=what, mark=mark)

    @classmethod
    def read(cls, path: Path) -> ProcessRecord | None:
        """Read a record; None if there is none, or none that can be read."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        return None

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(path)

    def remove(self, path: Path) -> None:
        """Remove this record, but not one that a newer job has written in its place."""
        if ProcessRecord.read(path) == self:
            path.unlink(missing_ok=True)

    def process(self) -> psutil.Process | None:
        """Return the process if it still lives and is the one that was recorded."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started_at) < _SAME_START_SECONDS
            if same and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None

    def ask_to_end(self) -> bool:
        """Send SIGTERM to the job; return whether there was one.

        As in a pod only the first process gets it: a data loader or rank that dies of its own SIGTERM would
        take the checkpoint with it that its parent is about to write.
        """
        found = self.process()
        if found is not None:
            with suppress(psutil.NoSuchProcess):
                found.terminate()
        return found is not None

    def kill(self) -> list[int]:
        """Send SIGKILL to the job's group and to everything that carries its mark; return their pids."""
        if self.process() is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return kill_stragglers(self.mark) if self.mark else []


def mark_of(folder: Path, launch: str = "") -> str:
    """Return the mark of one launch, or what the marks of all launches in a folder begin with."""
    return f"{folder}#{launch}"


def stragglers(mark: str) -> list[psutil.Process]:
    """Return the living processes of a job, whoever their parent is now."""
    return [process for process in psutil.process_iter() if _carries(process, mark)]


def kill_stragglers(mark: str, *, grace_seconds: float = 0.0) -> list[int]:
    """End every process of a job: SIGTERM and some time if `grace_seconds` says so, then SIGKILL; return pids."""
    found = stragglers(mark)
    living = found
    if grace_seconds:
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, living = psutil.wait_procs(found, timeout=grace_seconds)
    for process in living:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(living, timeout=10)
    return [process.pid for process in found]


def _carries(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return process.environ().get(MARKER, "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE
    return False


def main(arguments: list[str]) -> int:
    """Wait for a recorded job to end, then kill what is left of it."""
    path, grace_seconds = Path(arguments[0]), float(arguments[1])
    record = ProcessRecord.read(path)
    if record is None:
        return 0
    process = record.process()
    if process is not None:
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=grace_seconds)
    record.kill()
    record.remove(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
