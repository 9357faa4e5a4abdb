"""Turn raw instruction files into a published dataset version.

In:   the files that `PrepareConfig` names, and a data contract.
Out:  ``datasets/<name>`` with ``train``, ``validation`` and ``test.parquet``; ``current`` points at it. And, whatever
      the verdict, ``audits/<name>`` with report, quarantine, rows set aside, fixes, and what Great Expectations says.
Run:  ``python -m llmjobs.instructions.prepare`` with the config as JSON in ``LLMJOBS_CONFIG``.

Within the contract's budgets the version becomes current at once; beyond a warn limit it is published, and
`llmjobs.instructions.publish` makes it current when a person has agreed; beyond a fail limit there is no version. The
dataset is published first, then its audit, then the pointer moves: killed anywhere, the next run does the rest.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, PrepareResult
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions.night import Night
from llmjobs.instructions.rendered.targets import publish_targets
from llmjobs.instructions.versions import current_version, is_withdrawn, note_interval, published_until, roll_back
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)


def run(config: PrepareConfig) -> PrepareResult:
    """Publish the dataset, if anything is new; or make an older version current again, if that is asked for.

    Raises:
        BadData: No file matches, or the contract's verdict is to refuse; the audit is published all the same.
    """
    lake = Lake.from_environment()
    if config.rollback_to:
        return _rolled_back(lake, config)
    with tempfile.TemporaryDirectory(prefix="prepare-") as scratch:
        audit = Night(lake, config, Path(scratch)).audit()
    found = audit.metrics
    _say(config, audit)
    if found["decision"] == "refused":
        raise BadData(f"{found['sentence']}; report: {_url(lake, config, audit, 'report.html')}")
    verdict: Literal["accepted", "ask", "dry_run"] = "dry_run" if config.dry_run else found["decision"]
    version, changed = found["dataset_version"], False
    if verdict != "dry_run":
        publish_targets(lake, config, version)
    if verdict == "ask" and version == current_version(lake, config.name):
        verdict = "accepted"  # somebody has agreed to these very rows before
    if verdict == "accepted":
        version, changed = _pointed(lake, config, audit)
        if version != found["dataset_version"]:  # withdrawn, or of an older interval: something else is current
            audit = _audit_behind(lake, config, version)
    return _result(lake, config, audit, verdict=verdict, version=version, changed=changed)


def _pointed(lake: Lake, config: PrepareConfig, audit: Manifest) -> tuple[str, bool]:
    """Make the audit's version current unless something speaks against it; return what is current, and if it moved."""
    version = audit.metrics["dataset_version"]
    current = current_version(lake, config.name)
    if current == version:
        note_interval(lake, config.name, version, config.interval_end)
        return current, False
    why_not = is_withdrawn(lake, config.name, version) or _older(lake, config, current)
    if current and why_not:
        logger.warning("%s", why_not)
        return current, False
    lake.move_pointer("datasets", config.name, "current", version, reason="prepared by the data contract")
    note_interval(lake, config.name, version, config.interval_end)
    return version, True


def _older(lake: Lake, config: PrepareConfig, current: str) -> str:
    """Return why a backfilled night does not become current: a later interval is published; or nothing."""
    published = published_until(lake, config.name, current) if current else ""
    if config.interval_end and published and config.interval_end < published:
        return (
            f"dataset {config.name}: {published} is published already and this run's interval ends "
            f"{config.interval_end}, so its version is in the lake and does not become current"
        )
    return ""


def _rolled_back(lake: Lake, config: PrepareConfig) -> PrepareResult:
    moved = roll_back(lake, config.name, config.rollback_to, "rolled back by a run's parameter")
    logger.info("%s: version %s is current again", config.name, moved.version)
    audit = _audit_behind(lake, config, moved.version)
    return _result(lake, config, audit, verdict="accepted", version=moved.version, changed=moved.changed)


def _audit_behind(lake: Lake, config: PrepareConfig, version: str) -> Manifest:
    """Return the audit of the run that published a version; where its folder was deleted, what the version says.

    A takedown asks for such folders to be deleted, and the nights after it must go on.
    """
    manifest = lake.manifest("datasets", config.name, version)
    if manifest is None or "audit" not in manifest.inputs:
        raise BadData(f"dataset {config.name}: the manifest of version {version} is gone or names no audit")
    audit = lake.manifest("audits", config.name, manifest.inputs["audit"])
    if audit is not None:
        return audit
    metrics = {"reasons": {}, **manifest.metrics}
    return manifest.model_copy(update={"kind": "audits", "version": manifest.inputs["audit"], "metrics": metrics})


def _say(config: PrepareConfig, audit: Manifest) -> None:
    found = audit.metrics
    logger.info(
        "%s: %d rows in, %d published, %d quarantined, %d duplicates, %d left out; %s, version %s",
        config.name, found["rows_in"], found["published"], found["quarantined"], found["duplicates"],
        found["left_out"], found["decision"], found["dataset_version"] or "none",
    )  # fmt: skip


def _url(lake: Lake, config: PrepareConfig, audit: Manifest, file: str) -> str:
    return lake.version_url("audits", config.name, audit.version, file)


def _result(
    lake: Lake,
    config: PrepareConfig,
    audit: Manifest,
    *,
    verdict: Literal["accepted", "ask", "dry_run"],
    version: str,
    changed: bool,
) -> PrepareResult:
    found: dict[str, Any] = audit.metrics
    counts = (
        "rows_in", "published", "quarantined", "duplicates", "left_out", "fixed", "warned", "masked", "train_rows",
        "validation_rows", "test_rows", "added_rows", "removed_rows",
    )  # fmt: skip
    figures = {key: found.get(key, 0) for key in counts}
    if verdict == "accepted" and not changed:
        figures |= {"added_rows": 0, "removed_rows": 0}  # what is current was so before this run
    return PrepareResult(
        name=config.name,
        version=version,
        verdict=verdict,
        changed=changed,
        base_version=audit.inputs.get("base_version", ""),
        reasons=found["reasons"],
        summary=found.get("summary", ""),
        audit_version=audit.version,
        report_url=_url(lake, config, audit, "report.html"),
        quarantine_url=_url(lake, config, audit, "quarantine.jsonl"),
        dataset_url=lake.version_url("datasets", config.name, version) if version and verdict != "dry_run" else "",
        **figures,
    )


if __name__ == "__main__":
    sys.exit(main(PrepareConfig, run))
