"""Finds the source files of a dataset, in the lake or behind any fsspec URL, and streams their bytes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.contracts.instructions import Source
from llmjobs.instructions.raw.reading import kind_of
from llmjobs.lake import Lake

_BLOCK_BYTES = 1 << 20
_DATE = "{date}"
_DAY = r"(\d{4}-\d{2}-\d{2}|\d{8})"


@dataclass(frozen=True)
class SourceFile:
    """One source file as it was when the run began.

    Attributes:
        label: How people find it: its path in the lake, or its URL.
        sha256: Of its bytes.
        bytes: Its size.
        source: What it belongs to.
    """

    label: str
    sha256: str
    bytes: int
    source: Source


class Sources:
    """The files that the sources of a run match, sorted by label; one that two match belongs to the first.

    A line of a source is a glob or a folder. A folder stands for the files below it that have a suffix we read.
    ``{date}`` in it is a day, as 2026-11-23 or 20261123, that lies before the end of the run's data interval.

    Args:
        lake: Where lines without a ``scheme://`` look.
        inputs: The sources, each with its globs.
        storage_options: Passed to fsspec for the lines with a ``scheme://``, for example credentials.
        interval_end: ISO 8601; empty: `{date}` is any day.
        field: What errors call the lines; empty: by the config, ``source`` or ``sources[NAME].files``.

    Raises:
        BadData: A line matches no file.
        BadConfig: A line without ``scheme://`` leads out of the lake; no filesystem has the scheme of one, or its store
            does not let this job in.
    """

    def __init__(
        self,
        lake: Lake,
        inputs: Sequence[Source],
        *,
        storage_options: dict[str, Any] | None = None,
        interval_end: str = "",
        field: str = "",
    ) -> None:
        self._lake = lake
        self._options = storage_options or {}
        self._end = _end(interval_end)
        self._root = PurePosixPath(fsspec.core.strip_protocol(lake.url))
        self._places: dict[str, tuple[Any, str]] = {}
        owners: dict[str, Source] = {}
        plain = len(inputs) == 1 and inputs[0].model_fields_set <= {"name", "files"}
        for source in inputs:
            named = field or ("source" if plain else f"sources[{source.name}].files")
            for line in filter(None, map(str.strip, source.files.splitlines())):
                for label in self._match(line, named):
                    owners.setdefault(label, source)
        self.files = [self._describe(label, owners[label]) for label in sorted(owners)]

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[BinaryIO]:
        """Open a file, to be read once from its start.

        Raises:
            JobError: Its bytes changed since the run began; a retry sees them whole. Raised where its end is met, or
                on leaving.
        """
        filesystem, path = self._places[file.label]
        with filesystem.open(path, "rb") as stream:
            hashed = _Hashed(stream, file)
            yield cast(BinaryIO, io.BufferedReader(hashed, _BLOCK_BYTES))
            hashed.finish()

    def _match(self, line: str, field: str) -> list[str]:
        """Return the labels of the files that a line of a source matches."""
        remote = "://" in line
        if not remote and (line.startswith("/") or ".." in line.split("/")):
            raise BadConfig(f"{field}: {line!r} is no place below the lake; write file://... for one elsewhere")
        found = self._found(line.rstrip("/").replace(_DATE, "*"), field, remote=remote)
        if _DATE in line:
            day = _expression(line)
            found = {label: place for label, place in found.items() if self._is_due(day, place[1])}
        if not found:
            where = "" if remote else f" in {self._lake.url}"
            before = f" of a day before {self._end}" if _DATE in line and self._end != date.max else ""
            raise BadData(f"{field}: {line!r} matches no file{before}{where}; put the files there or change `{field}`")
        self._places.update(found)
        return list(found)

    def _found(self, pattern: str, field: str, *, remote: bool) -> dict[str, tuple[Any, str]]:
        """Return label -> filesystem and path, of the files that match and of those below folders that match."""
        filesystem, path = self._lake.fs, f"{self._root}/{pattern}"
        if remote:
            filesystem, path = _filesystem(pattern, self._options, field)
        filesystem.invalidate_cache()  # an object store's client may hold an old listing
        with _credentials_named(pattern, field, remote=remote):
            matches = filesystem.glob(path, detail=True)
        files = [match for match, about in matches.items() if about["type"] == "file"]
        folders = [match for match, about in matches.items() if about["type"] == "directory"]
        files += [below for folder in folders for below in filesystem.find(folder) if kind_of(below)]
        if remote:
            return {filesystem.unstrip_protocol(match): (filesystem, match) for match in files}
        return {str(PurePosixPath(match).relative_to(self._root)): (filesystem, match) for match in files}

    def _is_due(self, day: re.Pattern[str], path: str) -> bool:
        """Return whether all dates of a path are days before the end of the data interval."""
        match = day.fullmatch(path.lstrip("/"))
        try:
            return match is not None and all(date.fromisoformat(text) < self._end for text in match.groups())
        except ValueError:  # 2026-02-30
            return False

    def _describe(self, label: str, source: Source) -> SourceFile:
        filesystem, path = self._places[label]
        sha256, size = hashlib.sha256(), 0
        with filesystem.open(path, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                sha256.update(block)
                size += len(block)
        return SourceFile(label=label, sha256=sha256.hexdigest(), bytes=size, source=source)


class _Hashed(io.RawIOBase):
    """A stream that knows at its end whether it was the file that it should be."""

    def __init__(self, stream: Any, file: SourceFile) -> None:
        self._stream, self._file = stream, file
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        self._sha256.update(block)
        buffer[: len(block)] = block
        if not block and self._sha256.hexdigest() != self._file.sha256:
            raise JobError(f"{self._file.label}: changed while it was read; the next try starts over")
        return len(block)

    def finish(self) -> None:
        """Read what is left, as a reader need not meet the end of a broken file."""
        buffer = bytearray(_BLOCK_BYTES)
        while self.readinto(buffer):
            pass


def _filesystem(url: str, options: dict[str, Any], field: str) -> tuple[Any, str]:
    """Return the filesystem of a URL, and the path in it.

    Raises:
        BadConfig: fsspec does not know its scheme, or lacks the package for it.
    """
    schemes = [step.partition("://")[0] for step in url.split("::")]
    unknown = [scheme for scheme in schemes if scheme not in fsspec.available_protocols()]
    if unknown:
        known = "file, s3, gs, az, hdfs, https or another one of fsspec"
        raise BadConfig(f"{field}: no filesystem has the scheme {unknown[0]!r} of {url!r}; write {known}")
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url, **options))
    except ImportError as error:
        raise BadConfig(f"{field}: the scheme {schemes[0]!r} of {url!r} needs a package: {error}") from None


@contextmanager
def _credentials_named(url: str, field: str, *, remote: bool) -> Iterator[None]:
    """Say of a store that lets nobody in what gives the job its credentials: the store names neither file nor config.

    Raises:
        BadConfig: There are no credentials, the store refuses them, or the options that hold them are none.
    """
    try:
        yield
    except Exception as error:
        refused = isinstance(error, PermissionError | TypeError) or type(error).__name__ == "NoCredentialsError"
        if not remote or not refused:
            raise
        raise BadConfig(
            f"{field}: {url!r} does not let this job in ({error}); `connection` in the config names the Airflow "
            "connection with its credentials"
        ) from None


def _end(interval_end: str) -> date:
    if not interval_end:
        return date.max
    try:
        return datetime.fromisoformat(interval_end).date()
    except ValueError:
        raise BadConfig(f"interval_end: {interval_end!r} is no date and time as ISO 8601 has them") from None


def _expression(line: str) -> re.Pattern[str]:
    """Return what the paths look like that a line with ``{date}`` matches, one group a date."""
    pieces = re.split(r"(\{date\}|\*\*/|\*\*|\*|\?|\[[^]]*\])", line.partition("://")[2] or line)
    meanings = {_DATE: _DAY, "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    known = (piece if piece.startswith("[") else meanings.get(piece) or re.escape(piece) for piece in pieces)
    return re.compile(rf"(?:.*/)?{''.join(known).strip('/')}(?:/.*)?")
