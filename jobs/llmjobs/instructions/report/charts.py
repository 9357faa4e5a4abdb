"""Geometry of the report's charts: outlines in a box of `WIDTH` by `HEIGHT`, which the page stretches to its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmjobs.instructions.report.data import QualityCurve
from llmjobs.instructions.report.distributions import Histogram

WIDTH, HEIGHT = 1000, 100

_TICKS = 4


@dataclass(frozen=True)
class Outline:
    """One line of a chart: the name that the legend gives it, and the ``d`` of an SVG path."""

    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        outlines: From back to front.
        ticks: Labels of the horizontal axis with their place in percent, from left to right.
        highest: What the upper edge stands for, 0 to 1.
        mark: Place of a vertical mark in percent; None: there is none.
        filled: Whether the first outline is an area.
    """

    outlines: tuple[Outline, ...]
    ticks: tuple[tuple[float, str], ...]
    highest: float
    mark: float | None = None
    filled: bool = False


def length_chart(histogram: Histogram) -> Chart:
    """Return the outlines of a histogram, each group as shares of its own rows, so that groups of any size compare."""
    shares = {name: _shares(rows) for name, rows in histogram.rows.items() if sum(rows)}
    highest = max((max(of_group) for of_group in shares.values()), default=1.0)
    outlines = [Outline(name, _steps([share / highest for share in of_group])) for name, of_group in shares.items()]
    places = sorted({round(histogram.bins * tick / _TICKS) for tick in range(_TICKS + 1)})
    ticks = [(100 * place / histogram.bins, f"{histogram.edges[place]:,}") for place in places]
    return Chart(tuple(outlines), tuple(ticks), highest, filled=True)


def quality_chart(curve: QualityCurve) -> Chart:
    """Return what is kept against the share of rows: mean score, and clusters, of the best rows and of random ones."""
    lines = {"mean score": "mean_score", "clusters kept": "clusters", "by random rows": "random_clusters"}
    values = {name: [getattr(kept, field) for kept in curve.fractions] for name, field in lines.items()}
    fractions = [kept.fraction for kept in curve.fractions]
    outlines = [
        Outline(name, _line(list(zip(fractions, of_line, strict=True))))
        for name, of_line in values.items()
        if None not in of_line
    ]
    ticks = tuple((25.0 * tick, f"{25 * tick}%") for tick in range(5))
    return Chart(tuple(outlines), ticks, 1.0, None if curve.kept_share is None else 100 * curve.kept_share)


def _shares(rows: Sequence[int]) -> list[float]:
    total = sum(rows)
    return [count / total for count in rows]


def _steps(heights: Sequence[float]) -> str:
    """Return the outline of columns without gaps, closed at the bottom; heights 0 to 1."""
    step = WIDTH / len(heights)
    columns = "".join(f"V{_at(1 - height)}H{(place + 1) * step:.5g}" for place, height in enumerate(heights))
    return f"M0 {HEIGHT}{columns}V{HEIGHT}Z"


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * WIDTH:.5g} {_at(1 - y)}" for x, y in points)


def _at(share: float) -> str:
    return f"{share * HEIGHT:.4g}"
