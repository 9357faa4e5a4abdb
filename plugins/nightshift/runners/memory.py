"""Did memory run out? Evidence for it, since SIGKILL alone is none: people and machines send it too.

A counter of the control group that grew while the job ran is evidence, and so is a line of the kernel's log that
names one of the job's processes.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_KILLED = re.compile(r"[Oo]ut of memory: Killed process (\d+)")
_KMSG_BYTES = 8192


class OomWatch:
    """Watches one job for out-of-memory kills; make it before the job starts.

    Args:
        cgroup_root: Where control groups are mounted.
        own_cgroups: This process' ``/proc/<pid>/cgroup``, which the job inherits.
        kernel_log: ``/dev/kmsg``; where it cannot be read, only the counters count.
    """

    def __init__(
        self,
        cgroup_root: Path = Path("/sys/fs/cgroup"),
        own_cgroups: Path = Path("/proc/self/cgroup"),
        kernel_log: Path = Path("/dev/kmsg"),
    ) -> None:
        self._counter = _counter_file(cgroup_root, own_cgroups)
        self._before = self._count()
        self._kernel_log = _open_at_end(kernel_log)

    def evidence(self, pid: int) -> str:
        """Return what says that memory ran out while process `pid` ran, or an empty text; ends the watch."""
        lines = self._read_kernel_log()
        if str(pid) in _KILLED.findall(lines):
            return f"the kernel's log says that it killed process {pid}"
        if self._count() > self._before:
            return f"{self._counter} counted {self._count() - self._before} out-of-memory kill(s) during the run"
        return ""

    def _count(self) -> int:
        if self._counter is None:
            return 0
        with suppress(OSError):
            return sum(int(n) for n in _COUNT.findall(self._counter.read_text(encoding="ascii")))
        return 0

    def _read_kernel_log(self) -> str:
        if self._kernel_log is None:
            return ""
        found = []
        # One record a read; the end is EAGAIN on the device and an empty read on a file.
        with suppress(OSError):
            while record := os.read(self._kernel_log, _KMSG_BYTES):
                found.append(record)
        os.close(self._kernel_log)
        self._kernel_log = None
        return b"\n".join(found).decode(errors="replace")


def _counter_file(root: Path, own: Path) -> Path | None:
    """Return ``memory.events`` (version 2) or ``memory.oom_control`` (version 1) of the group that we are in.

    Inside a container the path of ``/proc/self/cgroup`` may be the host's; the root of the mount is ours then.
    """
    with suppress(OSError):
        for line in own.read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            base, name = (root / "memory", "memory.oom_control") if controllers else (root, "memory.events")
            for candidate in (base / path.lstrip("/") / name, base / name):
                if candidate.is_file():
                    return candidate
    return None


def _open_at_end(path: Path) -> int | None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(descriptor, 0, os.SEEK_END)
        return descriptor
    return None
