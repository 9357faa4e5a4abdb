"""Documents of a folder of the lake, or of any filesystem that fsspec knows."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llmjobs.contracts.embeddings import FilesSource
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.embeddings.documents.globs import EVERYTHING, expression
from llmjobs.embeddings.documents.lines import lines
from llmjobs.embeddings.documents.listing import Listing, listing
from llmjobs.embeddings.documents.making import LARGEST_DOCUMENT, Maker, with_languages
from llmjobs.embeddings.documents.parsers.formats import JSONL, fingerprints, format_of
from llmjobs.embeddings.documents.source import Document, Place, Scan, Unreadable
from llmjobs.lake import Lake

logger = logging.getLogger(__name__)

_DATE = "{date}"
_DAY = r"(\d{4}-?\d{2}-?\d{2})"
_THREADS = 16
_TOGETHER = 64
"""Documents whose languages are told in one go, and objects that are fetched side by side."""


class FileDocuments:
    """A folder; see `llmjobs.embeddings.documents.source.Source`.

    A container is a file, by its path below the folder. It holds one document of the same key; a JSONL file holds one
    a line, with the keys ``path#key``. With ``{date}`` in the URL, paths begin behind the last folder before it.

    Args:
        config: Folder, globs, and what its documents get.
        lake: What a folder without a scheme is relative to.
        interval_start: Start of the run's data interval, ISO 8601; "" where there is none.
        interval_end: Its end, exclusive.

    Raises:
        BadConfig: The folder leads out of the lake, its scheme is unknown, or the interval is none.
    """

    def __init__(self, config: FilesSource, lake: Lake, *, interval_start: str = "", interval_end: str = "") -> None:
        """Open the filesystem; nothing is listed yet."""
        self._config = config
        self._maker = Maker(config)
        self._days = _days(interval_start, interval_end)
        self.url = config.url.rstrip("/") if "://" in config.url else _below(lake, config.url)
        above, separator, rest = self.url.partition(_DATE)
        above, _, begun = above.rpartition("/") if separator else (above, "", "")
        self._dated = f"{begun}{_DATE}{rest}" if separator else ""
        self._fs, self._root = _filesystem(above, lake, config.url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self._include = None if config.include == EVERYTHING else expression(config.include)
        self._exclude = expression(config.exclude) if config.exclude else None

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._config.name

    @property
    def settings_digest(self) -> bytes:
        """See `Source`."""
        return self._maker.settings_digest(formats=fingerprints())

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:  # noqa: ARG002 (files have none)
        """List the files. With ``{date}``, those of the interval's days; all days where `full` or without interval.

        Raises:
            BadData: There is no such folder.
            JobError: It cannot be listed.
        """
        found = Listing()
        part = bool(self._dated and self._days and not full)
        for prefix in self._spelled() if part else [""]:
            one = listing(self._fs, self._path(prefix))
            if one is None and not part:
                raise BadData(f"source.url {self.url}: there is no such folder: create it, mount it, or correct `url`")
            if one is not None:
                found.stamps |= self._wanted(prefix, one.stamps)
                found.others += one.others
        if found.others:
            logger.info("%s: %d files are of no kind that can be read and were left out", self.url, found.others)
        return Scan(found.stamps, complete=not part)

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """See `Source`. Nothing is parsed but JSONL: what a parser will make follows from the bytes."""
        for container, found in self._side_by_side(self._hashed, containers):
            if found is not None:
                yield container, found

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """See `Source`."""
        keys: dict[str, set[str]] = defaultdict(set)
        for place in places:
            keys[place.container].add(place.key)
        readable: list[Document] = []
        for _, found in self._side_by_side(lambda container: self._documents(container, keys[container]), keys):
            for one in found:
                if isinstance(one, Unreadable):
                    yield one
                    continue
                readable.append(one)
                if len(readable) == _TOGETHER:
                    yield from with_languages(readable)
                    readable = []
        yield from with_languages(readable)

    # --- listing

    def _spelled(self) -> Iterator[str]:
        """Yield the dated part of the URL for each day of the interval, as 2026-11-23 and as 20261123."""
        for day in self._days:
            yield self._dated.replace(_DATE, day.isoformat())
            yield self._dated.replace(_DATE, f"{day:%Y%m%d}")

    def _wanted(self, prefix: str, stamps: dict[str, str]) -> dict[str, str]:
        """Return the stamps of the files that the globs and the date ask for, by path below the source's root."""
        include, exclude = self._include, self._exclude
        if include or exclude or self._dated:
            below = re.compile(_DAY.join(map(re.escape, self._dated.split(_DATE))) + "(?:/|$)") if self._dated else None
            chosen: dict[str, str] = {}
            for path, stamp in stamps.items():
                key = f"{prefix}/{path}".strip("/")
                dated = below.match(key) if below else None
                inner = key[dated.end() :] if dated else key
                if (
                    (below is None or (dated is not None and _is_day(dated)))
                    and (include is None or include.fullmatch(inner))
                    and not (exclude and exclude.fullmatch(inner))
                ):
                    chosen[key] = stamp
            return chosen
        return stamps

    # --- reading

    def _path(self, container: str) -> str:
        return f"{self._root}/{container}" if container else self._root

    def _side_by_side(self, work: Callable[[str], Any], containers: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield each container with what `work` gives; objects of a store are waited for together."""
        if self._local:
            yield from ((container, work(container)) for container in containers)
            return
        rest = iter(containers)
        with ThreadPoolExecutor(_THREADS) as pool:
            while block := list(islice(rest, _TOGETHER)):
                yield from zip(block, pool.map(work, block), strict=True)

    def _hashed(self, container: str) -> dict[str, bytes] | Unreadable | None:
        """Return the documents of a file with their hashes; None where it is gone."""
        form = format_of(self._path(container))
        try:
            if form is JSONL:
                with self._fs.open(self._path(container), "rb") as file:
                    return {
                        f"{container}#{line.key}": self._maker.hash(line.content, JSONL.fingerprint)
                        for line in lines(file, text_field=self._config.text_field, key_field=self._config.key_field)
                    }
            assert form is not None
            return {container: self._maker.hash(self._bytes(container)[0], form.fingerprint)}
        except FileNotFoundError:
            return None
        except BadData as error:
            return Unreadable(Place(container, container), str(error))
        except OSError as error:
            return self._failed(container, error)

    def _documents(self, container: str, keys: set[str]) -> list[Document | Unreadable]:
        """Return the documents of a file that have these keys."""
        try:
            if format_of(self._path(container)) is JSONL:
                return self._lines(container, keys)
            return [self._document(container)] if container in keys else []
        except FileNotFoundError:
            return []
        except BadData as error:
            return [Unreadable(Place(container, container), str(error))]
        except OSError as error:
            return [self._failed(container, error)]

    def _document(self, container: str) -> Document:
        form = format_of(self._path(container))
        assert form is not None
        content, changed = self._bytes(container)
        content_hash = self._maker.hash(content, form.fingerprint)
        return self._maker.document(Place(container, container), content_hash, form.parse(content), updated_at=changed)

    def _lines(self, container: str, keys: set[str]) -> list[Document | Unreadable]:
        found: list[Document | Unreadable] = []
        changed = _changed(self._fs.info(self._path(container)))
        with self._fs.open(self._path(container), "rb") as file:
            for line in lines(file, text_field=self._config.text_field, key_field=self._config.key_field):
                place = Place(container, f"{container}#{line.key}")
                if place.key not in keys:
                    continue
                try:
                    if line.parsed is None:
                        raise BadData(line.problem)
                    content_hash = self._maker.hash(line.content, JSONL.fingerprint)
                    found.append(self._maker.document(place, content_hash, line.parsed, updated_at=changed))
                except BadData as error:
                    found.append(Unreadable(place, str(error)))
        return found

    def _bytes(self, container: str) -> tuple[bytes, datetime | None]:
        """Return a file's bytes, and when it was changed.

        Raises:
            BadData: It is too large for one document.
            OSError: It cannot be read.
        """
        path = self._path(container)
        about = self._fs.info(path)
        if about["size"] > LARGEST_DOCUMENT:
            raise BadData(
                f"it has {about['size']:,} bytes, more than the {LARGEST_DOCUMENT:,} of a document: divide it"
            )
        return bytes(self._fs.cat_file(path)), _changed(about)

    def _failed(self, container: str, error: OSError) -> Unreadable:
        if isinstance(error, PermissionError | IsADirectoryError):
            return Unreadable(Place(container, container), f"it cannot be opened: {error.strerror or error}")
        raise JobError(f"{self._path(container)} cannot be read: {error}") from error


def _below(lake: Lake, folder: str) -> str:
    if folder.startswith("/") or ".." in folder.split("/"):
        raise BadConfig(f"source.url: {folder!r} is no folder below the lake; write file://... for one elsewhere")
    return f"{lake.url}/{folder.strip('/')}"


def _filesystem(url: str, lake: Lake, written: str) -> tuple[Any, str]:
    """Return filesystem and path of a URL; below the lake, the lake's own with its credentials."""
    if "://" not in written:
        return lake.fs, lake.fs._strip_protocol(url)  # noqa: SLF001 (fsspec's name for a public thing)
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise BadConfig(f"source.url: {written!r} cannot be opened: {error}") from None
    return filesystem, root.rstrip("/")


def _days(start: str, end: str) -> list[date]:
    """Return the days of an interval; that of its start where it has no width."""
    if not start or not end:
        return []
    try:
        first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    except ValueError:
        raise BadConfig(
            f"interval_start, interval_end: {start!r}, {end!r} are no dates and times as ISO 8601 has them"
        ) from None
    # An end at midnight does not reach into its day.
    until = (last - timedelta(microseconds=1)).date()
    return [first.date() + timedelta(days) for days in range(max((until - first.date()).days, 0) + 1)]


def _is_day(match: re.Match[str]) -> bool:
    """Return whether all dates of a path are one and the same day."""
    try:
        return len({date.fromisoformat(text) for text in match.groups()}) == 1
    except ValueError:  # 2026-02-30
        return False


def _changed(about: dict[str, Any]) -> datetime | None:
    """Return the time of change that a filesystem states, in UTC."""
    stated = about.get("LastModified") or about.get("last_modified") or about.get("mtime") or about.get("created")
    if isinstance(stated, int | float):
        return datetime.fromtimestamp(stated, UTC)
    if isinstance(stated, datetime):
        return stated if stated.tzinfo else stated.replace(tzinfo=UTC)
    return None
