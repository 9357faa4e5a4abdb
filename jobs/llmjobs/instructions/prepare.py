"""Turn raw instruction files into a published dataset version.

In:   the files that `PrepareConfig.source` matches, and a data contract.
Out:  ``datasets/<name>`` with ``train``, ``validation`` and ``test.parquet``; ``current`` points at it. And, refused or
      not, ``audits/<name>`` with report, quarantine, duplicates, fixes and the verdict of Great Expectations.
Run:  ``python -m llmjobs.instructions.prepare`` with the config as JSON in ``LLMJOBS_CONFIG``.

The audit is published first, then the dataset, then the pointer moves: killed anywhere, the next run finds what is
there and does the rest.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import polars as pl

from llmjobs.contracts.base import digest
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, PrepareResult
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions.accounts import Accounts, account_for
from llmjobs.instructions.audit import figures, write_audit
from llmjobs.instructions.expectations import judge
from llmjobs.instructions.report import write_report
from llmjobs.instructions.rules import RULES_VERSION
from llmjobs.instructions.sources import Sources
from llmjobs.lake import Lake
from llmjobs.results import main

SCHEMA = 1
"""Raise it when the same rows would be written otherwise than before."""

_REASONS_IN_RESULT = 5
_ID_DIGITS = 32

logger = logging.getLogger(__name__)


def run(config: PrepareConfig) -> PrepareResult:
    """Publish the dataset, if anything is new.

    Raises:
        BadData: No file matches, or the contract's verdict is to refuse; the audit is published all the same.
    """
    lake = Lake.from_environment()
    sources = Sources(lake, config.globs)
    version = audit_version(sources, config)
    audit = _finished_audit(lake, config.name, version) or _prepare(lake, sources, config, version)
    found = audit.metrics
    report_url = lake.version_url("audits", config.name, version, "report.html")
    if not found["accepted"]:
        raise BadData(f"{found['sentence']}; report: {report_url}")
    moved = _point(lake, config.name, found["dataset_version"])
    logger.info("%s: %d rows in, %d published, %d quarantined, %d duplicates; version %s%s", config.name,
                found["rows_in"], found["published"], found["quarantined"], found["duplicates"],
                found["dataset_version"], "" if moved else " (unchanged)")  # fmt: skip
    return _result(lake, config.name, audit, changed=moved)


def audit_version(sources: Sources, config: PrepareConfig) -> str:
    """Return the id of the audit: the same files under the same contract have the same audit."""
    files = [[file.label, file.sha256] for file in sources.files]
    contract = config.contract.digest(exclude={"owner", "description"})
    return digest(["audit", SCHEMA, RULES_VERSION, config.name, files, contract])[:_ID_DIGITS]


def dataset_version(sides: dict[str, pl.DataFrame], config: PrepareConfig) -> str:
    """Return the id of the dataset: its rows by side, and what of the contract decides them."""
    rows = {side: frame["row_id"].to_list() for side, frame in sides.items()}
    return digest(["dataset", SCHEMA, RULES_VERSION, rows, config.contract.publishing_digest()])[:_ID_DIGITS]


def _finished_audit(lake: Lake, name: str, version: str) -> Manifest | None:
    """Return the audit of these very files if an earlier run finished with it."""
    audit = lake.manifest("audits", name, version)
    if audit is None:
        return None
    led_to = audit.metrics["dataset_version"]
    if led_to and lake.manifest("datasets", name, led_to) is None:
        return None
    logger.info("%s: the same files and contract as audit %s", name, version)
    return audit


def _prepare(lake: Lake, sources: Sources, config: PrepareConfig, version: str) -> Manifest:
    """Do the work, publish audit and dataset, and return the audit's manifest."""
    accounts = account_for(sources, config.contract)
    verdict = judge(accounts.table, config.contract, config.name)
    led_to = dataset_version(accounts.sides, config)
    found = figures(accounts, verdict, config, led_to)
    inputs = {
        "files": [{"path": file.label, "sha256": file.sha256, "bytes": file.bytes} for file in sources.files],
        "contract": config.contract.digest(),
        "rules_version": RULES_VERSION,
        "schema": SCHEMA,
    }
    with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
        audit_folder = Path(folder, "audit")
        audit_folder.mkdir()
        write_audit(audit_folder, accounts, verdict, config.contract)
        write_report(audit_folder / "report.html", accounts, verdict, found, config)
        audit = lake.publish(
            audit_folder, kind="audits", name=config.name, version=version, metrics=found, inputs=inputs
        )
        if verdict.accepted:
            dataset_folder = _write_sides(Path(folder, "dataset"), accounts)
            counts = {key: value for key, value in found.items() if type(value) is int}
            inputs["audit"] = version
            lake.publish(
                dataset_folder, kind="datasets", name=config.name, version=led_to, metrics=counts, inputs=inputs
            )
    return audit


def _write_sides(folder: Path, accounts: Accounts) -> Path:
    """Write one Parquet file a side; the same rows give the same bytes."""
    folder.mkdir()
    for side, rows in accounts.sides.items():
        rows.write_parquet(folder / f"{side}.parquet", compression="zstd")
    return folder


def _point(lake: Lake, name: str, version: str) -> bool:
    """Point ``current`` at a version; return whether it pointed elsewhere."""
    current = lake.pointer("datasets", name, "current")
    if current is not None and current.version == version:
        return False
    lake.move_pointer("datasets", name, "current", version, reason="prepared by the data contract")
    return True


def _result(lake: Lake, name: str, audit: Manifest, *, changed: bool) -> PrepareResult:
    found = audit.metrics
    counts = ("rows_in", "published", "quarantined", "duplicates", "fixed", "warned")
    sides = ("train_rows", "validation_rows", "test_rows")
    return PrepareResult(
        name=name,
        version=found["dataset_version"],
        changed=changed,
        reasons=dict(list(found["reasons"].items())[:_REASONS_IN_RESULT]),
        audit_version=audit.version,
        report_url=lake.version_url("audits", name, audit.version, "report.html"),
        quarantine_url=lake.version_url("audits", name, audit.version, "quarantine.jsonl"),
        dataset_url=lake.version_url("datasets", name, found["dataset_version"]),
        **{key: found[key] for key in (*counts, *sides)},
    )


if __name__ == "__main__":
    sys.exit(main(PrepareConfig, run))
