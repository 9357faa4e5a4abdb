"""Files below a folder with a stamp each: size and time of change on a local disk, size and etag in an object store."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from llmjobs.contracts.errors import JobError
from llmjobs.embeddings.documents.parsers.formats import FORMATS, format_of

logger = logging.getLogger(__name__)

_VERSIONS = (
    "ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "modified",
    "created",
)  # fmt: skip
"""What filesystems call the thing that changes with a file; the surest first."""


@dataclass
class Listing:
    """What one listing found.

    Attributes:
        stamps: Path below the folder -> stamp.
        others: Number of files that no parser reads.
    """

    stamps: dict[str, str] = field(default_factory=dict)
    others: int = 0


def listing(filesystem: Any, root: str) -> Listing | None:
    """Return the files below `root`, or `root` itself where it is a file; None where it is neither.

    Hidden files and folders are left out, as are files that no parser reads.

    Raises:
        JobError: A folder cannot be read. To pass it over would be to delete its documents.
    """
    try:
        found = _local(root) if isinstance(filesystem, LocalFileSystem) else _remote(filesystem, root)
    except OSError as error:
        raise JobError(f"{root} cannot be listed: {error}") from error
    _drop_strange_names(found)
    return found


def _local(root: str) -> Listing | None:
    if not os.path.isdir(root):  # noqa: PTH112 (plain strings, for the sake of 100,000 files)
        return _one_file(root)
    found = Listing()
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:  # it went away while we listed
            continue
        with entries:
            folders += _local_folder(entries, prefix, root, found)
    return found


def _local_folder(entries: Any, prefix: str, root: str, found: Listing) -> list[tuple[str, str]]:
    """Put one folder's files into `found` and return its folders, each with its prefix."""
    folders = []
    stamps = found.stamps
    for entry in entries:
        name = entry.name
        if name[0] == ".":
            continue
        if entry.is_dir():
            if not (entry.is_symlink() and _leads_back(root, prefix, entry)):
                folders.append((f"{prefix}{name}/", entry.path))
        elif name.rpartition(".")[2].lower() in FORMATS and entry.is_file():
            try:
                about = entry.stat()
            except FileNotFoundError:
                continue
            stamps[prefix + name] = f"{about.st_size}:{about.st_mtime_ns}"
        else:
            found.others += 1
    return folders


def _leads_back(root: str, prefix: str, link: os.DirEntry[str]) -> bool:
    """Return whether a link to a folder leads to one that it stands in, and so would go on for ever."""
    try:
        target = os.path.realpath(link.path)
        above = [root, *(os.path.join(root, part) for part in _parents(prefix))]  # noqa: PTH118
        return any(os.path.realpath(folder) == target for folder in above)
    except OSError:
        return True


def _parents(prefix: str) -> list[str]:
    path = PurePosixPath(prefix)
    return [str(one) for one in (path, *path.parents) if str(one) != "."]


def _one_file(path: str) -> Listing | None:
    if not os.path.isfile(path):  # noqa: PTH113
        return None
    if format_of(path) is None:
        return Listing(others=1)
    about = os.stat(path)  # noqa: PTH116
    return Listing({"": f"{about.st_size}:{about.st_mtime_ns}"})


def _remote(filesystem: Any, root: str) -> Listing | None:
    # A client may hold an old listing.
    filesystem.invalidate_cache()
    entries = filesystem.find(root, detail=True)
    found = Listing()
    below = root.strip("/")
    for path, about in entries.items():
        key = path.strip("/")[len(below) :].strip("/")
        if any(part.startswith(".") for part in key.split("/")):
            continue
        if about.get("type") == "file" and format_of(path) is not None:
            found.stamps[key] = _stamp(about)
        else:
            found.others += 1
    return found if entries else None


def _stamp(about: dict[str, Any]) -> str:
    """Return a stamp of an object; "" where its store says nothing that changes with it."""
    version = next((about[key] for key in _VERSIONS if about.get(key)), None)
    return "" if version is None else f"{about.get('size')}:{version}".replace('"', "")


def _drop_strange_names(found: Listing | None) -> None:
    """Leave out files whose names are no Unicode: the index could not name them."""
    try:
        "".join(found.stamps if found else ()).encode()
    except UnicodeEncodeError:
        assert found is not None
        strange = [key for key in found.stamps if not _is_unicode(key)]
        logger.warning("%d files are left out: their names are no UTF-8: %s", len(strange), ascii(strange[:3]))
        for key in strange:
            del found.stamps[key]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
