"""Checkpoints: whole or not there, and a damaged one is named and skipped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmjobs.training.checkpoints import MANIFEST, CheckpointStore

LAYOUT: dict[str, Any] = {"strategy": "single", "processes": 1}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", LAYOUT)


def save(store: CheckpointStore, step: int) -> Path:
    written = store.saving / f"checkpoint-{step}"
    (written / "global_step").mkdir(parents=True)
    (written / "adapter.safetensors").write_bytes(b"weights %d" % step)
    (written / "global_step" / "optimizer.pt").write_bytes(b"state %d" % step)
    return store.publish(written, step=step, total_steps=10).path


def test_nothing_is_there_at_first(store: CheckpointStore) -> None:
    assert store.newest_valid() is None


def test_the_newest_counts_and_older_ones_go(store: CheckpointStore) -> None:
    for step in (2, 4, 10):
        save(store, step)
    store.keep(2)
    assert sorted(path.name for path in store.folder.glob("step-*")) == ["step-00000004", "step-00000010"]
    newest = store.newest_valid()
    assert newest is not None
    assert (newest.step, newest.finished) == (10, True)


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    save(store, 4)
    assert save(store, 4).is_dir()
    assert store.newest_valid() is not None


def damage_truncate(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"wei")


def damage_flip(folder: Path) -> None:
    (folder / "global_step" / "optimizer.pt").write_bytes(b"stAte 8")


def damage_remove(folder: Path) -> None:
    (folder / "global_step" / "optimizer.pt").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def damage_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_truncate, "adapter.safetensors is not what its hash says"),
        (damage_flip, "optimizer.pt is not what its hash says"),
        (damage_remove, "optimizer.pt is absent"),
        (damage_manifest, "MANIFEST.json is absent or unreadable"),
        (damage_no_manifest, "MANIFEST.json is absent or unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_skipped(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], says: str
) -> None:
    save(store, 4)
    damage(save(store, 8))
    with caplog.at_level(logging.WARNING):
        found = store.newest_valid()
    assert found is not None
    assert found.step == 4
    assert "step-00000008 is skipped" in caplog.text
    assert says in caplog.text


def test_a_checkpoint_of_another_layout_is_skipped(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    save(store, 4)
    other = CheckpointStore(store.folder, {"strategy": "zero3", "processes": 2})
    assert other.newest_valid() is None
    assert "was written under {'strategy': 'single'" in caplog.text


def test_a_half_written_one_does_not_count(store: CheckpointStore) -> None:
    save(store, 4)
    half = store.saving / "checkpoint-8"
    half.mkdir(parents=True)
    (half / "adapter.safetensors").write_bytes(b"half")
    found = store.newest_valid()
    assert found is not None
    assert found.step == 4
    store.clear_saving()
    assert not store.saving.exists()


def test_keeping_never_touches_the_newest(store: CheckpointStore) -> None:
    newest = save(store, 4)
    store.keep(1)
    assert newest.is_dir()
    shutil.rmtree(newest)
