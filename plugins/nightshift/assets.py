"""The assets that tie the nights together, and the task that announces a new version of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.sdk import Asset, XComArg, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException


def dataset_asset(name: str) -> Asset:
    """Return the asset of a published dataset, ``nightshift://dataset/<name>``."""
    return _asset("dataset", name)


def adapter_asset(name: str) -> Asset:
    """Return the asset of a promoted adapter, ``nightshift://adapter/<name>``."""
    return _asset("adapter", name)


def index_asset(name: str) -> Asset:
    """Return the asset of a refreshed index, ``nightshift://index/<name>``."""
    return _asset("index", name)


def announce(asset: Asset, result: XComArg, *, task_id: str = "announce", **task_options: Any) -> XComArg:
    """Return a task that tells Airflow about a new version of `asset`, once.

    The event's extra is the whole result: version, counts, report URL. Where Airflow already holds an event for that
    version the task is skipped with a sentence, so an unchanged night starts nothing. Airflow stores the event
    together with the task's success: a run that died after publishing has announced nothing, and its retry, or
    the next night, does.

    Args:
        asset: One of the assets of this module.
        result: Output of the `JobOperator` that published; its ``version`` is the announced version.
        task_id: Task id, to announce more than one asset in a DAG.
        task_options: Passed to ``@task``, for example ``trigger_rule``.
    """
    options = {
        "task_display_name": f"Announce {asset.name}",
        "doc_md": f"Emits the event of `{asset.uri}` unless Airflow already holds one for this version.",
        **task_options,
    }

    @task(task_id=task_id, inlets=[asset], outlets=[asset], **options)
    def emit(result: Any, *, inlet_events: Any = None, outlet_events: Any = None) -> str:
        version = version_of(result, asset.uri)
        # Newest first, since an unchanged night finds its version in the first event.
        refuse_repeated(version, inlet_events[asset].ascending(ascending=False), asset.uri)
        outlet_events[asset].extra = result
        return version

    return emit(result)


def version_of(result: dict[str, Any], uri: str) -> str:
    """Return the version that a result, a mapping, names.

    Raises:
        AirflowFailException: It names none; trying again would not help.
    """
    version = result.get("version")
    if not version or not isinstance(version, str):
        raise AirflowFailException(f"{uri}: the result has no version to announce; its fields are {sorted(result)}")
    return version


def refuse_repeated(version: str, events: Iterable[Any], uri: str) -> None:
    """Return when none of `events` is for `version`.

    Raises:
        AirflowSkipException: There is one: its time is in the sentence.
    """
    for event in events:
        if event.extra.get("version") == version:
            announced = f"{event.timestamp:%Y-%m-%d %H:%M} UTC"
            raise AirflowSkipException(f"{uri}: version {version[:12]} was announced at {announced}: nothing is new")


def _asset(kind: str, name: str) -> Asset:
    return Asset(name=f"{kind}_{name}", uri=f"nightshift://{kind}/{name}", group=kind)
