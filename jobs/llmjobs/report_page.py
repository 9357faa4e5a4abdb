"""Renders a report as one HTML file that needs nothing from outside and runs no script; rooms bring their templates."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

REPORT = "report.html"
"""Name of the file in a version of the lake."""

_SHARED_STYLE = Path(__file__).with_suffix(".css")


def write_page(path: Path, templates: Path, kind: str, **shown: Any) -> None:
    """Write ``<kind>.html.j2`` with what it shows, styled by ``report_page.css`` and ``<kind>.css``.

    Args:
        path: The HTML file.
        templates: Folder of the template and its style.
        kind: Their name.
        **shown: What the template names.
    """
    pages = Environment(
        loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = "".join(one.read_text(encoding="utf-8") for one in (_SHARED_STYLE, templates / f"{kind}.css"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = pages.get_template(f"{kind}.html.j2").render(
        style=Markup(style),  # noqa: S704  our own files
        style_hash=f"sha256-{digest}",
        **shown,
    )
    path.write_text(page, encoding="utf-8")
