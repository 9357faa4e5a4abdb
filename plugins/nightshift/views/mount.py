"""Where the pages hang in Airflow's URL space, without the cost of building them in every Airflow process."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

PREFIX = "/nightshift"
"""Where Airflow's API server mounts the pages, below its own root path."""

ADDRESS = PREFIX.removeprefix("/")
"""How links name that place: relative to the ``<base>`` of Airflow's web page (3.3.2, ui/dist/index.html), which is the
path of ``[api] base_url``. From the root they would miss the pages of an Airflow that has a prefix (``/airflow/``)."""

LIVE = f"{ADDRESS}/training/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}"
"""The page of a training task; Airflow's web page fills the braces, and leaves the last one where nothing is mapped."""

KINDS = ("audits", "datasets", "adapters", "evaluations", "sweeps", "training_audits", "refreshes")
"""Folders of the lake whose published versions have something to read."""

_VERSIONED_FILE = re.compile(rf"(?:^|/)((?:{'|'.join(KINDS)})/[^/]+/versions/[^/]+/.+)$")


def report_path(url: str) -> str:
    """Return the page that shows a file of the lake, or an empty text when `url` is no published file.

    Only the end of the URL counts, so it does not matter where the lake was when the job wrote it.
    """
    match = _VERSIONED_FILE.search(url)
    return f"{ADDRESS}/reports/{match[1]}" if match else ""


class LazyReports:
    """ASGI app that builds the real one on its first request.

    Airflow loads plugins in the scheduler, the triggerer and every worker too; only the API server needs FastAPI
    and the security modules behind it, seconds of CPU each.
    """

    @cached_property
    def _app(self) -> Any:
        from nightshift.views.reports import build_app

        return build_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand the request on."""
        await self._app(scope, receive, send)
