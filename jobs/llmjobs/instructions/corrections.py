"""Rows that a person put right: read in place of what stands in the source files, this night and every other.

    python -m llmjobs.instructions.corrections --dataset tickets edited-quarantine.jsonl

takes a copy of an audit's ``quarantine.jsonl`` in which ``raw`` was edited, and keeps every edited row in
``corrections/<dataset>.jsonl`` of the lake. A replay then requeues just the quarantined rows; and each later night, in
which the source file still holds the broken row, reads the corrected one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from llmjobs.contracts.errors import BadData, JobError
from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import tables
from llmjobs.instructions.history.people import who
from llmjobs.instructions.history.traces import sha256_of
from llmjobs.instructions.quarantine import is_canonical
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.rules.pii import mask_text
from llmjobs.instructions.takedown import taken_down_raw
from llmjobs.lake import Lake

RULE = "corrected"
"""What a fix of this kind is recorded under."""

_PLACE = ("line", "file", "source_number")


@dataclass(frozen=True)
class Corrections:
    """What is read in place of which raw text.

    Attributes:
        by_raw: Raw text as it stands in a file -> raw text as it should be.
        gone: SHA-256 of raw texts that were taken down, before or after their correction.
        sha256: Of both lists, part of the question that an audit answers; empty without any entry.
    """

    by_raw: dict[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    sha256: str = ""

    @classmethod
    def of(cls, lake: Lake, name: str) -> Corrections:
        """Return the corrections that the lake holds for a dataset."""
        entries = _entries(lake, name)
        gone = taken_down_raw(lake, name)
        text = json.dumps([entries, sorted(gone)] if gone else entries, sort_keys=True)
        by_raw = {entry["before"]: entry["after"] for entry in entries}
        return cls(by_raw, gone, hashlib.sha256(text.encode()).hexdigest() if entries or gone else "")

    def taken_down(self, raws: pl.Series) -> pl.Series:
        """Return which of some raw texts must not be published."""
        if not self.gone:
            return pl.Series("gone", [False], dtype=pl.Boolean).new_from_index(0, len(raws))
        found = [raw is not None and sha256_of(raw) in self.gone for raw in raws]
        return pl.Series("gone", found, dtype=pl.Boolean)

    def applied(self, chunk: pl.DataFrame, config: PrepareConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return a chunk (`intake.examine_into`) with the corrected rows in it, and what was corrected as fixes."""
        none = pl.DataFrame(schema=tables.FIXES)
        if not self.by_raw:
            return chunk, none
        wrong = chunk["raw"].is_in(list(self.by_raw)).fill_null(value=False)
        if not wrong.any():
            return chunk, none
        positions = wrong.arg_true().to_list()
        rows, fixes = [], []
        for position in positions:
            old = chunk[position]
            before, after = old["raw"][0], self.by_raw[old["raw"][0]]
            rows.append(self._read(after, old, config))
            fixes.append(
                {"row": position, "rule": RULE, "part": "row", "before": mask_text(before), "after": mask_text(after)}
            )
        numbered = chunk.with_row_index("position").filter(~wrong)
        mended = pl.concat(rows).with_columns(position=pl.Series(positions, dtype=pl.UInt32)).select(numbered.columns)
        return pl.concat([numbered, mended]).sort("position").drop("position"), pl.DataFrame(fixes, schema=tables.FIXES)

    def _read(self, raw: str, old: pl.DataFrame, config: PrepareConfig) -> pl.DataFrame:
        """Return the row that a corrected text is, at the place of the old one; two rows are a broken row."""
        form, mapping = config.reading(config.inputs[old["source_number"][0]])
        frames = list(read_frames(io.BytesIO(raw.encode()), name="row.jsonl", form=form, mapping=mapping))
        read = pl.concat(frames) if frames else pl.DataFrame(schema=tables.READ)
        if read.height != 1:
            problem = f"the correction holds {read.height} rows, not one"
            read = pl.DataFrame([{"raw": raw, "read_problem": problem}], schema=tables.READ)
        place = [pl.lit(old[name][0], dtype=old[name].dtype).alias(name) for name in _PLACE]
        known = [pl.col(name).fill_null(pl.lit(old[name][0], dtype=pl.String)) for name in ("source", "licence")]
        return read.with_columns(*place, *known)


def record(lake: Lake, name: str, edited: Iterable[str], *, who: str) -> int:
    """Keep the edited rows of a quarantine file, and return how many there are.

    Args:
        lake: Where the list lies.
        name: The dataset.
        edited: Lines of ``quarantine.jsonl``; those whose ``raw`` is as it was are passed over.
        who: Who edited them.

    Raises:
        BadData: The lake has neither an audit nor a version of the dataset; or a line is no line of a quarantine file,
            or its text is not that of the source file (a leak), by which a later night would find it.
    """
    if not (lake.versions("audits", name) or lake.versions("datasets", name)):
        raise BadData(
            f"dataset {name}: the lake has no audit and no version of it, so nothing was kept; look at --dataset"
        )
    found = _entries(lake, name)
    known = {entry["before"]: entry for entry in found}
    count = 0
    for number, line in enumerate(edited, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            raw, before, place = row["raw"], row["raw_before"], f"{row['source_file']}, line {row['source_line']}"
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(f"line {number}: no line of a quarantine file ({type(error).__name__}: {error})") from None
        if raw == before:
            continue
        if before is None or is_canonical(row):
            why = "was taken down" if before is None else "leaks, and its text here is not the file's"
            raise BadData(f"line {number}: the row of {place} {why}; correct it in its source file; nothing was kept")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known[before] = {"before": before, "after": raw, "place": place, "who": who, "at": now}
        count += 1
    if count:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in known.values())
        lake.write_text(_path(name), lines)
    return count


def _entries(lake: Lake, name: str) -> list[dict[str, str]]:
    text = lake.read_text(_path(name))
    return [json.loads(line) for line in (text or "").splitlines()]


def _path(name: str) -> str:
    return f"corrections/{name}.jsonl"


def _said(count: int) -> str:
    if count == 0:
        return "no row is corrected (every `raw` is as its `raw_before`), so nothing was kept"
    kept, them = ("1 corrected row", "it") if count == 1 else (f"{count} corrected rows", "them")
    return f"{kept} kept; a run with replay=last takes {them} in"


def main(arguments: list[str] | None = None) -> int:
    """Take the edited quarantine files named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m llmjobs.instructions.corrections", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--who", default=who())
    parser.add_argument("files", nargs="+", type=Path, help="edited copies of quarantine.jsonl")
    options = parser.parse_args(arguments)
    try:
        lake = Lake.from_environment()
        for path in options.files:
            count = record(lake, options.dataset, path.read_text(encoding="utf-8").splitlines(), who=options.who)
            sys.stdout.write(f"{path}: {_said(count)}\n")
    except (JobError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return int(getattr(error, "exit_code", 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
