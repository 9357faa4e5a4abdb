"""The last runs as small bar charts under one another, in pixels of an SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmjobs.embeddings.report.facts import NIGHTS, Night
from llmjobs.embeddings.report.words import count, duration, moment, size

WIDTH, HEIGHT = 720, 78
TOP, BASE = 26, 70
"""Of a chart: where its tallest bar ends, and where all begin."""

_SLOT = WIDTH / NIGHTS
_LEAST = 1.5  # pixels of what is not nothing


@dataclass(frozen=True)
class Bar:
    """One run, or one part of it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Chart:
    """One figure of all runs.

    Attributes:
        y: Where it begins on the page's drawing.
        most: The tallest bar, in words.
        legend: Names of the parts of a bar, by the class that colours them; empty where it has one.
    """

    title: str
    y: int
    most: str
    legend: dict[str, str]
    bars: list[Bar]


Part = tuple[str, float]
"""Class of a bar, and its value."""


def charts(nights: Sequence[Night]) -> list[Chart]:
    """Return the charts, each with one place for a run, the newest on the right."""
    sizes = _carried([_index_bytes(night) for night in nights])
    texts = [[("encoded", n.count("texts_embedded")), ("cached", n.count("texts_cached"))] for n in nights]
    tokens = [[("encoded", night.count("tokens_embedded"))] for night in nights]
    seconds = [[("time", night.seconds)] for night in nights]
    space = [[("space", value)] for value in sizes]
    legend = {"encoded": "encoded", "cached": "from the cache"}
    return [
        _chart(0, "New passages", nights, texts, told=count, legend=legend),
        _chart(1, "Tokens encoded", nights, tokens, told=count),
        _chart(2, "Time", nights, seconds, told=duration),
        _chart(3, "Vectors and their index", nights, space, told=size),
    ]


def _index_bytes(night: Night) -> float | None:
    return night.measured["vector_bytes"] + night.measured["index_bytes"] if night.measured else None


def _carried(values: Sequence[float | None]) -> list[float]:
    """Fill gaps with what was measured last: a run that changed nothing measures no size."""
    found, last = [], 0.0
    for value in values:
        last = value if value is not None else last
        found.append(last)
    return found


def _chart(
    place: int,
    title: str,
    nights: Sequence[Night],
    values: Sequence[Sequence[Part]],
    *,
    told: Callable[[float], str],
    legend: dict[str, str] | None = None,
) -> Chart:
    most = max((sum(value for _, value in parts) for parts in values), default=0.0)
    first = NIGHTS - len(nights)
    bars = [
        bar
        for nth, (night, parts) in enumerate(zip(nights, values, strict=True), first)
        for bar in _stack(nth, night, parts, most, told)
    ]
    return Chart(title, place * HEIGHT, told(most), legend or {}, bars)


def _stack(nth: int, night: Night, parts: Sequence[Part], most: float, told: Callable[[float], str]) -> list[Bar]:
    """Return the parts of one run, from below; a run of which nothing is to be drawn has a flat one."""
    values = ", ".join(f"{told(value)} {kind}" if len(parts) > 1 else told(value) for kind, value in parts)
    title = f"run {night.run_id}, {moment(night.finished_at)}: {values}"
    found, top = [], float(BASE)
    for kind, value in parts:
        if value:
            height = max(value / most * (BASE - TOP), _LEAST)
            top -= height
            found.append(_bar(nth, top, height, kind, title))
    return found or [_bar(nth, BASE - 1, 1, "nothing", title)]


def _bar(nth: int, top: float, height: float, kind: str, title: str) -> Bar:
    return Bar(round(nth * _SLOT + 2, 1), round(top, 1), round(_SLOT - 4, 1), round(height, 1), kind, title)
