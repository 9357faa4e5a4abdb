"""One preparation from the question that it answers to the audit and the version that it leaves in the lake."""

from __future__ import annotations

import json
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmjobs.contracts.base import digest
from llmjobs.contracts.data_rules import FLAGS
from llmjobs.contracts.environment import STORAGE_OPTIONS
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import evaluation, replay
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.audit import SetAside, figures, write_audit
from llmjobs.instructions.choice.quality import QUALITY_VERSION
from llmjobs.instructions.choice.selection import SELECTION_VERSION
from llmjobs.instructions.corrections import Corrections
from llmjobs.instructions.ends import Accounts, Past, account_for
from llmjobs.instructions.examined_files import examined, instruments_of, unanswered_in
from llmjobs.instructions.expectations import FIGURES, Verdict, judge
from llmjobs.instructions.identity import said, said_keys
from llmjobs.instructions.parts import Part
from llmjobs.instructions.problems import without_rows
from llmjobs.instructions.published import SCHEMA, Published, SideWriter, version_of
from llmjobs.instructions.raw.sources import Sources
from llmjobs.instructions.report.diff import Diff, diff, lost_share
from llmjobs.instructions.report.findings import Findings
from llmjobs.instructions.rules.library import RULES_VERSION
from llmjobs.instructions.takedown import taken_down
from llmjobs.instructions.versions import current_version
from llmjobs.lake import Lake

VERSIONS = (SCHEMA, RULES_VERSION, QUALITY_VERSION, SELECTION_VERSION)
"""What of the code decides an answer."""

_ID_DIGITS = 32
_UNPUBLISHED = "dedupe.across: dataset {} has no published version; prepare it first or take the name away"

logger = logging.getLogger(__name__)


