"""Checkpoints that are whole or not there: written aside, a hashed manifest last, published by a rename.

    <folder>/step-00000050/        ...files...  MANIFEST.json
    <folder>/.saving/checkpoint-50/             what the trainer is writing just now

A kill at any moment leaves the newest published checkpoint in place. What is damaged afterwards is found by its
hashes, named in the log and skipped. A checkpoint does not depend on how many processes wrote it; its manifest
tells which layouts the run has had.
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

FORMAT = 2
"""Raise it when a checkpoint of before cannot be gone on from."""

_SAVING = ".saving"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: Its folder.
        step: Optimiser steps done.
        total_steps: Steps of the whole run, should it not stop early.
        finished: Whether the run had nothing left to do but to publish.
        best_step: Step of the checkpoint that is published, where the validation loss chooses it.
        layouts: Strategy, processes and micro batch of each part of the run so far; ``from_step``: where it began.
    """

    path: Path
    step: int
    total_steps: int
    finished: bool
    best_step: int | None
    layouts: tuple[dict[str, Any], ...]

    @property
    def adapter_path(self) -> Path:
        """Folder of the adapter that a finished run publishes: of the best checkpoint, or of this one."""
        return self.path if self.best_step is None else self.path.with_name(_name(self.best_step))

    def notes(self) -> list[str]:
        """Return what a reader of the adapter's manifest should know of how it came about."""
        told = changes_of(self.layouts)
        if self.finished and self.step < self.total_steps:
            told.append(f"ended early, after step {self.step} of {self.total_steps}: the validation loss fell no more")
        if self.best_step is not None:
            told.append(f"the adapter is that of step {self.best_step}, which has the lowest validation loss")
        return told


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Folder on a local disk, for this run alone.
        layout: Strategy, processes and micro batch of this process' run. A checkpoint of another layout is gone on
            from as well; only the same one ends in the same bytes.
    """

    def __init__(self, folder: Path, layout: dict[str, Any]) -> None:
        """Make the folder if it is absent."""
        self.folder = folder
        self.layout = layout
        self.layouts: tuple[dict[str, Any], ...] = ({"from_step": 0, **layout},)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def saving(self) -> Path:
        """Where the trainer writes; the same for every process of the run."""
        return self.folder / _SAVING

    def clear_saving(self) -> None:
        """Remove what a killed run left half written."""
        shutil.rmtree(self.saving, ignore_errors=True)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's history; a change of layout is named in the log and in it."""
        last = {key: value for key, value in checkpoint.layouts[-1].items() if key != "from_step"}
        self.layouts = checkpoint.layouts
        if last != self.layout and not checkpoint.finished:
            self.layouts += ({"from_step": checkpoint.step, **self.layout},)
            logger.warning(changes_of(self.layouts)[-1])

    def publish(
        self,
        written: Path,
        *,
        step: int,
        total_steps: int,
        finished: bool | None = None,
        best_step: int | None = None,
        cursor: dict[str, int] | None = None,
    ) -> Checkpoint:
        """Turn a written folder into a checkpoint; atomic.

        Args:
            written: Folder below `saving`.
            step: Optimiser steps done.
            total_steps: Steps of the whole run.
            finished: Whether nothing is left to do but to publish; empty: whether it is the last step.
            best_step: Step with the lowest validation loss so far, where that one will be published.
            cursor: Passes that are over, and rows of this pass that were trained on; for the reader.
        """
        target = self.folder / _name(step)
        told: dict[str, Any] = {
            "step": step,
            "total_steps": total_steps,
            "finished": step >= total_steps if finished is None else finished,
            "best_step": best_step,
        }
        files = {path.relative_to(written).as_posix(): _fingerprint(path) for path in _files(written)}
        manifest = {"format": FORMAT, **told, "cursor": cursor, "layouts": self.layouts, "files": files}
        (written / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*_files(written), written]:
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        written.rename(target)
        _sync(self.folder)
        return Checkpoint(target, layouts=self.layouts, **told)

    def keep(self, newest: int, *, best_step: int | None = None) -> None:
        """Delete all but the `newest` checkpoints and that of `best_step`."""
        for folder in self._published()[newest:]:
            if best_step is None or folder.name != _name(best_step):
                shutil.rmtree(folder, ignore_errors=True)

    def newest_valid(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and fits this run; the log names each one that is skipped."""
        for folder in self._published():
            fault, manifest = self._inspect(folder)
            if fault is None:
                return _checkpoint(folder, manifest)
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
        if manifest.get("format") != FORMAT:
            return f"it has the format {manifest.get('format', 1)}, this version reads {FORMAT}", {}
        for name, fingerprint in expected.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is absent", {}
            if _fingerprint(path) != fingerprint:
                return f"{name} is not what its hash says", {}
        best = folder if manifest["best_step"] is None else folder.with_name(_name(manifest["best_step"]))
        fault = self._inspect(best)[0] if best != folder else None
        return (f"of its best checkpoint, {best.name}, {fault}" if fault else None), manifest


def _name(step: int) -> str:
    return f"step-{step:08d}"


def changes_of(layouts: tuple[dict[str, Any], ...]) -> list[str]:
    """Return a sentence for each time that a run went on under another layout."""
    named = [f"{one['strategy']} with {one['processes']} x {one['micro_batch_size']} rows" for one in layouts]
    return [
        f"elastic: from step {after['from_step']} on {new}, before {old}; same rows, rounded otherwise"
        for after, old, new in zip(layouts[1:], named, named[1:], strict=False)
    ]


def _checkpoint(folder: Path, manifest: dict[str, Any]) -> Checkpoint:
    told = {name: manifest[name] for name in ("step", "total_steps", "finished", "best_step")}
    return Checkpoint(folder, layouts=tuple(manifest["layouts"]), **told)


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
