"""Registers what Airflow itself must know of Nightshift. The plugin scan loads this file only (`.airflowignore`)."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from nightshift.links import LINKS
from nightshift.views.mount import ADDRESS, LIVE, PREFIX, LazyReports


class NightshiftPlugin(AirflowPlugin):
    """Links from tasks to reports, and the pages that show them."""

    name = "nightshift"
    # AirflowPlugin declares these as instance variables, so ClassVar would be refused by mypy.
    operator_extra_links: list[Any] = list(LINKS)  # noqa: RUF012
    fastapi_apps: list[Any] = [{"app": LazyReports(), "url_prefix": PREFIX, "name": "Nightshift reports"}]  # noqa: RUF012
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Reports",
            "href": f"{ADDRESS}/reports/",
            "destination": "nav",
            "category": "browse",
            "url_route": "nightshift-reports",
        },
        {
            "name": "Training",
            "href": LIVE,
            "destination": "task_instance",
            "url_route": "nightshift-training",
        },
    ]
