"""Writes the audit of a dataset version as one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmjobs.contracts.training import AuditResult, SplitAudit
from llmjobs.training.audit_examples import Example

REPORT = "report.html"

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
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = (Path(__file__).parent / "audit_report.css").read_text(encoding="utf-8")
    train = result.splits[0]
    text = pages.get_template("audit_report.html.j2").render(
        style=Markup(style),  # noqa: S704  our own file
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
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
    path.write_text(text, encoding="utf-8")


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
