"""Writes the curve of a sweep as one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmjobs.contracts.training_results import SweepPoint, SweepResult
from llmjobs.training.reports.page import write_page

_WIDTH, _HEIGHT, _MARGIN = 720, 260, 48


@dataclass(frozen=True)
class _Mark:
    """One candidate on the chart, in its pixels; ``top`` and ``bottom`` are the ends of the interval."""

    x: float
    y: float
    top: float
    bottom: float
    fraction: str
    value: str
    best: bool


def write_report(path: Path, result: SweepResult) -> None:
    """Write the report of a sweep.

    Args:
        path: The HTML file.
        result: The candidates on the validation rows.
    """
    write_page(
        path,
        "sweep",
        result=result,
        metric=result.metric.replace("_", " "),
        part="all" if result.fraction == 1 else f"{result.fraction:g} of the",
        best=next(point for point in result.curve if point.adapter_version == result.adapter_version),
        marks=_marks(result),
        width=_WIDTH,
        height=_HEIGHT,
        margin=_MARGIN,
    )


def _marks(result: SweepResult) -> list[_Mark]:
    """Return the chart: fractions from 0 to 1 to the right, the metric upwards."""
    values = [_value(result, point) for point in result.curve]
    ends = [sorted((_end(result, point.low), _end(result, point.high))) for point in result.curve]
    least, most = min(values + [low for low, _ in ends]), max(values + [high for _, high in ends])
    span = 1.1 * (most - least) or 1.0  # the lowest point stays above the axis

    def height(number: float) -> float:
        return round(_MARGIN + (most - number) / span * (_HEIGHT - 2 * _MARGIN), 1)

    return [
        _Mark(
            x=round(_MARGIN + point.fraction * (_WIDTH - 2 * _MARGIN), 1),
            y=height(number),
            top=height(high),
            bottom=height(low),
            fraction=f"{point.fraction:g}",
            value=f"{number:.4g}",
            best=point.adapter_version == result.adapter_version,
        )
        for point, number, (low, high) in zip(result.curve, values, ends, strict=True)
    ]


def _value(result: SweepResult, point: SweepPoint) -> float:
    return point.score.loss if result.metric == "loss" else point.score.exact_match


def _end(result: SweepResult, gain: float) -> float:
    """Return the metric at an end of the interval of the gain over the largest fraction."""
    full = _value(result, result.curve[-1])
    return full - gain if result.metric == "loss" else full + gain
