"""PublicationApproval: asks a person whether a version that broke a warn limit becomes the current one.

It waits in the state ``awaiting_input``, in no worker and no trigger, and is listed under *Required Actions*. Where the
result asks for nobody it is skipped, and what follows with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.decisions import APPROVAL_TASK, DECISION, sentence_of
from nightshift.views.mount import report_path


class PublicationApproval(ApprovalOperator):
    """Show what would change, and let a person approve or reject it; no answer in time is a rejection.

    A rejection is an answer, so the task succeeds and what follows is skipped.

    Args:
        name: The dataset.
        of: Id of the task whose `PrepareResult` is in question.
        hours: How long an answer is waited for.
        **kwargs: Anything that `ApprovalOperator` takes.
    """

    def __init__(self, *, name: str, of: str, hours: float, task_id: str = APPROVAL_TASK, **kwargs: Any) -> None:
        super().__init__(
            task_id=task_id,
            subject=f"Publish a new version of the dataset {name}?",
            defaults=self.REJECT,
            response_timeout=timedelta(hours=hours),
            **kwargs,
        )
        self.dataset = name
        self.of = of
        self.hours = hours

    def execute(self, context: Context) -> Any:
        """Ask, where the result asks for a person.

        Raises:
            AirflowSkipException: It does not.
        """
        result = self._result(context)
        if result.get("verdict") != "ask":
            raise AirflowSkipException(f"dataset {self.dataset}: nobody has to be asked")
        self.body = body_of(result, self.hours)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep who decided what; a rejection skips what follows."""
        if "error" not in event:
            approved = event["chosen_options"] == [self.APPROVE]
            version = str(self._result(context)["version"])
            said = sentence_of(version, event, approved=approved, hours=self.hours)
            context["ti"].xcom_push(key=DECISION, value=said)
            self.log.info("dataset %s: %s", self.dataset, said)
        return super().execute_complete(context, event)

    def _result(self, context: Context) -> dict[str, Any]:
        return dict(context["ti"].xcom_pull(task_ids=self.of) or {})


def body_of(result: dict[str, Any], hours: float) -> str:
    """Return the question in Markdown: the summary of the result, its report, and what each answer leads to."""
    report = report_path(str(result.get("report_url", "")))
    link = f"[Open the report]({report})" if report else ""
    answers = (
        f"**Approve** makes version `{result['version']}` current and starts what depends on it. **Reject** leaves "
        f"the last version in place. Without an answer it is rejected after {hours:g} hours."
    )
    return "\n\n".join(part for part in (str(result.get("summary", "")), link, answers) if part)
