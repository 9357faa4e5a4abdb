"""Buttons on a task: its dataset report, its quarantine, its MLflow run.

Airflow asks each link for its address when the task has ended, in the worker, and stores it as an XCom
(`airflow.sdk.execution_time.task_runner.finalize`, Airflow 3.3.2). The address is read from the job's result.
"""

from __future__ import annotations

import re
from typing import Any

from airflow.sdk import BaseOperatorLink

from nightshift.views.mount import report_path

SENTENCE = "refused_because"
"""XCom that holds the sentence of a failed `JobOperator`."""

_REPORT = re.compile(r"\S+/report\.html")


class ResultLink(BaseOperatorLink):
    """A link whose address stands in the job's result; where the result has none, there is no button.

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
        result = _pull(operator, ti_key, "return_value")
        values = [result.get(field) for field in self.fields] if isinstance(result, dict) else []
        return next((self.address(value) for value in values if value and isinstance(value, str)), "")

    def address(self, value: str) -> str:
        """Return the address for a field's value."""
        return value


class ReportLink(ResultLink):
    """The HTML report of the data that a task read, behind Airflow's login; that of refused data too."""

    name = "Report"
    fields = ("report_url",)

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the report of the result, else the one that the failure's sentence names."""
        named = _REPORT.search(str(_pull(operator, ti_key, SENTENCE) or ""))
        return super().get_link(operator, ti_key=ti_key) or (self.address(named[0]) if named else "")

    def address(self, value: str) -> str:
        """Return the report's page."""
        return report_path(value)


class QuarantineLink(ResultLink):
    """The rows that were put aside, with file, line and reasons."""

    name = "Quarantine"
    fields = ("quarantine_url",)

    def address(self, value: str) -> str:
        """Return the quarantine's page."""
        return report_path(value)


class MlflowLink(ResultLink):
    """Curves, system metrics and the registered model, on the MLflow server."""

    name = "MLflow"
    fields = ("mlflow_run_url", "mlflow_model_url")


def _pull(operator: Any, ti_key: Any, key: str) -> Any:
    return ti_key.xcom_pull(task_ids=operator.task_id, map_indexes=ti_key.map_index, key=key)


LINKS = (ReportLink(), QuarantineLink(), MlflowLink())
"""What `JobOperator.operator_extra_links` holds."""
