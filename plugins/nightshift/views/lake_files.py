"""Reads published files from the lake for the pages. fsspec and its backends are imported when a page is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.environment import LAKE_URL
from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.manifest import Manifest
from nightshift.views.mount import KINDS

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonl": "text/plain; charset=utf-8",
    "csv": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}
"""What is shown, by suffix: text only. Weights and Parquet files are not handed out by a web page."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ReportEntry:
    """One line of the list of reports.

    Attributes:
        outcome: Why the data was refused, or how many of its rows were published.
    """

    kind: str
    name: str
    version: str
    created_at: str
    outcome: str
    path: str


class LakeFiles:
    """The readable files of the lake that ``LLMJOBS_LAKE_URL`` names.

    Raises:
        BadConfig: The variable is not set in the API server's environment.
    """

    def __init__(self) -> None:
        """Open the filesystem; nothing is read yet."""
        import fsspec

        url = os.environ.get(LAKE_URL)
        if not url:
            raise BadConfig(f"{LAKE_URL} is not set for Airflow's API server, so it cannot read the reports")
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def read(self, path: str) -> tuple[str, Iterator[bytes]]:
        """Return the media type and the content, piece by piece, of one published file.

        Args:
            path: ``<kind>/<name>/versions/<version>/<file>``, relative to the lake.

        Raises:
            FileNotFoundError: There is no such file, or it is none that is shown: one answer for both, so that
                nobody can ask what else is on the disk.
        """
        full = self._inside(path)
        media_type = MEDIA_TYPES.get(path.rpartition(".")[2])
        if media_type is None or not self._fs.isfile(full):
            raise FileNotFoundError(path)
        return media_type, _pieces(self._fs.open(full, "rb"))

    def text(self, path: str) -> str | None:
        """Return a text that our own pages ask for, by its path in the lake; None where there is none.

        Raises:
            FileNotFoundError: The path is no path of plain segments.
        """
        if not all(_SEGMENT.fullmatch(part) for part in path.split("/")):
            raise FileNotFoundError(path)
        self._fs.invalidate_cache()
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{path}")).decode()
        except FileNotFoundError:
            return None

    def reports(self, limit: int = 200) -> list[ReportEntry]:
        """Return the published reports, the newest first, at most `limit`."""
        self._fs.invalidate_cache()
        found = [p for kind in KINDS for p in self._fs.glob(f"{self._root}/{kind}/*/versions/*/report.html")]
        entries = [entry for path in found if (entry := self._entry(str(path)))]
        return sorted(entries, key=lambda entry: entry.created_at, reverse=True)[:limit]

    def _entry(self, path: str) -> ReportEntry | None:
        folder, _, file = path.rpartition("/")
        try:
            manifest = Manifest.model_validate_json(self._fs.cat_file(f"{folder}/manifest.json"))
        except FileNotFoundError:
            return None  # not published, or not yet
        relative = f"{manifest.kind}/{manifest.name}/versions/{manifest.version}/{file}"
        outcome = _outcome(manifest.metrics)
        return ReportEntry(manifest.kind, manifest.name, manifest.version, manifest.created_at, outcome, relative)

    def _inside(self, path: str) -> str:
        """Return the full path of a published file; on a local disk symbolic links must stay in the lake too."""
        parts = path.split("/")
        plain = all(_SEGMENT.fullmatch(part) for part in parts)
        if not plain or len(parts) < 5 or parts[0] not in KINDS or parts[2] != "versions":
            raise FileNotFoundError(path)
        full = f"{self._root}/{path}"
        if "file" in self._fs.protocol and not os.path.realpath(full).startswith(os.path.realpath(self._root) + os.sep):
            raise FileNotFoundError(path)
        return full


def _outcome(metrics: dict[str, Any]) -> str:
    if metrics.get("sentence"):
        return str(metrics["sentence"])
    counted = "rows_in" in metrics and "published" in metrics
    return f"{metrics['published']} of {metrics['rows_in']} rows published" if counted else ""


def _pieces(file: Any) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
