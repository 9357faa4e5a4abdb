"""Finds rows in what the lake holds already: in dataset versions by id or text, in audits by text."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.manifest import Manifest
from llmjobs.lake import Lake

_SIDES = ("train.parquet", "validation.parquet", "test.parquet")
_LISTS = ("quarantine", "duplicates", "fixes")


def holding(lake: Lake, version: Manifest, *, row_ids: Collection[str] = (), texts: Sequence[str] = ()) -> set[str]:
    """Return the ids of a version's rows that are named, or that hold one of the texts in a turn."""
    found: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
        folder = lake.fetch(version.kind, version.name, version.version, Path(scratch))
        for side in _SIDES:
            if (folder / side).is_file():
                found |= _matching(folder / side, row_ids, texts)
    return found


def audits_holding(
    lake: Lake, name: str, *, ids: Collection[str], texts: Sequence[str], rows: Sequence[Collection[str]]
) -> dict[str, list[str]]:
    """Return audit version -> files of it that quote one of the rows.

    A line quotes a row when it has its id, when it holds one of `texts`, or when it holds all turns of the row.

    Args:
        lake: The lake.
        name: The dataset.
        ids: The rows.
        texts: What was looked for.
        rows: For each version of the dataset, oldest first, the ids that it holds; their turns are read there.
    """
    turns = _turns(lake, name, ids, rows)
    needles = [[_plain(text)] for text in texts] + turns
    found = {}
    for audit in lake.versions("audits", name):
        with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
            folder = lake.fetch("audits", name, audit.version, Path(scratch))
            paths = sorted(path for path in folder.iterdir() if path.stem in _LISTS)
            quoting = [path.name for path in paths if any(_quotes(row, set(ids), needles) for row in _rows(path))]
        if quoting:
            found[audit.version] = quoting
    return found


def _matching(path: Path, row_ids: Collection[str], texts: Sequence[str]) -> set[str]:
    matches = pl.lit(value=False)
    if row_ids:
        matches |= pl.col("row_id").is_in(list(row_ids))
    if texts:
        turns = pl.col("messages").list.eval(pl.element().struct.field("content")).list.join("\n", ignore_nulls=True)
        plain = turns.str.to_lowercase().str.replace_all(r"\s+", " ")
        for text in texts:
            matches |= plain.str.contains(_plain(text), literal=True)
    found = pl.scan_parquet(path).filter(matches).select("row_id").collect()
    return set(found["row_id"])


def _turns(lake: Lake, name: str, ids: Collection[str], rows: Sequence[Collection[str]]) -> list[list[str]]:
    """Return the turns of each row, read from the first version that holds it."""
    missing, found = set(ids), []
    for version, held in zip(lake.versions("datasets", name), rows, strict=True):
        wanted = missing & set(held)
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
            folder = lake.fetch(version.kind, version.name, version.version, Path(scratch))
            for side in _SIDES:
                if (folder / side).is_file():
                    kept = pl.scan_parquet(folder / side).filter(pl.col("row_id").is_in(list(wanted)))
                    found += [_said(messages) for messages in kept.select("messages").collect()["messages"].to_list()]
        missing -= wanted
    return found


def _said(messages: list[dict[str, Any]]) -> list[str]:
    return [_plain(turn["content"]) for turn in messages if (turn["content"] or "").strip()]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from pl.read_parquet(path).iter_rows(named=True)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _quotes(row: dict[str, Any], ids: Collection[str], needles: Iterable[Sequence[str]]) -> bool:
    if row.get("row_id") in ids:
        return True
    said = _plain("\n".join(_texts(row)))
    return any(all(turn in said for turn in needle) for needle in needles if needle)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value; of a text that is JSON itself, the texts in it too."""
    if isinstance(value, str):
        yield value
        if value[:1] in {"{", "["}:
            try:
                yield from _texts(json.loads(value))
            except ValueError:
                return
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
