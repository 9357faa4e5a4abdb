"""Figures in words."""

from __future__ import annotations

from datetime import UTC, datetime

_STEP = 1024


def count(number: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,.0f}"


def many(number: int, what: str) -> str:
    """Return a number with its noun: ``1 document``, ``1,200 documents``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Return bytes in the unit that keeps the number short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < _STEP:
            return f"{number:,.0f} {unit}" if unit == "B" or abs(number) >= 100 else f"{number:,.1f} {unit}"
        number /= _STEP
    return f"{number:,.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time span."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def minute(when: datetime) -> str:
    """Return a time in UTC, to the minute, where a heading says so."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M}"


def moment(when: datetime) -> str:
    """Return a time in UTC, to the minute."""
    return f"{minute(when)} UTC"
