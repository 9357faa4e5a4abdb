"""Writes the report of a refresh: one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmjobs.contracts.embeddings import MeasureResult
from llmjobs.embeddings.changes import Change
from llmjobs.embeddings.report import timeline
from llmjobs.embeddings.report.facts import Facts, hidden
from llmjobs.embeddings.report.verdict import checks, verdict
from llmjobs.embeddings.report.words import count, duration, many, minute, moment, size
from llmjobs.report_page import write_page

_NAME_CHARACTERS = 160

_TITLES = {"add": "Added", "change": "Changed", "move": "Moved", "delete": "Removed"}


@dataclass(frozen=True)
class Row:
    """Documents or chunks of the run by what became of them; together the index and what left it."""

    name: str
    added: int
    changed: int
    moved: int | None
    removed: int
    unchanged: int

    @property
    def whole(self) -> int:
        """All of them."""
        return self.added + self.changed + (self.moved or 0) + self.removed + self.unchanged

    @property
    def parts(self) -> list[tuple[str, float, float]]:
        """Class, place and width of each part of a bar that is 100 long."""
        found, at = [], 0.0
        for kind in ("added", "changed", "moved", "removed", "unchanged"):
            width = 100 * (getattr(self, kind) or 0) / (self.whole or 1)
            found.append((kind, round(at, 3), round(width, 3)))
            at += width
        return found


@dataclass(frozen=True)
class Named:
    """Documents of one kind of change: how many there were, and those that were kept by name."""

    title: str
    number: int
    shown: list[Change]


def write_report(path: Path, facts: Facts) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        facts: What it tells; equal facts give equal bytes.
    """
    write_page(
        path,
        Path(__file__).parent,
        "refresh",
        facts=facts,
        result=facts.result,
        verdict=verdict(facts),
        checks=checks(facts),
        rows=_rows(facts.result),
        named=_named(facts),
        charts=timeline.charts(facts.nights),
        drawing=timeline,
        many_sources=len(facts.sources) > 1,
        name=_name,
        count=count,
        duration=duration,
        many=many,
        minute=minute,
        moment=moment,
        size=size,
    )


def _rows(result: MeasureResult) -> list[Row]:
    moved = result.documents_moved
    documents = Row(
        "documents",
        result.documents_added - moved,
        result.documents_changed,
        moved,
        result.documents_deleted - moved,
        result.documents - result.documents_added - result.documents_changed,
    )
    chunks = Row(
        "passages",
        result.chunks_added,
        result.chunks_changed,
        None,
        result.chunks_deleted,
        result.chunks - result.chunks_added - result.chunks_changed,
    )
    return [documents, chunks]


def _named(facts: Facts) -> list[Named]:
    result = facts.result
    numbers = {
        "add": result.documents_added - result.documents_moved,
        "change": result.documents_changed,
        "move": result.documents_moved,
        "delete": result.documents_deleted - result.documents_moved,
    }
    by_kind = {kind: [one for one in facts.changes if one.operation == kind] for kind in numbers}
    return [Named(_TITLES[kind], number, by_kind[kind]) for kind, number in numbers.items() if number]


def _name(text: str) -> str:
    """Return a document's name as it is shown: without e-mail addresses, and not endless."""
    text = hidden(text)
    return text if len(text) <= _NAME_CHARACTERS else f"{text[:_NAME_CHARACTERS]} …"
