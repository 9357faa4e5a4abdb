"""How busy a training keeps its machine, step by step."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_BYTES_PER_KIB = 1 << 10
_BYTES_PER_GIB = 1 << 30


class Utilisation:
    """Reads the clocks and the memory of this node's training processes, and the GPUs' where there are any."""

    def __init__(self) -> None:
        """Find this process' fellows, and start all clocks."""
        self._others = _fellows()
        self._last = (time.monotonic(), self._busy())

    def read(self) -> dict[str, float]:
        """Return the figures since the last reading, over the training processes of this node.

        ``cpu_cores`` is CPU seconds per second; ``memory_gib`` the sum of the processes' highest resident memory so far
        (what they share is counted in each). On GPUs ``gpu_percent``, their mean, and ``gpu_memory_gib``, the highest
        so far of this process' GPU (not run here: no GPU was at hand).
        """
        now = (time.monotonic(), self._busy())
        seconds, busy = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        peak = sum(_peak_bytes(process) for process in (psutil.Process(), *self._others)) / _BYTES_PER_GIB
        return {"cpu_cores": round(max(busy, 0.0) / max(seconds, 1e-9), 3), "memory_gib": round(peak, 3), **_of_gpus()}

    def _busy(self) -> float:
        # The own clock is finer than the kernel's hundredths that others can be asked for.
        return time.process_time() + sum(_cpu_seconds(process) for process in self._others)


def _fellows() -> list[psutil.Process]:
    """Return the other processes that torchrun has started on this node."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return []
    torchrun = psutil.Process(os.getppid())
    return [process for process in torchrun.children() if process.pid != os.getpid()]


def _cpu_seconds(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _peak_bytes(process: psutil.Process) -> int:
    """Return the highest resident memory of a process; the present one where the system does not keep it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _BYTES_PER_KIB
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def _of_gpus() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    figures: dict[str, Any] = {"gpu_memory_gib": round(torch.cuda.max_memory_allocated() / _BYTES_PER_GIB, 3)}
    with suppress(ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py nobody can be asked
        busy = [torch.cuda.utilization(number) for number in range(torch.cuda.device_count())]
        figures["gpu_percent"] = sum(busy) / len(busy)
    return figures
