"""The manifest: the file that makes a version of an artifact complete, and says where it came from."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llmjobs.contracts.base import Strict


class FileEntry(Strict):
    """One file of a version."""

    path: str
    bytes: int
    sha256: str


class Manifest(Strict):
    """What a version holds and what produced it.

    Attributes:
        kind: ``datasets``, ``adapters``, ...: the folder of the lake.
        name: The artifact's name, the ``name`` of its YAML.
        version: Content-addressed id. It never depends on commit, time, run or path.
        files: Every file of the version but the manifest itself.
        metrics: Figures that matter, whole here and only summed up in XCom.
        inputs: Versions and digests that this version was made from.
        produced_by: Dag, run, task, try and code version of the first run that published it.
        created_at: ISO 8601, UTC.
    """

    kind: str
    name: str
    version: str
    files: list[FileEntry] = Field(default_factory=list)
    metrics: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    produced_by: dict[str, Any] = Field(default_factory=dict)
    created_at: str = ""


class Pointer(Strict):
    """A name that says which version counts, such as ``current`` or ``champion``."""

    version: str
    moved_at: str
    moved_by: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""
