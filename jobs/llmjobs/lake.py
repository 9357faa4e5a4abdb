"""The lake: versions of artifacts on any fsspec filesystem, published whole or not at all.

    <url>/<kind>/<name>/versions/<version>/...files...  manifest.json
    <url>/<kind>/<name>/<pointer>.json

A version is there when its manifest is there, and the manifest is written last. On a local disk the whole
folder is renamed into place besides, after an fsync of every file; an object store makes each object
visible at once, so the order alone is enough there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llmjobs.contracts.environment import LAKE_URL, Identity
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.manifest import FileEntry, Manifest, Pointer

MANIFEST = "manifest.json"


class Lake:
    """Artifact store below one fsspec URL.

    Args:
        url: For example ``file:///srv/lake``, ``s3://bucket/lake`` or ``memory://lake``.
        storage_options: Passed to fsspec, for example an S3 endpoint.
    """

    def __init__(self, url: str, **storage_options: Any) -> None:
        """Open the filesystem behind `url`; nothing is read or made yet."""
        self.url = url.rstrip("/")
        self.fs, root = fsspec.core.url_to_fs(self.url, **storage_options)
        self._root = PurePosixPath(root)
        self._local = isinstance(self.fs, LocalFileSystem)

    @classmethod
    def from_environment(cls) -> Lake:
        """Open the lake that ``LLMJOBS_LAKE_URL`` names.

        Raises:
            BadConfig: The variable is not set.
        """
        url = os.environ.get(LAKE_URL)
        if not url:
            raise BadConfig(
                f"{LAKE_URL} is not set: it names the lake, for example file:///srv/lake or s3://bucket/lake"
            )
        return cls(url)

    # --- versions

    def publish(
        self,
        folder: Path,
        *,
        kind: str,
        name: str,
        version: str,
        metrics: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
    ) -> Manifest:
        """Publish the files of a local folder as one version, and return its manifest.

        A version that is there already is left as it is and its manifest returned: its id says that the
        content is the same.

        Args:
            folder: Local folder; every file in it becomes part of the version. It is left as it is.
            kind: ``datasets``, ``adapters``, ...
            name: The artifact's name.
            version: Content-addressed id, see `Manifest`.
            metrics: See `Manifest`.
            inputs: See `Manifest`.
        """
        existing = self.manifest(kind, name, version)
        if existing is not None:
            return existing
        manifest = Manifest(
            kind=kind,
            name=name,
            version=version,
            files=[_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()],
            metrics=metrics or {},
            inputs=inputs or {},
            produced_by=Identity.from_environment().as_dict(),
            created_at=_now(),
        )
        if self._local:
            self._publish_by_rename(folder, manifest)
        else:
            self._publish_by_order(folder, manifest)
        return self.manifest(kind, name, version) or manifest

    def manifest(self, kind: str, name: str, version: str) -> Manifest | None:
        """Return a version's manifest, or None when there is no such complete version."""
        text = self._read_text(self._version_path(kind, name, version) / MANIFEST)
        return None if text is None else Manifest.model_validate_json(text)

    def versions(self, kind: str, name: str) -> list[Manifest]:
        """Return the manifests of all complete versions, the oldest first."""
        parent = self._path(kind, name, "versions")
        if not self.fs.exists(str(parent)):
            return []
        ids = [PurePosixPath(entry).name for entry in self.fs.ls(str(parent), detail=False)]
        found = [self.manifest(kind, name, version) for version in ids if not version.startswith(".")]
        return sorted((m for m in found if m is not None), key=lambda m: (m.created_at, m.version))

    def version_url(self, kind: str, name: str, version: str, file: str = "") -> str:
        """Return the URL of a version, or of one file of it."""
        return "/".join(part for part in (self.url, kind, name, "versions", version, file) if part)

    def fetch(self, kind: str, name: str, version: str, target: Path) -> Path:
        """Return a local folder that holds the version; remote files are copied to `target` and checked.

        Raises:
            BadData: There is no such version, or a file does not have the hash that its manifest states.
        """
        manifest = self.manifest(kind, name, version)
        if manifest is None:
            raise BadData(f"{self.version_url(kind, name, version)}: no such version in the lake")
        source = self._version_path(kind, name, version)
        if self._local:
            return Path(source)
        for entry in manifest.files:
            path = target / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(str(source / entry.path), str(path))
            if _sha256(path) != entry.sha256:
                raise BadData(f"{self.version_url(kind, name, version, entry.path)}: its SHA-256 is not the manifest's")
        return target

    # --- pointers

    def pointer(self, kind: str, name: str, pointer: str) -> Pointer | None:
        """Return what `pointer` (``current``, ``champion``) says, or None when it was never set."""
        text = self._read_text(self._path(kind, name, f"{pointer}.json"))
        return None if text is None else Pointer.model_validate_json(text)

    def move_pointer(self, kind: str, name: str, pointer: str, version: str, *, reason: str = "") -> Pointer:
        """Point `pointer` at a version that is there; the change is atomic.

        Raises:
            BadData: There is no such complete version.
        """
        if self.manifest(kind, name, version) is None:
            raise BadData(f"{self.version_url(kind, name, version)}: no such version, so {pointer!r} stays where it is")
        moved = Pointer(version=version, moved_at=_now(), moved_by=Identity.from_environment().as_dict(), reason=reason)
        self._write_text(self._path(kind, name, f"{pointer}.json"), moved.model_dump_json(indent=1))
        return moved

    # --- files beside the versions

    def find(self, pattern: str) -> list[str]:
        """Return the paths, relative to the lake, of the files that match a glob, sorted."""
        matches = self.fs.glob(str(self._root / pattern))
        return sorted(str(PurePosixPath(match).relative_to(self._root)) for match in matches if self.fs.isfile(match))

    @contextmanager
    def open(self, path: str, mode: str = "rb") -> Iterator[IO[Any]]:
        """Open a file by its path relative to the lake."""
        with self.fs.open(str(self._root / path), mode) as file:
            yield file

    def read_text(self, path: str) -> str | None:
        """Return the text of a file by its path relative to the lake, None when there is no such file."""
        return self._read_text(self._root / path)

    def write_text(self, path: str, text: str) -> None:
        """Write a file by its path relative to the lake; readers see the old text or the new one."""
        self._write_text(self._root / path, text)

    def working_folder(self, *parts: str) -> Path | None:
        """Return a folder of a local lake for files that are not published, such as checkpoints; None if remote."""
        if not self._local:
            return None
        folder = Path(self._path("work", *parts))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # --- inside

    def _path(self, *parts: str) -> PurePosixPath:
        for part in parts:
            if not part or part in {".", ".."} or "/" in part:
                raise BadConfig(f"{part!r} cannot be a name in the lake: it must be one plain path segment")
        return self._root.joinpath(*parts)

    def _version_path(self, kind: str, name: str, version: str) -> PurePosixPath:
        return self._path(kind, name, "versions", version)

    def _publish_by_rename(self, folder: Path, manifest: Manifest) -> None:
        target = Path(self._version_path(manifest.kind, manifest.name, manifest.version))
        staging = target.parent / f".{manifest.version}.{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            for entry in manifest.files:
                path = staging / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / entry.path, path)
                _sync(path)
            _write_synced(staging / MANIFEST, manifest.model_dump_json(indent=1))
            _sync(staging)
            try:
                staging.rename(target)
            except OSError:
                # Another run published the same content first. Anything else is an error.
                if not (target / MANIFEST).is_file():
                    raise
            _sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish_by_order(self, folder: Path, manifest: Manifest) -> None:
        target = self._version_path(manifest.kind, manifest.name, manifest.version)
        for entry in manifest.files:
            path = target / entry.path
            self.fs.makedirs(str(path.parent), exist_ok=True)
            self.fs.put_file(str(folder / entry.path), str(path))
        self._write_text(target / MANIFEST, manifest.model_dump_json(indent=1))

    def _read_text(self, path: PurePosixPath) -> str | None:
        # An object store's client may hold an old listing; a pointer must be read as it is now.
        self.fs.invalidate_cache()
        try:
            return bytes(self.fs.cat_file(str(path))).decode()
        except FileNotFoundError:
            return None

    def _write_text(self, path: PurePosixPath, text: str) -> None:
        self.fs.makedirs(str(path.parent), exist_ok=True)
        if not self._local:
            self.fs.pipe_file(str(path), text.encode())
            return
        temporary = Path(path).with_name(f".{path.name}.{uuid.uuid4().hex}")
        _write_synced(temporary, text)
        temporary.replace(Path(path))
        _sync(Path(path).parent)


def _entry(folder: Path, path: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
