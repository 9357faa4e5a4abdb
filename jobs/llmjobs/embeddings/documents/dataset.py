"""Documents of a published instruction dataset: a row is a document, for examples that a prompt shows."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmjobs.contracts.embeddings import DatasetSource
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.making import Maker, with_languages
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.source import Document, Place, Scan, Unreadable
from llmjobs.lake import Lake

_RENDERING = "dataset 1"
"""Raise the number when a row becomes another text."""

_KIND = "datasets"
_METADATA = ("source", "topic", "label", "licence", "language")
_COLUMNS = ("row_id", "messages", *_METADATA)
_ROWS_AT_ONCE = 1000


class DatasetDocuments:
    """Rows of the version that is current; see `llmjobs.embeddings.documents.source.Source`.

    A container is a side of the split, stamped with its file's SHA-256; a document's key is its row's id, which is the
    same in every version that holds the row.

    Args:
        config: Dataset and sides.
        lake: Where it is published.
    """

    def __init__(self, config: DatasetSource, lake: Lake) -> None:
        """Keep both; nothing is read yet."""
        self._config = config
        self._lake = lake
        self._maker = Maker(config)

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._config.name

    @property
    def settings_digest(self) -> bytes:
        """See `Source`."""
        return self._maker.settings_digest(rendering=_RENDERING)

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:  # noqa: ARG002 (a pointer says all)
        """List the sides of the current version.

        Raises:
            BadData: No version was published.
        """
        manifest = self._lake.manifest(_KIND, self._config.dataset, self._version())
        files = {entry.path: entry.sha256 for entry in manifest.files} if manifest else {}
        named = {side: files.get(f"{side}.parquet") for side in self._config.sides}
        return Scan({side: digest for side, digest in named.items() if digest})

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """See `Source`."""
        for side in containers:
            yield side, {row["row_id"]: self._hash(row) for row in self._rows(side)}

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """See `Source`."""
        keys: dict[str, set[str]] = defaultdict(set)
        for place in places:
            keys[place.container].add(place.key)
        for side, wanted in keys.items():
            readable: list[Document] = []
            for row in self._rows(side, wanted):
                place = Place(side, row["row_id"])
                try:
                    readable.append(self._maker.document(place, self._hash(row), _parsed(row, side)))
                except BadData as error:
                    yield Unreadable(place, f"row {place.key}: {error}")
            for first in range(0, len(readable), _ROWS_AT_ONCE):
                yield from with_languages(readable[first : first + _ROWS_AT_ONCE])

    def _version(self) -> str:
        pointer = self._lake.pointer(_KIND, self._config.dataset, "current")
        if pointer is None:
            raise BadData(
                f"source.dataset: {self._config.dataset!r} has no current version in the lake: publish one first, or"
                " correct the name"
            )
        return pointer.version

    def _hash(self, row: dict[str, Any]) -> bytes:
        return self._maker.hash(json.dumps(row, sort_keys=True, ensure_ascii=False).encode(), _RENDERING)

    def _rows(self, side: str, wanted: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of a side, all or those with these ids; a side that is absent has none."""
        import pyarrow.parquet as pq

        with self._folder() as folder:
            path = folder / f"{side}.parquet"
            if not path.is_file():
                return
            with pq.ParquetFile(path) as file:
                columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                    yield from (row for row in batch.to_pylist() if wanted is None or row["row_id"] in wanted)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            yield self._lake.fetch(_KIND, self._config.dataset, self._version(), Path(scratch))


def _parsed(row: dict[str, Any], side: str) -> Parsed:
    turns = (
        f"**{str(turn.get('role') or 'text').capitalize()}:** {turn.get('content') or ''}" for turn in row["messages"]
    )
    metadata = {name: row[name] for name in _METADATA if row.get(name) is not None}
    return Parsed("\n\n".join(turns), "markdown", metadata={**metadata, "side": side})
