"""Renders a report of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmjobs import report_page
from llmjobs.report_page import REPORT

__all__ = ["REPORT", "write_page"]


def write_page(path: Path, kind: str, **shown: Any) -> None:
    """Write the page of a `kind` (``audit``, ``sweep``, ``evaluation``), see `llmjobs.report_page.write_page`."""
    report_page.write_page(path, Path(__file__).parent, kind, **shown)
