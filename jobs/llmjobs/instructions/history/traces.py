"""Finds rows in what the lake holds already: in dataset versions by id or text, in audits and parts by text."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.contracts.manifest import Manifest
from llmjobs.instructions import tables
from llmjobs.instructions.alike.sides import SIDES
from llmjobs.instructions.identity import identify
from llmjobs.instructions.json_texts import texts_in
from llmjobs.instructions.quarantine import is_canonical
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.lake import Lake

_FILES = tuple(f"{side}.parquet" for side in SIDES)
_TAG = re.compile(r"<[^>]*>")
_PIECE, _SHORTEST_PIECE = 100, 25
"""Characters of a turn that are looked for where only pieces are shown; shorter turns say nothing about one row."""


def holding(lake: Lake, version: Manifest, *, row_ids: Collection[str] = (), texts: Sequence[str] = ()) -> set[str]:
    """Return the ids of a version's rows that are named, or that hold one of the texts in a turn."""
    found: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
        folder = lake.fetch(version.kind, version.name, version.version, Path(scratch))
        for file in _FILES:
            if (folder / file).is_file():
                found |= _matching(folder / file, row_ids, texts)
    return found


def copies(
    lake: Lake, name: str, *, ids: Collection[str], texts: Sequence[str], rows: Sequence[Collection[str]]
) -> dict[str, list[str]]:
    """Return version of an audit or of a part, as its folder in the lake -> its files that quote one of the rows.

    A row of a table quotes when it has the id, holds one of `texts`, or holds all turns of the row; of a repair and of
    a report, which show pieces, one turn of some length is enough.

    Args:
        lake: The lake.
        name: The dataset.
        ids: The rows.
        texts: What was looked for.
        rows: For each version of the dataset, oldest first, the ids that it holds; their turns are read there.
    """
    sought = Sought(frozenset(ids), [_plain(text) for text in texts], _turns(lake, name, ids, rows))
    found = {}
    for version in [one for kind in ("audits", "parts") for one in lake.versions(kind, name)]:
        with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
            folder = lake.fetch(version.kind, name, version.version, Path(scratch))
            quoting = [path.name for path in sorted(folder.iterdir()) if sought.in_file(path)]
        if quoting:
            found[f"{version.kind}/{name}/versions/{version.version}"] = quoting
    return found


@dataclass(frozen=True)
class Aside:
    """Rows that are in no version, because a run put them aside, and hold a text.

    Attributes:
        row_ids: Of duplicates, of rows left out, and of leaks.
        raws: SHA-256 of the raw text of rows that a rule refused, and of corrections.
        corrections: Lines of the list of corrections, from 1.
    """

    row_ids: set[str] = field(default_factory=set)
    raws: set[str] = field(default_factory=set)
    corrections: list[int] = field(default_factory=list)


def put_aside(lake: Lake, name: str, texts: Sequence[str]) -> Aside:
    """Return the rows with one of the texts among those that any audit put aside, and in the list of corrections."""
    found, sought = Aside(), Sought(frozenset(), [_plain(text) for text in texts], [])
    if not texts:
        return found
    for audit in lake.versions("audits", name):
        with tempfile.TemporaryDirectory(prefix="traces-") as scratch:
            folder = lake.fetch("audits", name, audit.version, Path(scratch))
            aside, quarantine = folder / "set_aside.parquet", folder / "quarantine.jsonl"
            if aside.is_file() and "messages" in pl.read_parquet_schema(aside):
                found.row_ids.update(_matching(aside, (), texts))
            for row in _rows(quarantine) if quarantine.is_file() else ():
                if row["raw"] is not None and sought.in_text(row["raw"]):
                    found.raws.add(sha256_of(row["raw"]))
                    if is_canonical(row):
                        found.row_ids.update(_ids_of(row["raw"]))
    for number, line in enumerate((lake.read_text(corrections_of(name)) or "").splitlines(), start=1):
        quoting = [raw for raw in map(json.loads(line).get, ("before", "after")) if raw and sought.in_text(raw)]
        found.raws.update(sha256_of(raw) for raw in quoting)
        found.corrections.extend([number] if quoting else [])
    return found


def sha256_of(raw: str) -> str:
    """Return what the list of takedowns names a raw row by."""
    return hashlib.sha256(raw.encode()).hexdigest()


def corrections_of(name: str) -> str:
    """Return the path in the lake of a dataset's list of corrections."""
    return f"corrections/{name}.jsonl"


def _ids_of(raw: str) -> list[str]:
    """Return the ``row_id`` of a row that lies in an audit as its messages."""
    frames = list(read_frames(io.BytesIO(raw.encode()), name="row.jsonl", form="messages"))
    rows = pl.concat(frames).filter(pl.col("turns").is_not_null()) if frames else tables.no_rows()
    asked = rows.select("tools", "source", "conversation", messages="turns", prompt=pl.lit(""))
    return [row_id.hex() for row_id in identify(asked)["row_id"]]


@dataclass(frozen=True)
class Sought:
    """What a file is searched for.

    Attributes:
        ids: Row ids.
        texts: Normalised texts, one of which is enough.
        rows: The normalised turns of each row.
    """

    ids: frozenset[str]
    texts: list[str]
    rows: list[list[str]]

    def in_text(self, raw: str) -> bool:
        """Return whether a raw row holds one of the texts."""
        said = _plain("\n".join(texts_in(raw, quoted=True)))
        return any(text in said for text in self.texts)

    def in_file(self, path: Path) -> bool:
        """Return whether a file of an audit or of a part quotes one of the rows."""
        if path.suffix == ".html":
            page = _plain(html.unescape(_TAG.sub(" ", path.read_text(encoding="utf-8"))))
            return any(text in page for text in (*self.texts, *self._pieces()))
        return any(self._in_row(row, pieces="fixes" in path.name) for row in _rows(path))

    def _in_row(self, row: dict[str, Any], *, pieces: bool) -> bool:
        row_id = row.get("row_id")
        if (row_id.hex() if isinstance(row_id, bytes) else row_id) in self.ids:
            return True
        said = _plain("\n".join(texts_in(row, quoted=True)))
        if any(text in said for text in self.texts) or any(all(turn in said for turn in turns) for turns in self.rows):
            return True
        return pieces and any(piece in said for piece in self._pieces())

    def _pieces(self) -> list[str]:
        return [turn[:_PIECE] for turns in self.rows for turn in turns if len(turn) >= _SHORTEST_PIECE]


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
            for file in _FILES:
                if (folder / file).is_file():
                    kept = pl.scan_parquet(folder / file).filter(pl.col("row_id").is_in(list(wanted)))
                    found += [_said(messages) for messages in kept.select("messages").collect()["messages"].to_list()]
        missing -= wanted
    return found


def _said(messages: list[dict[str, Any]]) -> list[str]:
    return [_plain(turn["content"]) for turn in messages if (turn["content"] or "").strip()]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from pl.read_parquet(path).iter_rows(named=True)
    elif path.suffix == ".arrow":
        yield from pl.read_ipc(path).iter_rows(named=True)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
