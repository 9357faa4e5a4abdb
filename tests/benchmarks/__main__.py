"""Run the benchmarks of the rooms named on the command line, or of all: ``python -m tests.benchmarks [room ...]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.figures import ROOMS, Skipped, report

HERE = Path(__file__).parent

PARTS = {
    "embeddings": ("embeddings", "embedding_peers", "embedding_faults", "chunk_borders", "model_swap"),
    "training": ("training", "packing", "quantisation", "memory"),
}
"""The modules of a room that has more than the one of its name."""


def run_room(room: str) -> int:
    """Run one room's benchmark in a process of its own, so that no room pays for another's imports."""
    if room not in ROOMS:
        sys.stderr.write(f"there is no room {room!r}; the rooms are {', '.join(ROOMS)}\n")
        return 2
    if not (HERE / f"{room}.py").is_file():
        return report(lambda: [Skipped(room, "all", "this room has no benchmark yet")])
    commands = [[sys.executable, "-m", f"tests.benchmarks.{part}"] for part in PARTS.get(room, (room,))]
    return max(subprocess.run(command, cwd=HERE.parents[1], check=False).returncode for command in commands)


if __name__ == "__main__":
    raise SystemExit(max(run_room(room) for room in sys.argv[1:] or ROOMS))
