"""How busy a training process keeps its machine, step by step."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from typing import Any

_KIB_PER_GIB = 1 << 20
_BYTES_PER_GIB = 1 << 30


class Utilisation:
    """Reads the process' own clock and memory, and the GPU's where there is one."""

    def __init__(self) -> None:
        """Start both clocks."""
        self._last = (time.monotonic(), time.process_time())

    def read(self) -> dict[str, float]:
        """Return the figures since the last reading.

        ``cpu_cores`` is CPU seconds per second; ``memory_gib`` the highest resident memory so far; on a GPU
        ``gpu_percent`` and ``gpu_memory_gib`` besides (not run here: no GPU was at hand).
        """
        now = (time.monotonic(), time.process_time())
        seconds, busy = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB
        return {"cpu_cores": round(busy / max(seconds, 1e-9), 3), "memory_gib": round(peak, 3), **_of_gpu()}


def _of_gpu() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    figures: dict[str, Any] = {"gpu_memory_gib": round(torch.cuda.max_memory_allocated() / _BYTES_PER_GIB, 3)}
    with suppress(ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py nobody can be asked
        figures["gpu_percent"] = torch.cuda.utilization()
    return figures
