"""The assets that tie the nights together, and the task that announces a new version of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from airflow.sdk import Asset, TriggerRule, XComArg, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightshift.decisions import decision_of

_NEWEST = 50
"""Events that are looked at; one is enough, unless people emitted events without a version by hand."""


def dataset_asset(name: str) -> Asset:
    """Return the asset of a published dataset, ``nightshift://dataset/<name>``."""
    return _asset("dataset", name)


def adapter_asset(name: str) -> Asset:
    """Return the asset of a promoted adapter, ``nightshift://adapter/<name>``."""
    return _asset("adapter", name)


def index_asset(name: str) -> Asset:
    """Return the asset of a refreshed index, ``nightshift://index/<name>``."""
    return _asset("index", name)


def announce(
    asset: Asset, result: XComArg, *, publication: XComArg | None = None, task_id: str = "announce", **task_options: Any
) -> XComArg:
    """Return a task that tells Airflow about a new version of `asset`, once.

    The event's extra is the result: version, counts, report URL; prose for the person who was asked stays out.
    Where the newest event that Airflow holds is for that version the task is skipped with a sentence, so an
    unchanged night starts nothing, and a version that comes back after another one, as in a rollback, counts again.
    Airflow stores the event together with the task's success: a run that died after publishing has announced nothing,
    and its retry, or the next night, does.

    Args:
        asset: One of the assets of this module.
        result: Output of the `JobOperator` that published; its ``version`` is the announced version.
        publication: Output of the task that publishes where a person had to decide first (`refuse_unpublished`). The
            task then runs whether that task ran or was skipped.
        task_id: Task id, to announce more than one asset in a DAG.
        task_options: Passed to ``@task``, for example ``trigger_rule``.
    """
    options = {
        "task_display_name": f"Announce {asset.name}",
        "doc_md": f"Emits the event of `{asset.uri}` unless Airflow's newest one is for this version.",
        **({"trigger_rule": TriggerRule.NONE_FAILED} if publication is not None else {}),
        **task_options,
    }

    @task(task_id=task_id, inlets=[asset], outlets=[asset], **options)
    def emit(
        result: Any, publication: Any = None, *, ti: Any = None, inlet_events: Any = None, outlet_events: Any = None
    ) -> str:
        refuse_unpublished(result, publication, partial(decision_of, ti), asset.uri)
        version = version_of(result, asset.uri)
        newest_first = inlet_events[asset].ascending(ascending=False).limit(_NEWEST)
        refuse_repeated(version, newest_first, asset.uri)
        outlet_events[asset].extra = extra_of(result)
        return version

    return emit(result) if publication is None else emit(result, publication)


def version_of(result: dict[str, Any], uri: str) -> str:
    """Return the version that a result, a mapping, names.

    Raises:
        AirflowFailException: It names none; trying again would not help.
    """
    version = result.get("version")
    if not version or not isinstance(version, str):
        raise AirflowFailException(f"{uri}: the result has no version to announce; its fields are {sorted(result)}")
    return version


def extra_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what an event carries: the result without the prose that a person was asked with."""
    return {key: value for key, value in result.items() if key != "summary"}


def refuse_unpublished(result: dict[str, Any], publication: Any, decision: Callable[[], str], uri: str) -> None:
    """Return when the result's version was published: by the job itself, or after an approval.

    Args:
        result: The result; its ``verdict``, if it has one, is that of a `PrepareResult`.
        publication: What the task after the approval handed on, or None if it was skipped.
        decision: Returns the sentence that says who decided.
        uri: The asset's.

    Raises:
        AirflowSkipException: It was a dry run, or a person or the clock refused it.
    """
    verdict = result.get("verdict", "accepted")
    if verdict == "dry_run":
        raise AirflowSkipException(f"{uri}: a dry run, so nothing was published and there is nothing to announce")
    if verdict == "ask" and not publication:
        raise AirflowSkipException(f"{uri}: {decision()}")


def refuse_repeated(version: str, newest_first: Iterable[Any], uri: str) -> None:
    """Return when the newest event is for another version; events that name none, made by hand, do not count.

    Raises:
        AirflowSkipException: It is for `version`: its time is in the sentence.
    """
    newest = next((event for event in newest_first if event.extra.get("version")), None)
    if newest is not None and newest.extra["version"] == version:
        announced = f"{newest.timestamp:%Y-%m-%d %H:%M} UTC"
        raise AirflowSkipException(f"{uri}: version {version[:12]} was announced at {announced}: nothing is new")


def _asset(kind: str, name: str) -> Asset:
    return Asset(name=f"{kind}_{name}", uri=f"nightshift://{kind}/{name}", group=kind)
