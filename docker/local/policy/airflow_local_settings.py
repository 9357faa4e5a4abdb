"""Airflow's cluster policy of the embedded stack: no cron run by surprise.

The embedded stack is a laptop's: ``make up`` promises a stack without a run. With Airflow's own rules (3.3.2) a cron
DAG starts the moment the stack comes up when a night was missed meanwhile, also with ``catchup=False``. So cron
schedules are off here, and everything else works: triggers, asset events, backfills. With ``NIGHTSHIFT_NIGHTLY=1`` the
schedules stay as they are written, for a machine that does keep the night shift.
"""

from __future__ import annotations

import os
from typing import Any


def dag_policy(dag: Any) -> None:
    """Take the cron part off the schedule of `dag`, unless this machine keeps the night shift."""
    from airflow.sdk.definitions.timetables.assets import AssetOrTimeSchedule, AssetTriggeredTimetable
    from airflow.sdk.definitions.timetables.simple import NullTimetable

    if os.environ.get("NIGHTSHIFT_NIGHTLY", "") not in {"", "0"}:
        return
    timetable = dag.timetable
    if isinstance(timetable, AssetOrTimeSchedule):
        dag.timetable = AssetTriggeredTimetable(assets=timetable.asset_condition)
    elif timetable.can_be_scheduled and not isinstance(timetable, AssetTriggeredTimetable):
        dag.timetable = NullTimetable()
