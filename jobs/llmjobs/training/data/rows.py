"""Rows of a dataset version, read from the lake."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake
from llmjobs.rendering import ChatRow

KIND = "datasets"
POINTER = "current"

_COLUMNS = ("row_id", "messages", "tools", "source_file", "source_line", "rank")
"""What is read of a row where the version has it; early versions have neither ``tools`` nor ``rank``."""


def dataset_version(lake: Lake, name: str, version: str = "") -> str:
    """Return the version to use: the one asked for, else the one that ``current`` points at.

    Raises:
        BadData: There is none.
    """
    if not version:
        pointer = lake.pointer(KIND, name, POINTER)
        if pointer is None:
            raise BadData(f"dataset {name}: nothing is published yet; run prepare_instructions_{name} first")
        version = pointer.version
    if lake.manifest(KIND, name, version) is None:
        raise BadData(f"dataset {name}: the lake has no version {version}; leave dataset_version empty for the current")
    return version


def read_split(lake: Lake, name: str, version: str, split: str, *, fraction: float = 1.0) -> list[ChatRow]:
    """Return the rows of one split (``train``, ``validation``, ``test``) in the order of the file.

    Args:
        lake: Where the version is.
        name: The dataset's name.
        version: Its version.
        split: Which side.
        fraction: Part of the rows, rounded up: the best by the dataset's own ``rank``.

    Raises:
        BadData: The version or its file is absent or broken; or it has no ranks and `fraction` needs them.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        path = lake.fetch(KIND, name, version, Path(scratch)) / f"{split}.parquet"
        if not path.is_file():
            raise BadData(f"dataset {name}, version {version}: it has no {split}.parquet")
        present = pq.read_schema(path).names
        rows = pq.read_table(path, columns=[column for column in _COLUMNS if column in present]).to_pylist()
    if fraction < 1:
        rows = _best(rows, fraction, f"dataset {name}, version {version}")
    return [ChatRow(row["row_id"], row["messages"], _origin(row), row.get("tools")) for row in rows]


def _best(rows: list[dict[str, Any]], fraction: float, where: str) -> list[dict[str, Any]]:
    """Return the rows of the lowest ranks, in the order of the file."""
    unranked = sum(row.get("rank") is None for row in rows)
    if unranked:
        raise BadData(
            f"{where}: {unranked} of {len(rows)} train rows have no rank, so data.fraction {fraction:g} cannot tell "
            "the best; the contract needs quality.score: true"
        )
    order = sorted(range(len(rows)), key=lambda index: rows[index]["rank"])
    return [rows[index] for index in sorted(order[: rows_of_fraction(fraction, len(rows))])]


def rows_of_fraction(fraction: float, rows: int) -> int:
    """Return how many rows a fraction is, rounded up; 0.1 of 30 is 3, although 0.1 * 30 is a little more in floats."""
    return min(rows, max(1, math.ceil(round(fraction * rows, 6))))


def _origin(row: dict[str, Any]) -> str:
    file, line = row.get("source_file"), row.get("source_line")
    return f"{file} line {line}" if file else ""


def content_hash(row: ChatRow) -> bytes:
    """Return a digest of what a row says, whatever its id and origin."""
    said = [[one["role"], one["content"] or "", one.get("tool_calls") or ""] for one in row.messages]
    return hashlib.sha256(json.dumps([said, row.tools or ""]).encode()).digest()


def row_ids(lake: Lake, name: str, version: str, split: str) -> set[str]:
    """Return the ids of one split's rows."""
    return {row.row_id for row in read_split(lake, name, version, split)}
