"""The frame of every benchmark: each figure is one JSON object on a line of its own, last on standard output.

A room's benchmark is ``tests/benchmarks/<room>.py`` with ``measure() -> list[Figure]`` and

    if __name__ == "__main__":
        raise SystemExit(report(measure))
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

ROOMS = ("dags", "instructions", "training", "embeddings", "search", "prompts", "serving")
"""The rooms of ``make bench``; one that has no benchmark yet says so as a skipped figure."""


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        bench: The room.
        metric: What was measured, in the field's terms.
        value: The measurement.
        unit: Its unit.
        peer: What it is compared with, by name and version; None where a bound is all there is.
        ratio: Our value divided by the peer's; None without a peer.
        target: Bound that `value` must keep, or `ratio` where there is a peer.
        better: Whether the bounded number should be low or high.
    """

    bench: str
    metric: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def ok(self) -> bool:
        """Whether the target is kept; a figure without one is only told."""
        if self.target is None:
            return True
        measured = self.value if self.ratio is None else self.ratio
        keeps = operator.le if self.better == "lower" else operator.ge
        return bool(keeps(measured, self.target))

    def as_dict(self) -> dict[str, Any]:
        """Return the figure's line as a mapping, its keys in the design's order."""
        return {
            "bench": self.bench,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer,
            "ratio": self.ratio,
            "target": self.target,
            "ok": self.ok,
        }


@dataclass(frozen=True)
class Skipped:
    """A figure that could not be measured here: why, and never a number."""

    bench: str
    metric: str
    why: str
    peer: str | None = None

    ok = True

    def as_dict(self) -> dict[str, Any]:
        """Return the figure's line as a mapping."""
        return {"bench": self.bench, "metric": self.metric, "peer": self.peer, "skipped": self.why}


def report(measure: Callable[[], Iterable[Figure | Skipped]]) -> int:
    """Measure, print one line a figure, and return the exit code: 1 when a target is missed."""
    figures = list(measure())
    for figure in figures:
        sys.stdout.write(json.dumps(figure.as_dict(), ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return 0 if all(figure.ok for figure in figures) else 1
