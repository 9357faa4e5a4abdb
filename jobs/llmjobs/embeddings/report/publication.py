"""Publishes the report of a refresh to the lake, where there is something to tell."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmjobs.contracts.base import digest
from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult
from llmjobs.contracts.manifest import Manifest
from llmjobs.database.connection import Connection
from llmjobs.embeddings.report.facts import facts_of
from llmjobs.embeddings.report.page import write_report
from llmjobs.embeddings.report.verdict import verdict
from llmjobs.lake import Lake
from llmjobs.report_page import REPORT

REFRESHES = "refreshes"
"""Kind of the reports in the lake."""

NEWEST = "newest"
"""Pointer to the last report of an index."""


def publish_report(
    connection: Connection, lake: Lake, config: MeasureConfig, result: MeasureResult, problems: list[str]
) -> str:
    """Publish the report of a measured run and return its URL.

    A run that has nothing to tell writes no page: a refresh every hour would leave 8,760 equal ones a year. It gets the
    URL of the last page.

    Args:
        connection: In autocommit mode.
        lake: Where reports are.
        config: Of the index.
        result: Of the run.
        problems: Limits that are passed, in sentences.
    """
    last = _newest(lake, config.name)
    if last is not None and not (problems or has_news(result, last)):
        return lake.version_url(REFRESHES, config.name, last.version, REPORT)
    facts = facts_of(connection, config, result, problems)
    with tempfile.TemporaryDirectory(prefix="nightshift-report-") as folder:
        page = Path(folder, REPORT)
        write_report(page, facts)
        version = digest(page.read_text(encoding="utf-8"))
        found = verdict(facts)
        metrics = {"sentence": f"{found.head}: {found.sentences[0]}", "failing": _failing(result)}
        inputs = {"index_version": result.version}
        lake.publish(Path(folder), kind=REFRESHES, name=config.name, version=version, metrics=metrics, inputs=inputs)
    lake.move_pointer(REFRESHES, config.name, NEWEST, version, reason=f"run {result.run_id}")
    return lake.version_url(REFRESHES, config.name, version, REPORT)


def _newest(lake: Lake, name: str) -> Manifest | None:
    pointer = lake.pointer(REFRESHES, name, NEWEST)
    return lake.manifest(REFRESHES, name, pointer.version) if pointer else None


def has_news(result: MeasureResult, last: Manifest) -> bool:
    """Return whether a run did, or the index is, anything that the last report does not tell."""
    done = (result.documents_refused, result.documents_deferred, result.texts_embedded, result.next_generation_id)
    told = (last.inputs.get("index_version"), last.metrics.get("failing"))
    return result.changed or any(done) or told != (result.version, _failing(result))


def _failing(result: MeasureResult) -> int:
    return result.documents_waiting + result.documents_quarantined
