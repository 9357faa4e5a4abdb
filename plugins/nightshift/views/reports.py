"""The pages: the list of reports, and each published report and quarantine, behind Airflow's own login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from airflow.api_fastapi.core_api.security import requires_access_asset
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader

from llmjobs.contracts.errors import BadConfig
from nightshift.views.lake_files import LakeFiles
from nightshift.views.live import add_live_pages

HEADERS = {
    # A report quotes rows that nobody has vetted: no script, no form, nothing from elsewhere, whatever it says.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox allow-popups allow-same-origin"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}


def build_app() -> FastAPI:
    """Return the app that Airflow mounts.

    Plugin routes are open to everybody unless they ask for a user (Airflow 3.3), so the dependency hangs on the
    whole app: who may read assets may read their reports.
    """
    app = FastAPI(
        title="Nightshift reports",
        dependencies=[Depends(requires_access_asset("GET"))],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.middleware("http")(_add_headers)
    add_live_pages(app)
    app.add_api_route("/reports/", list_reports, response_class=HTMLResponse)
    app.add_api_route("/reports/{path:path}", show_report, response_class=StreamingResponse)
    return app


def list_reports() -> HTMLResponse:
    """Return the page with every published report, the newest first."""
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return HTMLResponse(pages.get_template("reports.html").render(reports=_lake().reports()))


def show_report(path: str) -> StreamingResponse:
    """Return one published file of the lake."""
    try:
        media_type, pieces = _lake().read(path)
    except FileNotFoundError:
        raise HTTPException(404, f"The lake has no published report at {path}") from None
    return StreamingResponse(pieces, media_type=media_type)


def _lake() -> LakeFiles:
    try:
        return LakeFiles()
    except BadConfig as error:
        raise HTTPException(503, str(error)) from None


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
