"""The curves of a run: ``metrics.jsonl``, one line a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Curves:
    """``metrics.jsonl``: one line a step, across resumed processes each step once.

    Args:
        path: The file.
        after_step: Steps up to here are kept; what a killed process did beyond its checkpoint is done again.
    """

    def __init__(self, path: Path, *, after_step: int) -> None:
        """Cut the file back to `after_step`."""
        self._path = path
        self.lines = [line for line in read_curves(path) if line["step"] <= after_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append one step."""
        self.lines.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``metrics.jsonl``; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def mean_rate(lines: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean of a rate over the seconds of the steps; None where no step has it."""
    known = [(line[name], line["step_seconds"]) for line in lines if name in line]
    seconds = sum(spent for _, spent in known)
    return sum(rate * spent for rate, spent in known) / seconds if seconds else None


def duration(seconds: float) -> str:
    """Return a time span as people write it: ``45s``, ``1m20s``, ``2h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
