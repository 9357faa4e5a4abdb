"""Checkpoints that are whole or not there: written aside, a hashed manifest last, published by a rename.

    <folder>/step-00000050/        ...files...  MANIFEST.json
    <folder>/.saving/checkpoint-50/             what the trainer is writing just now

A kill at any moment leaves the newest published checkpoint in place. What is damaged afterwards is found by its
hashes, named in the log and skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"

_SAVING = ".saving"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: Its folder.
        step: Optimiser steps done.
        total_steps: Steps of the whole run.
    """

    path: Path
    step: int
    total_steps: int

    @property
    def finished(self) -> bool:
        """Whether the run had nothing left to do but to publish."""
        return self.step >= self.total_steps


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Folder on a local disk, for this run alone.
        layout: What a checkpoint must have in common with the run that goes on from it: number of processes,
            strategy, micro batch. Optimiser state and data order are cut by it.
    """

    def __init__(self, folder: Path, layout: dict[str, Any]) -> None:
        """Make the folder if it is absent."""
        self.folder = folder
        self.layout = layout
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def saving(self) -> Path:
        """Where the trainer writes; the same for every process of the run."""
        return self.folder / _SAVING

    def clear_saving(self) -> None:
        """Remove what a killed run left half written."""
        shutil.rmtree(self.saving, ignore_errors=True)

    def publish(self, written: Path, *, step: int, total_steps: int) -> Checkpoint:
        """Turn a written folder into a checkpoint; atomic.

        Args:
            written: Folder below `saving`.
            step: Optimiser steps done.
            total_steps: Steps of the whole run.
        """
        target = self.folder / f"step-{step:08d}"
        files = {path.relative_to(written).as_posix(): _fingerprint(path) for path in _files(written)}
        manifest = {"step": step, "total_steps": total_steps, "layout": self.layout, "files": files}
        (written / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*_files(written), written]:
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        written.rename(target)
        _sync(self.folder)
        return Checkpoint(target, step, total_steps)

    def keep(self, newest: int) -> None:
        """Delete all but the `newest` checkpoints."""
        for folder in self._published()[newest:]:
            shutil.rmtree(folder, ignore_errors=True)

    def newest_valid(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and fits this run; the log names each one that is skipped."""
        for folder in self._published():
            fault, manifest = self._inspect(folder)
            if fault is None:
                return Checkpoint(folder, manifest["step"], manifest["total_steps"])
            logger.warning("checkpoint %s is skipped: %s", folder.name, fault)
        return None

    def _published(self) -> list[Path]:
        return sorted((p for p in self.folder.glob("step-*") if p.is_dir()), reverse=True)

    def _inspect(self, folder: Path) -> tuple[str | None, dict[str, Any]]:
        """Return why a checkpoint cannot be used, or None, and its manifest."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            expected = dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"{MANIFEST} is absent or unreadable", {}
        if manifest["layout"] != self.layout:
            return f"it was written under {manifest['layout']}, this run has {self.layout}", {}
        for name, fingerprint in expected.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is absent", {}
            if _fingerprint(path) != fingerprint:
                return f"{name} is not what its hash says", {}
        return None, manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
