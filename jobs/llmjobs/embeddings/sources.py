"""Documents of a folder or URL tree: what there is, by content hash, and its text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import fsspec

from llmjobs.contracts.embeddings import FilesSource, SourceConfig
from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake

SOURCE = "documents"
"""Name of this kind of source in the ``document`` table; an index may later have several sources."""


@dataclass(frozen=True)
class Listed:
    """One document of a source.

    Attributes:
        key: Path below the source's folder.
        content_hash: SHA-256 of its bytes, 32 bytes.
    """

    key: str
    content_hash: bytes


class FolderSource:
    """A folder of the lake, or of any filesystem that fsspec knows.

    Args:
        config: Folder and globs.
        lake: What a folder without a scheme is relative to.
    """

    def __init__(self, config: SourceConfig, lake: Lake) -> None:
        """Open the filesystem; nothing is listed yet."""
        assert isinstance(config, FilesSource)
        self.url = config.url if "://" in config.url else f"{lake.url}/{config.url.strip('/')}"
        self._globs = config.include
        self._fs, root = fsspec.core.url_to_fs(self.url)
        self._root = PurePosixPath(root)

    def list_documents(self) -> list[Listed]:
        """Return every document with its hash, sorted by key. Reads all of them."""
        # A long-lived process may hold an old listing of an object store.
        self._fs.invalidate_cache()
        return [Listed(key, hashlib.sha256(self.read(key)).digest()) for key in self._keys()]

    def read(self, key: str) -> bytes:
        """Return a document's bytes.

        Raises:
            FileNotFoundError: It is gone.
        """
        return bytes(self._fs.cat_file(str(self._root / key)))

    def _keys(self) -> list[str]:
        """Return the keys of all files that a glob matches; hidden files and folders are left out."""
        matches: dict[str, str] = {}
        for pattern in self._globs:
            found = self._fs.glob(str(self._root / pattern), detail=True)
            matches |= {path: entry["type"] for path, entry in found.items()}
        keys = [str(PurePosixPath(path).relative_to(self._root)) for path, kind in matches.items() if kind == "file"]
        return sorted(key for key in keys if not any(part.startswith(".") for part in PurePosixPath(key).parts))


def decode(content: bytes) -> str:
    """Return the text of a document's bytes, with every line end as a line feed.

    Raises:
        BadData: It is no UTF-8, or holds a NUL, which PostgreSQL cannot store.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"byte {error.start} is no UTF-8: save the document as UTF-8") from None
    if "\0" in text:
        raise BadData(f"character {text.index(chr(0))} is a NUL: this is no text document")
    return text.replace("\r\n", "\n").replace("\r", "\n")
