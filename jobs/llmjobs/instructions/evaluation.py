"""The rows of the evaluation sets that a contract names, as far as leaks are concerned: prompts and texts."""

from __future__ import annotations

import polars as pl

from llmjobs.contracts.instructions import DataContract, EvaluationSet, Source
from llmjobs.instructions.identity import identify, said
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.raw.sources import Sources
from llmjobs.instructions.rules.examination import examine
from llmjobs.lake import Lake

SCHEMA = {"row": pl.Int64, "name": pl.String, "prompt_key": pl.Int128, "text": pl.String}


def sources_of(lake: Lake, contract: DataContract, options: dict[str, object] | None) -> dict[str, Sources]:
    """Return set -> its files.

    Raises:
        BadData: A set's globs match no file.
    """
    found = {}
    for number, chosen in enumerate(contract.leaks.sets):
        name = f"evaluation-{number}"
        found[chosen.name] = Sources(lake, [Source(name=name, files=chosen.source)], storage_options=options)
    return found


def evaluation_rows(sources: dict[str, Sources], contract: DataContract) -> pl.DataFrame:
    """Return the rows of all sets.

    ``row`` is -1, -2, ..., ``name`` that of the set, ``text`` all that is said, normalised.
    They are read with the contract's repairs, so that a row and its copy in a set are told to be the same; a row that
    a rule refuses counts all the same.
    """
    frames = [pl.DataFrame(schema=SCHEMA)]
    for chosen in contract.leaks.sets:
        for file in sources[chosen.name].files:
            with sources[chosen.name].open(file) as stream:
                frames += [
                    _keys(chosen, frame, contract)
                    for frame in read_frames(stream, name=file.label, form=chosen.format, mapping=chosen.mapping)
                ]
    rows = pl.concat(frames)
    return rows.with_columns(row=-1 - pl.int_range(0, pl.len(), dtype=pl.Int64))


def _keys(chosen: EvaluationSet, frame: pl.DataFrame, contract: DataContract) -> pl.DataFrame:
    rows = examine(frame, contract).rows.filter(pl.col("messages").is_not_null() & pl.col("prompt").is_not_null())
    table = identify(rows).select(
        pl.lit(0, dtype=pl.Int64).alias("row"), pl.lit(chosen.name).alias("name"), "prompt_key"
    )
    return table.with_columns(said(rows).alias("text"))
