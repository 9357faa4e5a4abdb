"""The rows of the evaluation sets that a contract names, as far as leaks are concerned: prompts and texts."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import polars as pl

from llmjobs.contracts.data_contract import DataContract, EvaluationSet
from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import Source
from llmjobs.instructions.identity import identify, said
from llmjobs.instructions.problems import with_columns
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.raw.sources import Sources
from llmjobs.instructions.rules.examination import examine
from llmjobs.lake import Lake

SCHEMA = {"row": pl.Int64, "name": pl.String, "prompt_key": pl.Int128, "text": pl.String}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation sets hold.

    Attributes:
        rows: `SCHEMA`: ``row`` is -1, -2, ..., ``name`` that of the set, ``prompt_key`` of the first prompt, ``text``
            all that is said, normalised.
        sets: Name of a set -> its rows: ``read``, and ``usable``, those that rows can be compared with.
    """

    rows: pl.DataFrame
    sets: dict[str, dict[str, int]]


def sources_of(lake: Lake, contract: DataContract, options: dict[str, object] | None) -> dict[str, Sources]:
    """Return set -> its files.

    Raises:
        BadData: A set's globs match no file.
    """
    found = {}
    for number, chosen in enumerate(contract.leaks.sets):
        name = f"evaluation-{number}"
        found[chosen.name] = Sources(
            lake,
            [Source(name=name, files=chosen.source)],
            storage_options=options,
            field=f"leaks.sets[{chosen.name}].source",
        )
    return found


def evaluation_rows(sources: dict[str, Sources], contract: DataContract) -> Evaluation:
    """Return the rows of all sets; none where leaks are not looked for.

    They are read with the contract's repairs, so that a row and its copy in a set are told to be the same; a row that
    a rule refuses counts all the same. Rows that cannot be read are counted, with a warning.

    Raises:
        BadData: No row of a set can be read: nothing would ever match it.
    """
    frames, sets = [pl.DataFrame(schema=SCHEMA)], {}
    for chosen in contract.leaks.sets if contract.leaks.severity != "off" else ():
        reading = _Reading(chosen, sources[chosen.name])
        frames += reading.tables(contract)
        sets[chosen.name] = {"read": reading.read, "usable": reading.usable}
    rows = pl.concat(frames)
    return Evaluation(rows.with_columns(row=-1 - pl.int_range(0, pl.len(), dtype=pl.Int64)), sets)


class _Reading:
    """Reads one set and counts its rows."""

    def __init__(self, chosen: EvaluationSet, sources: Sources) -> None:
        self._set, self._sources = chosen, sources
        self.read = self.usable = 0
        self._problem = ""

    def tables(self, contract: DataContract) -> list[pl.DataFrame]:
        """Return `SCHEMA` of the usable rows, ``row`` being 0."""
        found = []
        for file in self._sources.files:
            with self._sources.open(file) as stream:
                frames = read_frames(stream, name=file.label, form=self._set.format, mapping=self._set.mapping)
                found += [self._keys(frame, contract) for frame in frames]
        where = f"leaks.sets[{self._set.name}]"
        labels = [file.label for file in self._sources.files]
        place = labels[0] if len(labels) == 1 else f"{len(labels)} files"
        why = f" ({self._problem})" if self._problem else ""
        if not self.usable:
            raise BadData(f"{where}: none of {self.read} rows of {place} can be read{why}")
        if self.usable < self.read:
            logger.warning("%s: %d of %d rows of %s can be read%s", where, self.usable, self.read, place, why)
        return found

    def _keys(self, frame: pl.DataFrame, contract: DataContract) -> pl.DataFrame:
        rows = examine(frame, contract).rows
        usable = rows["messages"].is_not_null() & (rows["prompt"].str.strip_chars() != "").fill_null(value=False)
        self.read, self.usable = self.read + rows.height, self.usable + int(usable.sum())
        if not self._problem and not usable.all():
            self._problem = _problem(rows.filter(~usable).row(0, named=True))
        rows = rows.filter(usable)
        table = identify(rows).select(
            pl.lit(0, dtype=pl.Int64).alias("row"), pl.lit(self._set.name).alias("name"), prompt_key="first_key"
        )
        return table.with_columns(said(rows).alias("text"))


def _problem(row: dict[str, str | None]) -> str:
    """Return why a row cannot be used."""
    return with_columns(row["read_problem"] or row["shape_problem"] or "it asks nothing", row["raw"])
