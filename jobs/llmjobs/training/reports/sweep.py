"""Writes the comparison of a sweep as one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmjobs.contracts.sweeping import FRACTION, LEARNING_RATE, RANK, told
from llmjobs.contracts.training_results import SweepPoint, SweepResult
from llmjobs.training.reports.page import write_page

_WIDTH, _HEIGHT, _MARGIN = 720, 260, 48
_ROW, _LABEL = 30, 300
_COLUMNS = {FRACTION: "Fraction", LEARNING_RATE: "Learning rate", RANK: "Rank"}


@dataclass(frozen=True)
class _Mark:
    """One candidate on a chart, in its pixels; ``low`` and ``high`` are the ends of its interval.

    On the curve of fractions `place` is to the right and the metric upwards; in the list of candidates `place` is
    downwards and the metric to the right.
    """

    place: float
    at: float
    low: float
    high: float
    label: str
    value: str
    best: bool


def write_report(path: Path, result: SweepResult) -> None:
    """Write the report of a sweep.

    Args:
        path: The HTML file.
        result: The candidates on the validation rows.
    """
    by_fraction = result.settings.keys() == {FRACTION}
    points = result.curve if by_fraction else _best_first(result)
    write_page(
        path,
        "sweep",
        result=result,
        metric=result.metric.replace("_", " "),
        by_fraction=by_fraction,
        best=told(result.settings),
        points=points,
        columns=[_COLUMNS[field] for field in result.settings],
        diverged=[(told(one.settings), one.sentence) for one in result.diverged],
        marks=_curve(result, points) if by_fraction else _list(result, points),
        width=_WIDTH,
        height=_HEIGHT if by_fraction else _ROW * (len(points) + 1),
        margin=_MARGIN,
        row=_ROW,
    )


def _best_first(result: SweepResult) -> list[SweepPoint]:
    if result.metric == "loss":
        return sorted(result.curve, key=lambda point: point.score.loss)
    return sorted(result.curve, key=lambda point: (-point.score.exact_match, point.score.loss))


def _curve(result: SweepResult, points: list[SweepPoint]) -> list[_Mark]:
    """Return the marks of fractions from 0 to 1 to the right."""
    places = [_MARGIN + point.settings[FRACTION] * (_WIDTH - 2 * _MARGIN) for point in points]
    return _marks(result, points, places, (_HEIGHT - _MARGIN, _MARGIN))


def _list(result: SweepResult, points: list[SweepPoint]) -> list[_Mark]:
    """Return the marks of candidates below each other."""
    places = [_ROW * (0.5 + row) for row in range(len(points))]
    return _marks(result, points, places, (_LABEL, _WIDTH - _MARGIN))


def _marks(
    result: SweepResult, points: list[SweepPoint], places: list[float], ends: tuple[float, float]
) -> list[_Mark]:
    """Return the marks, their metric between the pixels of `ends`."""
    values = [_value(result, point) for point in points]
    intervals = [sorted((_end(result, point.low), _end(result, point.high))) for point in points]
    least, most = min(values + [low for low, _ in intervals]), max(values + [high for _, high in intervals])
    span = 1.1 * (most - least) or 1.0  # the lowest point stays off the axis
    start, end = ends

    def pixel(number: float) -> float:
        return round(end - (most - number) / span * (end - start), 1)

    return [
        _Mark(
            place=round(place, 1),
            at=pixel(number),
            low=pixel(low),
            high=pixel(high),
            label=told(point.settings),
            value=f"{number:.4g}",
            best=point.adapter_version == result.adapter_version,
        )
        for point, place, number, (low, high) in zip(points, places, values, intervals, strict=True)
    ]


def _value(result: SweepResult, point: SweepPoint) -> float:
    return point.score.loss if result.metric == "loss" else point.score.exact_match


def _end(result: SweepResult, gain: float) -> float:
    """Return the metric at an end of the interval of the gain over the reference."""
    (reference,) = [one for one in result.curve if one.adapter_version == result.reference_version]
    compared = _value(result, reference)
    return compared - gain if result.metric == "loss" else compared + gain
