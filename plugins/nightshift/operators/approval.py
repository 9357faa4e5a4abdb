"""Asks a person: publish beyond a warn limit, train beyond a limit of cost, make the better adapter champion?

It waits in the state ``awaiting_input``, in no worker and no trigger, and is listed under *Required Actions*. Where the
result asks for nobody it is skipped, and by default what follows with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.decisions import APPROVAL_TASK, DECISION, sentence_of
from nightshift.views.mount import report_path


class ResultApproval(ApprovalOperator):
    """Show what a result means, and let a person approve or reject it; no answer in time is a rejection.

    A rejection is an answer, so the task succeeds and what follows is skipped. Nobody is asked unless the result's
    ``verdict`` is ``ask``.

    Args:
        of: Id of the task whose result is in question.
        about: What it is about, for sentences: ``dataset tickets``.
        effects: What each answer leads to, in Markdown; ``{version}`` stands for the result's version.
        hours: How long an answer is waited for.
        **kwargs: Anything that `ApprovalOperator` takes.
    """

    def __init__(self, *, of: str, about: str, effects: str, hours: float, **kwargs: Any) -> None:
        super().__init__(defaults=self.REJECT, response_timeout=timedelta(hours=hours), **kwargs)
        self.of = of
        self.about = about
        self.effects = effects
        self.hours = hours

    def execute(self, context: Context) -> Any:
        """Ask, where the result asks for a person.

        Raises:
            AirflowSkipException: It does not.
        """
        result = self._result(context)
        if result.get("verdict") != "ask":
            raise AirflowSkipException(f"{self.about}: nobody has to be asked")
        self.body = body_of(result, self.effects, self.hours)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep who decided what; a rejection skips what follows."""
        if "error" not in event:
            approved = event["chosen_options"] == [self.APPROVE]
            said = sentence_of(_version(self._result(context)), event, approved=approved, hours=self.hours)
            context["ti"].xcom_push(key=DECISION, value=said)
            self.log.info("%s: %s", self.about, said)
        return super().execute_complete(context, event)

    def _result(self, context: Context) -> dict[str, Any]:
        return dict(context["ti"].xcom_pull(task_ids=self.of) or {})


class PublicationApproval(ResultApproval):
    """Ask whether a dataset version that broke a warn limit becomes the current one.

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
            about=f"dataset {name}",
            of=of,
            hours=hours,
            effects=(
                "**Approve** makes version `{version}` current and starts what depends on it. **Reject** leaves the "
                "last version in place."
            ),
            **kwargs,
        )


class PromotionApproval(ResultApproval):
    """Ask whether an adapter that was measured to be better becomes champion.

    Args:
        name: The adapter.
        of: Id of the task whose `EvaluateResult` is in question.
        hours: How long an answer is waited for.
        **kwargs: Anything that `ApprovalOperator` takes.
    """

    def __init__(self, *, name: str, of: str, hours: float, task_id: str = APPROVAL_TASK, **kwargs: Any) -> None:
        super().__init__(
            task_id=task_id,
            subject=f"Make another version of the adapter {name} champion?",
            about=f"adapter {name}",
            of=of,
            hours=hours,
            effects=(
                "**Approve** makes version `{version}` champion and announces it. **Reject** leaves the champion as it "
                "is, and the next night asks again."
            ),
            **kwargs,
        )


class BudgetApproval(ResultApproval):
    """Ask whether a training that is estimated to exceed its limits is started.

    Its id is not that of the other questions, whose answer the promotion reads.

    Args:
        name: The adapter.
        of: Id of the task whose `EstimateResult` is in question.
        hours: How long an answer is waited for.
        **kwargs: Anything that `ApprovalOperator` takes.
    """

    def __init__(self, *, name: str, of: str, hours: float, task_id: str = "approve_budget", **kwargs: Any) -> None:
        super().__init__(
            task_id=task_id,
            subject=f"Train the adapter {name} beyond its limits?",
            about=f"adapter {name}",
            of=of,
            hours=hours,
            effects=(
                "**Approve** trains version `{version}` (of a sweep all candidates). **Reject** trains nothing, and "
                "the next night asks again."
            ),
            **kwargs,
        )


def body_of(result: dict[str, Any], effects: str, hours: float) -> str:
    """Return the question in Markdown: what was found, its summary and report, and what each answer leads to."""
    report = report_path(str(result.get("report_url", "")))
    link = f"[Open the report]({report})" if report else ""
    answers = f"{effects.format(version=_version(result))} Without an answer it is rejected after {hours:g} hours."
    said = (result.get("sentence"), result.get("summary"), link, answers)
    return "\n\n".join(str(part) for part in said if part)


def _version(result: dict[str, Any]) -> str:
    """Return the version in question; of an evaluation that of the adapter."""
    return str(result.get("adapter_version") or result["version"])
