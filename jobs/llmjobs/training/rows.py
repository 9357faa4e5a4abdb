"""Rows of a dataset version, read from the lake."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake
from llmjobs.training.tokenisation import ChatRow

KIND = "datasets"
POINTER = "current"

_COLUMNS = ["row_id", "messages", "source_file", "source_line"]


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


def read_split(lake: Lake, name: str, version: str, split: str) -> list[ChatRow]:
    """Return the rows of one split (``train``, ``validation``, ``test``) in the order of the file.

    Raises:
        BadData: The version or its file is absent or broken.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        path = lake.fetch(KIND, name, version, Path(scratch)) / f"{split}.parquet"
        if not path.is_file():
            raise BadData(f"dataset {name}, version {version}: it has no {split}.parquet")
        table = pq.read_table(path, columns=_COLUMNS).to_pylist()
    return [ChatRow(row["row_id"], row["messages"], f"{row['source_file']} line {row['source_line']}") for row in table]


def row_ids(lake: Lake, name: str, version: str, split: str) -> set[str]:
    """Return the ids of one split's rows."""
    return {row.row_id for row in read_split(lake, name, version, split)}
