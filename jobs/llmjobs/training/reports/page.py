"""Renders a report of this room as one HTML file that needs nothing from outside and runs no script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

REPORT = "report.html"

_FOLDER = Path(__file__).parent


def write_page(path: Path, kind: str, **shown: Any) -> None:
    """Write ``<kind>.html.j2`` with what it shows, styled by ``page.css`` and ``<kind>.css``.

    Args:
        path: The HTML file.
        kind: ``audit``, ``sweep`` or ``evaluation``.
        **shown: What the template names.
    """
    pages = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    style = "".join((_FOLDER / f"{name}.css").read_text(encoding="utf-8") for name in ("page", kind))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = pages.get_template(f"{kind}.html.j2").render(
        style=Markup(style),  # noqa: S704  our own file
        style_hash=f"sha256-{digest}",
        **shown,
    )
    path.write_text(page, encoding="utf-8")
