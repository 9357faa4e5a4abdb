"""Writes the report of a run: one HTML file that needs nothing from outside and runs no script.

A report quotes rows that nobody has vetted, and is kept for long: every text of a row is masked and shortened before
the templates see it, and escaped by them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from llmjobs.instructions.report.charts import HEIGHT, WIDTH, length_chart, quality_chart
from llmjobs.instructions.report.data import ReportData, Row
from llmjobs.instructions.report.shown_texts import LONGEST_TEXT, Mask, house_mask, shorten, shown
from llmjobs.instructions.report.word_changes import Piece, word_changes

TEMPLATES = Path(__file__).parent / "template"

_NAME_CHARACTERS = 80
_CHANGED_CHARACTERS = 20_000
_CODE = re.compile(r"`([^`]+)`")
_BESIDE_VERDICT = ("published", "quarantined", "duplicates", "left_out")


@dataclass(frozen=True)
class Section:
    """One section of the page: ``id`` names its template and its anchor."""

    id: str
    title: str


def write_report(path: Path, data: ReportData, *, mask: Mask | None = None) -> None:
    """Write the report; equal data gives equal bytes.

    Args:
        path: The HTML file.
        data: What it says, unmasked.
        mask: Masks personal data; the house's own where it is not given.
    """
    hide = mask or house_mask()
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    page = _environment().get_template("page.html.j2")
    text = page.render(
        style=Markup(style),  # noqa: S704  our own file
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        data=_clean(data, hide),
        changed=_changed_rows(data, hide),
        sections=sections(data),
        ends=[(end, getattr(data, end)) for end in _BESIDE_VERDICT],
    )
    path.write_text(text, encoding="utf-8")


def sections(data: ReportData) -> list[Section]:
    """Return the sections that have something to say, in the order of the page."""
    content = {
        Section("limits", "Limits"): data.limits,
        Section("rules", "Rules"): data.rules or data.quiet,
        Section("refused", "Rows put aside"): data.refused,
        Section("comparison", "Against the last version"): data.comparison and not data.comparison.diff.first,
        Section("likeness", "What the rows are like"): data.lengths or data.mixes or data.sides,
        Section("duplicates", "Duplicates"): data.repeated,
        Section("leaks", "Leaks"): data.leaks,
        Section("personal", "Personal data"): data.personal_data,
        Section("repairs", "Repairs"): data.repairs,
        Section("quality", "Quality and quantity"): data.quality,
        Section("sources", "Sources"): data.sources,
        Section("files", "Files"): data.files,
        Section("removals", "Taken down"): data.removals,
    }
    return [section for section, there in content.items() if there]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "n": _grouped,
        "percent": percent,
        "name": lambda text: shorten(text, _NAME_CHARACTERS),
        "broken": lambda name: Markup("<wbr>").join(re.split(r"(?<=[._])", name)),
        "prose": lambda text: Markup(_CODE.sub(r"<code>\1</code>", str(escape(text)))),  # noqa: S704  escaped before
    }
    environment.globals |= {
        "length_chart": length_chart,
        "quality_chart": quality_chart,
        "width": WIDTH,
        "height": HEIGHT,
    }
    return environment


def percent(share: float) -> str:
    """Return a share in percent, with a digit after the point; what is not nothing never looks like nothing."""
    if 0 < share < 0.001:
        return "< 0.1%"
    if 0.999 < share < 1:
        return "> 99.9%"
    return f"{share:.1%}"


def _grouped(number: float) -> str:
    return f"{number:,.0f}"


def _changed_rows(data: ReportData, mask: Mask) -> list[tuple[Row, list[tuple[str, list[Piece]]]]]:
    """Return the new row of each changed pair with the word changes of every part that differs.

    The texts are compared masked but whole: what changed may be far down.
    """
    pairs = _clean(data.comparison.changed, mask, _CHANGED_CHARACTERS) if data.comparison else ()
    return [(new, _part_changes(old, new)) for old, new in pairs]


def _part_changes(old: Row, new: Row) -> list[tuple[str, list[Piece]]]:
    """Return the first part, so that one knows what the row is about, and those that differ; nothing if none does."""
    before, after = list(old.parts), list(new.parts)
    most = max(len(before), len(after))
    filled = [parts + [("", "")] * (most - len(parts)) for parts in (before, after)]
    pairs = list(zip(*filled, strict=True))
    if before == after:
        return []
    shown_pairs = [pair for place, pair in enumerate(pairs) if place == 0 or pair[0] != pair[1]]
    return [(now[0] or was[0], word_changes(was[1], now[1])) for was, now in shown_pairs]


def _clean(value: Any, mask: Mask, limit: int = LONGEST_TEXT) -> Any:
    """Return `value` with every text in it masked and shortened, but for fields that hold our own words only."""
    if isinstance(value, str):
        return shown(value, mask, limit)
    if isinstance(value, tuple | list):
        return tuple(_clean(item, mask, limit) for item in value)
    if isinstance(value, dict):
        return _clean_counts(value, mask, limit)
    if is_dataclass(value) and not isinstance(value, type):
        texts = [field.name for field in fields(value) if not field.metadata.get("plain")]
        return replace(value, **{name: _clean(getattr(value, name), mask, limit) for name in texts})
    return value


def _clean_counts(values: dict[str, Any], mask: Mask, limit: int) -> dict[str, Any]:
    """Return a dictionary with clean keys; rows of categories that look the same when masked are added up."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name, cleaned = shown(key, mask, limit), _clean(value, mask, limit)
        found[name] = found[name] + cleaned if name in found and isinstance(cleaned, int) else cleaned
    return found
