"""What a person, or the clock, answered to a question that a run asked: one sentence, for logs, pointers and skips."""

from __future__ import annotations

from typing import Any

APPROVAL_TASK = "approve"
DECISION = "decision"
"""XCom of the approval task that holds the sentence. Airflow stores no return value of a rejected approval (3.3.2)."""


def sentence_of(version: str, event: dict[str, Any], *, approved: bool, hours: float) -> str:
    """Return who decided what about a version, and when.

    Args:
        version: The version in question.
        event: What Airflow resumed the approval with: ``responded_by_user``, ``responded_at``, ``timedout``.
        approved: Whether the answer was yes.
        hours: How long an answer was waited for.
    """
    at = f"{event['responded_at']:%Y-%m-%d %H:%M} UTC"
    if event.get("timedout"):
        return f"version {version[:12]} was refused at {at}: nobody answered within {hours:g} hours"
    user = (event.get("responded_by_user") or {}).get("name") or "somebody"
    return f"version {version[:12]} was {'approved' if approved else 'refused'} by {user} at {at}"


def decision_of(ti: Any) -> str:
    """Return the sentence of a run's approval task."""
    said = ti.xcom_pull(task_ids=APPROVAL_TASK, key=DECISION)
    return str(said or "nobody was asked, so it was not published")
