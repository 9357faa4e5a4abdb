"""Checkpoints: whole or not there, and a damaged one is named and skipped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.training import EarlyStopping
from llmjobs.training.state.checkpoints import MANIFEST, CheckpointStore
from llmjobs.training.state.selection import Selection

LAYOUT: dict[str, Any] = {"strategy": "single", "processes": 1, "micro_batch_size": 4}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", LAYOUT)


def save(store: CheckpointStore, step: int, best_step: int | None = None) -> Path:
    written = store.saving / f"checkpoint-{step}"
    (written / "global_step").mkdir(parents=True)
    (written / "adapter.safetensors").write_bytes(b"weights %d" % step)
    (written / "global_step" / "optimizer.pt").write_bytes(b"state %d" % step)
    return store.publish(written, step=step, total_steps=10, best_step=best_step).path


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


def test_a_checkpoint_of_another_layout_is_gone_on_from_and_named(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 4)
    other = CheckpointStore(store.folder, {"strategy": "zero3", "processes": 2, "micro_batch_size": 2})
    found = other.newest_valid()
    assert found is not None
    with caplog.at_level(logging.WARNING):
        other.go_on_from(found)
    sentence = "elastic: from step 4 on zero3 with 2 x 2 rows, before single with 1 x 4 rows"
    assert sentence in caplog.text
    save(other, 8)
    after = other.newest_valid()
    assert after is not None
    assert [note[: len(sentence)] for note in after.notes()] == [sentence]
    again = CheckpointStore(store.folder, other.layout)
    again.go_on_from(after)
    assert again.layouts == after.layouts, "the same layout is no change"


def test_a_checkpoint_of_another_format_is_skipped(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    manifest = save(store, 4) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    with caplog.at_level(logging.WARNING):
        assert store.newest_valid() is None
    assert "step-00000004 is skipped: it has the format 1, this version reads 2" in caplog.text


def test_the_best_stays_and_is_what_is_published(store: CheckpointStore) -> None:
    for step, best in ((2, 2), (4, 4), (6, 4), (10, 4)):
        save(store, step, best_step=best)
        store.keep(1, best_step=best)
    assert sorted(path.name for path in store.folder.glob("step-*")) == ["step-00000004", "step-00000010"]
    newest = store.newest_valid()
    assert newest is not None
    assert newest.adapter_path == store.folder / "step-00000004"
    assert newest.notes() == ["the adapter is that of step 4, which has the lowest validation loss"]


def test_without_its_best_a_checkpoint_does_not_count(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    save(store, 2)
    damage_flip(save(store, 8, best_step=8))
    save(store, 10, best_step=8)
    with caplog.at_level(logging.WARNING):
        found = store.newest_valid()
    assert found is not None
    assert found.step == 2
    assert "of its best checkpoint, step-00000008, global_step/optimizer.pt is not what its hash says" in caplog.text


def history(*losses: float) -> list[dict[str, Any]]:
    return [{"step": 5 * place, "eval_loss": loss} for place, loss in enumerate(losses, start=1)] + [{"loss": 0.0}]


@pytest.mark.parametrize(
    ("losses", "best", "ends"),
    [
        ((), None, False),
        ((2.0, 1.0, 1.1), 10, False),
        ((2.0, 1.0, 1.1, 1.0), 10, True),
        ((2.0, 1.0, 0.95, 0.91), 20, True),
        ((2.0, 1.0, 1.1, 0.8), 20, False),
    ],
)
def test_the_run_ends_when_the_validation_loss_falls_no_more(
    losses: tuple[float, ...], best: int | None, ends: bool
) -> None:
    selection = Selection(wanted=True, early_stopping=EarlyStopping(patience=2, min_delta=0.1))
    assert selection.best_step(history(*losses)) == best
    assert selection.exhausted(history(*losses)) == ends


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