class Night:
    """One run of `prepare`.

    Args:
        lake: Where everything is.
        config: What to do.
        scratch: A folder for the rows on their way.
    """

    def __init__(self, lake: Lake, config: PrepareConfig, scratch: Path) -> None:
        self.lake, self.config, self.scratch = lake, config, scratch
        self.options = storage_options()
        self.corrections = Corrections.of(lake, config.name)
        self.taken_down = taken_down(lake, config.name)

    def audit(self) -> Manifest:
        """Return the audit of this run: of an earlier one that answered the same question, or a new one."""
        found = self._answered()
        if found is not None:
            logger.info("%s: audit %s has answered this already", self.config.name, found.version)
            return found
        return self._prepared()

    # --- the question

    @cached_property
    def sources(self) -> Sources:
        """The files of the run."""
        inputs, until = self.config.inputs, self.config.interval_end
        return Sources(self.lake, inputs, storage_options=self.options, interval_end=until)

    @cached_property
    def evaluation_sources(self) -> dict[str, Sources]:
        """The files of the evaluation sets."""
        return evaluation.sources_of(self.lake, self.config.contract, self.options)

    @cached_property
    def held_out(self) -> evaluation.Evaluation:
        """The rows of the evaluation sets."""
        return evaluation.evaluation_rows(self.evaluation_sources, self.config.contract)

    @cached_property
    def base(self) -> Published | None:
        """The version that is published now."""
        return Published.current(self.lake, self.config.name, self.scratch / "base")

    @cached_property
    def question(self) -> str:
        """What the answer depends on, but for the version that it is compared with."""
        config = self.config
        files = [[file.label, file.sha256, file.source.name] for file in self.sources.files]
        sets = {name: [file.sha256 for file in found.files] for name, found in self.evaluation_sources.items()}
        sources = [source.model_dump(mode="json") for source in config.inputs]
        asked = replay.asked(self.lake, config)
        contract = config.contract.digest(exclude={"owner", "description"})
        others = {name: _published(self.lake, name) for name in config.contract.dedupe.across}
        return digest(
            [
                "question", *VERSIONS, config.name, files, sets, sources, asked, contract, others,
                self.corrections.sha256, sorted(self.taken_down), config.dry_run,
            ]
        )[:_ID_DIGITS]  # fmt: skip

    @cached_property
    def version(self) -> str:
        """Id of the audit: the question, what the answer is compared with, and earlier tries that are no answer yet.

        Where a judge left rows unanswered, the same question may have another answer.
        """
        asked = ["audit", self.question, current_version(self.lake, self.config.name)]
        attempt = 0
        while True:
            version = digest([*asked, attempt] if attempt else asked)[:_ID_DIGITS]
            audit = self.lake.manifest("audits", self.config.name, version)
            if audit is None or not audit.metrics.get("unanswered"):
                return version
            attempt += 1

    def _answered(self) -> Manifest | None:
        """Return the audit that answers the question: against the current version, or the one that led to it."""
        name = self.config.name
        versions = [self.version]
        current = self.lake.manifest("datasets", name, current_version(self.lake, name) or "-")
        if current is not None and current.inputs.get("question") == self.question:
            versions.append(current.inputs["audit"])
        for version in versions:
            audit = self.lake.manifest("audits", name, version)
            if audit is None or audit.metrics.get("unanswered"):
                continue
            led_to = audit.metrics.get("dataset_version")
            if not led_to or self.config.dry_run or self.lake.manifest("datasets", name, led_to):
                return audit
        return None

    # --- the answer

    def _prepared(self) -> Manifest:
        config, lake = self.config, self.lake
        sets = self.held_out.sets  # before all else: a wrong one is told without reading the files
        part = self._part()
        if not part.chunks:
            raise BadData(f"dataset {config.name}: {without_rows(part.files)}; look at `source`")
        accounts, compared = self._accounted(part)
        verdict = judge(_judged(accounts), _numbers(accounts, compared), config.contract, config.name)
        found = figures(accounts, verdict, compared, config) | {
            "evaluation_sets": sets,
            "unanswered": unanswered_in(part),
        }
        empty = [file["source_file"] for file in found["files"] if not file["rows"]]
        if empty and not config.replay:
            logger.warning("%s: %s", config.name, without_rows(empty))
        folder, audit_folder = self.scratch / "dataset", self.scratch / "audit"
        audit_folder.mkdir()
        version = write_rows(folder, audit_folder, accounts)
        found["dataset_version"] = led_to = version if verdict.decision != "refused" else ""
        inputs = self._inputs()
        if led_to and not config.dry_run:
            counts = {key: value for key, value in found.items() if type(value) is int}
            own = {**inputs, "audit": self.version, "question": self.question, "salt": config.contract.split.salt}
            lake.publish(folder, kind="datasets", name=config.name, version=led_to, metrics=counts, inputs=own)
        return self._published_audit(accounts, verdict, compared, found, inputs)

    def _published_audit(
        self, accounts: Accounts, verdict: Verdict, compared: Diff, found: dict[str, Any], inputs: dict[str, Any]
    ) -> Manifest:
        folder = self.scratch / "audit"
        findings = Findings(
            self.config, self.base, accounts, verdict=verdict, diff=compared, figures=found, taken_down=self.taken_down
        )
        write_audit(folder, accounts, verdict, self.config.contract)
        findings.write_report(folder / "report.html")
        found["summary"] = findings.summary() if verdict.decision == "ask" else ""
        return self.lake.publish(
            folder, kind="audits", name=self.config.name, version=self.version, metrics=found, inputs=inputs
        )

    def _part(self) -> Part:
        """Return the run's rows, examined."""
        instruments = instruments_of(self.lake, self.config, self.corrections, self.scratch)
        if self.config.replay:
            return replay.part(
                self.lake, self.config, self.base, instruments, sources=self.sources, scratch=self.scratch
            )
        return examined(self.lake, self.sources, self.config, instruments, self.scratch)

    def _accounted(self, part: Part) -> tuple[Accounts, Diff]:
        """Return where the rows go, and how they differ from those of the base, whose keys are read once."""
        known = self.base.keys() if self.base else None
        accounts = account_for(part, self.config, self._past(known))
        return accounts, diff(known, published_keys(accounts, mix=known is not None))

    def _past(self, known: pl.DataFrame | None) -> Past:
        contract = self.config.contract
        salt = self.base.manifest.inputs.get("salt", "") if self.base else None
        sides = None
        if known is not None and salt == contract.split.salt:
            sides = known.select("row_key", "group_key", "side")
        elsewhere = {name: said_elsewhere(self.lake, name, self.scratch) for name in contract.dedupe.across}
        return Past(sides, self.taken_down, elsewhere, self.held_out.rows)

    def _inputs(self) -> dict[str, Any]:
        files = [{"path": file.label, "sha256": file.sha256, "bytes": file.bytes} for file in self.sources.files]
        return {
            "files": files,
            "contract": self.config.contract.digest(),
            "base_version": self.base.manifest.version if self.base else "",
            "interval_end": self.config.interval_end,
            "dry_run": self.config.dry_run,
            "replay": replay.asked(self.lake, self.config),
            "rules_version": RULES_VERSION,
            "schema": SCHEMA,
        }


