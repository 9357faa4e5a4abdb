"""Buttons on a task: its dataset report, its quarantine, its MLflow run.

Airflow asks each link for its address when the task has ended, in the worker, and stores it as an XCom
(`airflow.sdk.execution_time.task_runner.finalize`, Airflow 3.3.2). The address is read from the job's result.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

from nightshift.views.mount import report_path

QUARANTINE = "quarantine.jsonl"


class ResultLink(BaseOperatorLink):
    """A link whose address stands in the job's result; where the result has none, the button is grey.

    Attributes:
        fields: Fields of the result, the first one that is filled counts.
    """

    fields: tuple[str, ...] = ()

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
        values = [result.get(field) for field in self.fields] if isinstance(result, dict) else []
        return next((self.address(value) for value in values if value and isinstance(value, str)), "")

    def address(self, value: str) -> str:
        """Return the address for a field's value."""
        return value


class ReportLink(ResultLink):
    """The HTML report of the data that a task read, behind Airflow's login."""

    name = "Report"
    fields = ("report_url",)

    def address(self, value: str) -> str:
        """Return the report's page."""
        return report_path(value)


class QuarantineLink(ResultLink):
    """The rows that were refused, with file, line and reasons: they lie beside the report."""

    name = "Quarantine"
    fields = ("report_url",)

    def address(self, value: str) -> str:
        """Return the page of the report's neighbour."""
        return report_path(f"{value.rpartition('/')[0]}/{QUARANTINE}")


class MlflowLink(ResultLink):
    """Curves, system metrics and the registered model, on the MLflow server."""

    name = "MLflow"
    fields = ("mlflow_run_url", "mlflow_model_url")


LINKS = (ReportLink(), QuarantineLink(), MlflowLink())
"""What `JobOperator.operator_extra_links` holds."""
