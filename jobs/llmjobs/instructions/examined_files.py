"""Examined source files: in the scratch folder of a run, or kept in the lake where each file is a task of its own.

A part in the lake (``parts/<dataset>``) is one file under one contract, so a file that did not change is never examined
twice, unless a judge left some of its rows unanswered. Parts are a cache: whoever deletes them loses time only.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.base import digest
from llmjobs.contracts.data_contract import Judge
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions.choice.embedder import embedder
from llmjobs.instructions.choice.judge import judged
from llmjobs.instructions.choice.quality import QUALITY_VERSION
from llmjobs.instructions.corrections import Corrections
from llmjobs.instructions.intake import Instruments, take_in
from llmjobs.instructions.parts import UNANSWERED, Part, many
from llmjobs.instructions.raw.sources import SourceFile, Sources
from llmjobs.instructions.rendered.tokens import token_counter
from llmjobs.instructions.rules.library import RULES_VERSION
from llmjobs.lake import Lake

KIND = "parts"
SCHEMA = 6
"""Raise it when the same file would lead to another part than before."""

_ID_DIGITS = 32
_JUDGED = "judged"

logger = logging.getLogger(__name__)


def instruments_of(lake: Lake, config: PrepareConfig, corrections: Corrections, scratch: Path) -> Instruments:
    """Return what examining needs, loaded.

    Raises:
        BadConfig: A model that the contract names is not to be had.
    """
    limits, quality = config.contract.limits, config.contract.quality
    found = Instruments(corrections=corrections)
    if limits.tokenizer is not None:
        found.count_tokens = token_counter(limits.tokenizer)
    if quality.similarity:
        found.embed = embedder(quality.embedding_model)
    if quality.judge is not None:
        found.judge = _Bench(quality.judge, lake.working_folder(_JUDGED, config.name) or scratch / _JUDGED)
    return found


class _Bench:
    """A judge that is asked chunk by chunk, for no more rows of a run than the contract allows.

    Called, it returns marks as `parts.Part` keeps them: `UNANSWERED` where no answer came.
    """

    def __init__(self, chosen: Judge, kept: Path) -> None:
        self._judge, self._kept, self._left = chosen, kept, chosen.max_rows

    def __call__(self, rows: pl.DataFrame) -> pl.Series:
        if self._left <= 0:
            return pl.Series("mark", [None], dtype=pl.UInt8).new_from_index(0, rows.height)
        found = judged(rows, self._judge.model_copy(update={"max_rows": self._left}), cache=self._kept)
        self._left -= rows.height - found.not_sent
        return found.marks.clone().scatter(found.unanswered, UNANSWERED) if found.unanswered else found.marks


def examined(lake: Lake, sources: Sources, config: PrepareConfig, instruments: Instruments, scratch: Path) -> Part:
    """Return the rows of all files, examined: with `map_files` from the parts that are in the lake, the rest anew."""
    if not config.map_files:
        return take_in(sources, sources.files, config, _folder(scratch, "part"), instruments)
    parts: list[Part] = []
    for number, file in enumerate(sources.files):
        *there, _ = _attempts(lake, file, config, instruments.corrections)
        if there:
            parts.append(Part.opened(lake.fetch(KIND, config.name, there[-1], scratch / f"part-{number}")))
        else:
            parts.append(take_in(sources, [file], config, _folder(scratch, f"part-{number}"), instruments))
    return many(parts, _folder(scratch, "whole"))


def examine_file(
    lake: Lake, sources: Sources, file: SourceFile, config: PrepareConfig, scratch: Path
) -> tuple[str, bool]:
    """Put the part of one file into the lake; return its version, and whether it was there already."""
    corrections = Corrections.of(lake, config.name)
    *there, version = _attempts(lake, file, config, corrections)
    if there and not _unanswered(lake, config, there[-1]):
        return there[-1], True
    folder = _folder(scratch, "part")
    part = take_in(sources, [file], config, folder, instruments_of(lake, config, corrections, scratch))
    quarantined = int(part.table("read")["quarantined"].sum()) if part.chunks else 0
    figures: dict[str, Any] = {"rows_in": part.rows, "quarantined": quarantined, "unanswered": unanswered_in(part)}
    inputs = {"file": file.label, "sha256": file.sha256}
    lake.publish(folder, kind=KIND, name=config.name, version=version, metrics=figures, inputs=inputs)
    return version, False


def unanswered_in(part: Part) -> int:
    """Return the rows of a part for which the judge had no answer; none without a judge."""
    return sum(int((table["mark"] == UNANSWERED).sum()) for table in part.tables("good", "mark"))


def _attempts(lake: Lake, file: SourceFile, config: PrepareConfig, corrections: Corrections) -> list[str]:
    """Return the ids of a file's parts that are in the lake, and of the one that another attempt would be."""
    found = [part_version(file, config, corrections)]
    while lake.manifest(KIND, config.name, found[-1]) is not None:
        found.append(part_version(file, config, corrections, attempt=len(found)))
    return found


def _unanswered(lake: Lake, config: PrepareConfig, version: str) -> int:
    manifest = lake.manifest(KIND, config.name, version)
    return int(manifest.metrics.get("unanswered", 0)) if manifest else 0


def part_version(file: SourceFile, config: PrepareConfig, corrections: Corrections, *, attempt: int = 0) -> str:
    """Return the id of a file's part: what is in the file, where it is from, and how it is examined.

    Args:
        file: The file.
        config: With the contract.
        corrections: What is read otherwise than it stands in the file.
        attempt: Times that it was examined before, with a judge that left rows unanswered.
    """
    source = file.source.model_dump(mode="json", exclude={"files", "weight"})
    contract = config.contract.digest(exclude={"owner", "description", "budgets", "drift", "dedupe", "split", "leaks"})
    asked = [SCHEMA, RULES_VERSION, QUALITY_VERSION, file.label, file.sha256, source, contract, corrections.sha256]
    again = [attempt] if attempt else []
    return digest(["part", *asked, _languages_asked(config), *again])[:_ID_DIGITS]


def _languages_asked(config: PrepareConfig) -> bool:
    limits = config.contract.drift.language
    return limits.warn is not None or limits.fail is not None


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir(parents=True)
    return folder
