"""Finds the source files of a dataset, in the lake or behind any fsspec URL, and reads their bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import fsspec

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.lake import Lake


@dataclass(frozen=True)
class SourceFile:
    """One source file as it was when the run began.

    Attributes:
        label: How people find it: its path in the lake, or its URL.
        sha256: Of its bytes.
        bytes: Its size.
    """

    label: str
    sha256: str
    bytes: int


class Sources:
    """The files that a config's globs match, sorted by label.

    Args:
        lake: Where globs without a ``scheme://`` look.
        globs: Lines of `PrepareConfig.source`.

    Raises:
        BadData: A glob matches no file.
        BadConfig: A glob without ``scheme://`` leads out of the lake.
    """

    def __init__(self, lake: Lake, globs: list[str]) -> None:
        self._lake = lake
        self._remote: dict[str, tuple[Any, str]] = {}
        labels = {label for pattern in globs for label in self._match(pattern)}
        self.files = [self._describe(label) for label in sorted(labels)]

    def read(self, file: SourceFile) -> bytes:
        """Return the file's bytes.

        Raises:
            JobError: They changed since the run began; a retry sees them whole.
        """
        content = self._read(file.label)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise JobError(f"{file.label}: changed while it was read; the next try starts over")
        return content

    def _match(self, pattern: str) -> list[str]:
        if "://" in pattern:
            filesystem, path = fsspec.core.url_to_fs(pattern)
            found = [match for match in filesystem.glob(path) if filesystem.isfile(match)]
            opened = {filesystem.unstrip_protocol(match): (filesystem, match) for match in found}
            self._remote.update(opened)
            labels = list(opened)
        elif pattern.startswith("/") or ".." in pattern.split("/"):
            raise BadConfig(f"source: {pattern!r} is no place below the lake; write file://... for one elsewhere")
        else:
            labels = self._lake.find(pattern)
        if not labels:
            where = "" if "://" in pattern else f" in {self._lake.url}"
            raise BadData(f"source: {pattern!r} matches no file{where}; put the files there or change `source`")
        return labels

    def _describe(self, label: str) -> SourceFile:
        content = self._read(label)
        return SourceFile(label=label, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    def _read(self, label: str) -> bytes:
        if label in self._remote:
            filesystem, path = self._remote[label]
            return bytes(filesystem.cat_file(path))
        with self._lake.open(label) as file:
            return bytes(file.read())