def storage_options() -> dict[str, Any] | None:
    """Return the options with which fsspec opens remote sources, from the environment; they hold secrets."""
    text = os.environ.get(STORAGE_OPTIONS)
    return json.loads(text) if text else None


def published_keys(accounts: Accounts, *, mix: bool = True) -> pl.DataFrame:
    """Return one line a published row: what `diff.diff` compares.

    Args:
        accounts: The rows.
        mix: With lengths and categories, whose shifts a first version has not.
    """
    columns = ("source", "topic", "label", "language", "characters") if mix else ()
    return accounts.published("row_key", "group_key", *columns, without=("row", "end", "rank"))


def write_rows(folder: Path, audit_folder: Path, accounts: Accounts) -> str:
    """Write the published rows, one Parquet file a side, sorted by ``row_id``, and return the version's id.

    The rows that were set aside are written in the same pass, to the audit's folder.
    """
    folder.mkdir()
    writers = {side: SideWriter(folder / f"{side}.parquet") for side in SIDES}
    aside = SetAside(audit_folder / "set_aside.parquet", accounts)
    good, numbers = accounts.good, accounts.good["row"].to_numpy()
    for ordered in accounts.part.in_order():
        aside.add(ordered)
        # Rows are numbered in the order of `good`, so their places are looked up, which costs less than a join.
        places = good[np.searchsorted(numbers, ordered["row"].to_numpy())]
        texts = [pl.col(name).cast(pl.String) for name in ("source", "licence", "topic", "label", "language")]
        rows = ordered.hstack(places.drop("row")).filter(pl.col("end") == "published")
        rows = rows.with_columns(pl.col("row_id", "group_id").bin.encode("hex"), *texts)
        for side, writer in writers.items():
            writer.add(rows.filter(pl.col("side") == side))
    aside.close()
    return version_of({side: writer.close() for side, writer in writers.items()})


def said_elsewhere(lake: Lake, name: str, scratch: Path) -> pl.Series:
    """Return the ``said_key`` of each row of another dataset's current version.

    Raises:
        BadData: It has none.
    """
    version = Published.current(lake, name, scratch / "others")
    if version is None:
        raise BadData(_UNPUBLISHED.format(name))
    return pl.concat(said_keys(said(rows)) for _, rows in version.rows())


def _judged(accounts: Accounts) -> pl.DataFrame:
    """Return the flags; a row that was taken down is no defect of the night: it breaks no rule, and is in no budget."""
    counted = [*(flag for flag in FLAGS if flag != "taken_down"), "quarantined"]
    return accounts.read.with_columns(pl.col(counted) & ~pl.col("taken_down"))


def _numbers(accounts: Accounts, compared: Diff) -> dict[str, float | None]:
    """Return the figures that the contract limits, `expectations.FIGURES`."""
    found: dict[str, float | None] = dict.fromkeys(FIGURES)
    found |= {shift.kind: shift.value for shift in compared.shifts}
    lost = None if compared.first else lost_share(compared)
    counts = accounts.counts
    train = counts["train_rows"] if counts["published"] else None  # of no rows at all budgets.min_rows speaks
    return found | {"published": counts["published"], "train_rows": train, "lost_share": lost}


def _published(lake: Lake, name: str) -> str:
    """Return the current version of another dataset.

    Raises:
        BadData: It has none.
    """
    found = current_version(lake, name)
    if not found:
        raise BadData(_UNPUBLISHED.format(name))
    return found
