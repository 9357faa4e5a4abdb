"""Airflow's cluster policy of the embedded stack: no cron run by surprise.

The embedded stack is a laptop's: ``make up`` promises a stack without a run. With Airflow's own rules a cron DAG that
was last run two days ago would start the moment the stack comes up again, also with ``catchup=False``. So cron
schedules are off here and everything else (triggers, asset events, backfills) works. With ``NIGHTSHIFT_NIGHTLY=1`` the
schedules stay as they are written, for a machine that does keep the night shift.
"""

from __future__ import annotations

import os
from typing import Any


def dag_policy(dag: Any) -> None:
    """Take the cron schedule off `dag`, unless this machine keeps the night shift."""
    from airflow.sdk.definitions.timetables.simple import NullTimetable

    if os.environ.get("NIGHTSHIFT_NIGHTLY", "") not in {"", "0"}:
        return
    if hasattr(dag.timetable, "expression"):
        dag.timetable = NullTimetable()
