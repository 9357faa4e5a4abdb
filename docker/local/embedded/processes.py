"""Finds and ends every process of one home, and no other.

Three ways to know a process, because any of its ancestors may have been killed:

* its record in ``run/processes/*.json``: pid and start time, so that a reused pid is never mistaken for it;
* the marker ``NIGHTSHIFT_STACK=<id>`` in its environment, which every descendant inherits;
* being a descendant, or a member of the process group or session, of one of these;
* for PostgreSQL's children, which overwrite their environment with a title: working in this home's data folder.

Nothing is ever chosen by its name.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from embedded.errors import StackError
from embedded.home import Home

START_TOLERANCE_SECONDS = 2.0
"""Start times are ticks since boot plus the boot time, which moves when the clock is set."""


@dataclass(frozen=True)
class Record:
    """One recorded process.

    Attributes:
        is_service: A service of the stack, rather than a job that the local runner started.
    """

    pid: int
    started_at: float
    what: str
    is_service: bool = True


def read_records(home: Home) -> list[Record]:
    """Return all records of `home`; a file that is half written or no record is passed over."""
    records = []
    for path in sorted(home.records.glob("*.json")) if home.records.is_dir() else []:
        with suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(path.read_text())
            pid, started_at, what = int(values["pid"]), float(values["started_at"]), str(values["what"])
            records.append(Record(pid, started_at, what, is_service=path.name.startswith("service-")))
    return records


def alive(record: Record) -> bool:
    """Return whether the recorded process itself still runs, rather than another one with its pid."""
    try:
        process = psutil.Process(record.pid)
        return _same_start(process, record) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find(home: Home) -> dict[int, psutil.Process]:
    """Return the living processes of `home` by pid, without the caller and its ancestors."""
    table = {process.pid: process for process in psutil.process_iter() if _is_alive(process)}
    found = {record.pid for record in read_records(home) if alive(record)}
    found |= {pid for pid in table if _has_marker(pid, home.stack_id)}
    found |= _in_groups_of(home, table)
    found |= {pid for pid in table if _works_in(pid, home.postgres.resolve())}
    found -= _own_line()
    found |= _descendants(found, table)
    return {pid: table[pid] for pid in found - _own_line() if pid in table}


def end(home: Home, *, patience_seconds: float = 20.0) -> int:
    """End every process of `home`: supervisor and services first, PostgreSQL last; TERM, a deadline, KILL.

    Returns:
        How many processes were ended.

    Raises:
        StackError: Some process cannot be ended, one of another user for example.
    """
    seen: set[tuple[int, float]] = set()
    for database in (False, True):  # everything else needs the database to end in order, so it goes last
        seen |= _end_some(home, database=database, patience_seconds=patience_seconds)
    left = find(home)
    if left:
        raise StackError(f"could not end {', '.join(describe(process) for process in left.values())}")
    for path in home.records.glob("*.json") if home.records.is_dir() else []:
        path.unlink(missing_ok=True)
    return len(seen)


def describe(process: psutil.Process) -> str:
    """Return ``name (pid N)``."""
    try:
        return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the proportional set size of `processes` together, from ``/proc/<pid>/smaps_rollup``."""
    total = 0
    for process in processes:
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _end_some(home: Home, *, database: bool, patience_seconds: float) -> set[tuple[int, float]]:
    """End the database's processes, or all others. New ones that appear meanwhile are ended as well."""
    signalled: set[tuple[int, float]] = set()
    first = signal.SIGINT if database else signal.SIGTERM  # SIGINT is PostgreSQL's fast shutdown
    deadline = time.monotonic() + patience_seconds
    while chosen := _chosen(home, database=database):
        for process in chosen:
            with suppress(psutil.Error):
                key = (process.pid, process.create_time())
                if time.monotonic() > deadline:
                    process.kill()
                elif key not in signalled:
                    process.send_signal(first)
                signalled.add(key)
        if time.monotonic() > deadline + patience_seconds:
            break
        time.sleep(0.1)
    return signalled


def _chosen(home: Home, *, database: bool) -> list[psutil.Process]:
    found = find(home)
    masters = {record.pid for record in read_records(home) if record.what == "postgres" and record.pid in found}
    family = masters | _descendants(masters, found)
    if database:
        # The postmaster ends its own children; they are signalled only when it is gone.
        return [found[pid] for pid in (masters or found)]
    return [process for pid, process in found.items() if pid not in family | _within_jobs(home, found)]


def _within_jobs(home: Home, found: dict[int, psutil.Process]) -> set[int]:
    """Return the processes below a living job's first one.

    Only the first gets a signal, as in a pod: a rank or data loader that dies of its own SIGTERM would take the
    checkpoint with it that its parent is about to write. When the first is gone, the others are ended as well.
    """
    leaders = {record.pid for record in read_records(home) if not record.is_service and record.pid in found}
    return _descendants(leaders, found)


def _same_start(process: psutil.Process, record: Record) -> bool:
    return abs(process.create_time() - record.started_at) <= START_TOLERANCE_SECONDS


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _has_marker(pid: int, stack_id: str) -> bool:
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"NIGHTSHIFT_STACK={stack_id}".encode() in block.split(b"\0")


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


def _in_groups_of(home: Home, table: dict[int, psutil.Process]) -> set[int]:
    """Return the members of recorded processes' groups and sessions, also when the leader is gone.

    A group's number cannot be reused while a member lives; that the member started after the leader's record guards
    against a number that was free for a while.
    """
    leaders = {record.pid: record.started_at for record in read_records(home)}
    found = set()
    for pid, process in table.items():
        for leader in _group_and_session(pid):
            started = leaders.get(leader)
            with suppress(psutil.Error):
                if started is not None and _joined(process, leader, started, table):
                    found.add(pid)
    return found


def _joined(process: psutil.Process, leader: int, started_at: float, table: dict[int, psutil.Process]) -> bool:
    """Return whether `process` is in the group of the recorded leader, and not of another process with its pid."""
    reused = leader in table and not alive(Record(leader, started_at, ""))
    return not reused and process.create_time() >= started_at - START_TOLERANCE_SECONDS


def _group_and_session(pid: int) -> Iterator[int]:
    for ask in (os.getpgid, os.getsid):
        with suppress(OSError):
            yield ask(pid)


def _descendants(roots: set[int], table: dict[int, psutil.Process]) -> set[int]:
    parents = {}
    for pid, process in table.items():
        with suppress(psutil.Error):
            parents[pid] = process.ppid()
    found: set[int] = set()
    fresh = set(roots)
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh and pid not in found}
        found |= fresh
    return found


def _own_line() -> set[int]:
    """Return the caller's pid and those of its ancestors: a shell with the stack's environment is not the stack."""
    own = psutil.Process()
    return {own.pid, *(parent.pid for parent in own.parents())}
