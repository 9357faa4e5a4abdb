"""Buttons on a task: its dataset report, its quarantine, its MLflow run.

Airflow asks each link for its address when the task has ended, in the worker, and stores it as an XCom
(`airflow.sdk.execution_time.task_runner.finalize`, Airflow 3.3.2). The address is read from the job's result.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from nightshift.views.mount import report_path


class ResultLink(BaseOperatorLink):
    """A link whose address stands in one field of the job's result; absent field, no button."""

    field = ""

    @property
    def name(self) -> str:
        """Text of the button."""
        raise NotImplementedError

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, or an empty text where the result has none.

        Args:
            operator: The task.
            ti_key: In a worker the running task instance itself (Airflow 3.3.2).
        """
        result = ti_key.xcom_pull(task_ids=operator.task_id, map_indexes=ti_key.map_index)
        value = result.get(self.field) if isinstance(result, dict) else None
        return self.address(value) if isinstance(value, str) else ""

    def address(self, value: str) -> str:
        """Return the address for a field's value."""
        return value


class ReportLink(ResultLink):
    """The HTML report of the data that a task read or published."""

    name = "Report"
    field = "report_url"

    def address(self, value: str) -> str:
        """Return the page of the report behind Airflow's login."""
        return report_path(value)


class QuarantineLink(ReportLink):
    """The rows that were refused, with file, line and reasons."""

    name = "Quarantine"
    field = "quarantine_url"


class ExperimentLink(ResultLink):
    """The run's curves and system metrics on the MLflow server."""

    name = "MLflow run"
    field = "mlflow_url"


LINKS = (ReportLink(), QuarantineLink(), ExperimentLink())
"""What `JobOperator.operator_extra_links` holds; a result without a field has no such button."""
