"""Writes the audit of a dataset version as one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmjobs.contracts.training_results import AuditResult, SplitAudit
from llmjobs.training.reports.audit_examples import Example
from llmjobs.training.reports.page import write_page

_WIDTH, _HEIGHT, _MARGIN = 720, 220, 36


@dataclass(frozen=True)
class _Bar:
    """Rows of a range of lengths, in pixels of the chart; ``over``: the range begins above the limit."""

    x: float
    y: float
    width: float
    height: float
    title: str
    over: bool


def write_report(path: Path, result: AuditResult, examples: list[Example], *, limit: int) -> None:
    """Write the report of an audit.

    Args:
        path: The HTML file.
        result: Its figures.
        examples: Train rows, token by token.
        limit: ``data.max_length_tokens``.
    """
    train = result.splits[0]
    write_page(
        path,
        "audit",
        result=result,
        train=train,
        examples=examples,
        limit=limit,
        bars=_bars(train, limit),
        longest=max(train.histogram),
        limit_x=_MARGIN + limit / max(train.histogram) * (_WIDTH - 2 * _MARGIN),
        width=_WIDTH,
        height=_HEIGHT,
        margin=_MARGIN,
    )


def _bars(train: SplitAudit, limit: int) -> list[_Bar]:
    """Return the histogram of the train rows: tokens to the right, rows upwards."""
    most, longest, step = max(train.histogram.values()), max(train.histogram), min(train.histogram)
    wide = (_WIDTH - 2 * _MARGIN) / longest * step
    bars = []
    for end, rows in train.histogram.items():
        high = rows / most * (_HEIGHT - 2 * _MARGIN)
        bars.append(
            _Bar(
                x=round(_MARGIN + (end / step - 1) * wide + 1, 1),
                y=round(_HEIGHT - _MARGIN - high, 1),
                width=round(wide - 2, 1),
                height=round(high, 1),
                title=f"{end - step + 1} to {end} tokens: {rows:,} rows",
                over=end - step >= limit,
            )
        )
    return bars
