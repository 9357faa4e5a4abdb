"""The lake on three filesystems: a local disk, memory, and a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.lake import MANIFEST, Lake


@pytest.fixture(params=["file", "memory", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake on each filesystem."""
    name = f"lake-{uuid.uuid4().hex[:8]}"
    if request.param == "file":
        return Lake(f"file://{tmp_path}/lake")
    if request.param == "memory":
        return Lake(f"memory://{name}")
    return s3_lake(name, request.getfixturevalue("s3_endpoint"))


def s3_lake(bucket: str, endpoint: str) -> Lake:
    lake = Lake(f"s3://{bucket}/lake", key="test", secret="test", client_kwargs={"endpoint_url": endpoint})
    lake.fs.mkdir(bucket)
    return lake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them deeper and not ASCII."""
    source = tmp_path / "made"
    (source / "deep").mkdir(parents=True)
    (source / "rows.txt").write_text("grün\n", encoding="utf-8")
    (source / "deep" / "more.bin").write_bytes(bytes(range(256)))
    return source


def publish(lake: Lake, folder: Path, version: str = "v1", **more: Any) -> None:
    lake.publish(folder, kind="datasets", name="tickets", version=version, **more)


def test_a_published_version_comes_back_whole(lake: Lake, folder: Path, tmp_path: Path) -> None:
    publish(lake, folder, metrics={"rows": 3}, inputs={"contract": "abc"})
    manifest = lake.manifest("datasets", "tickets", "v1")
    assert manifest is not None
    assert [(entry.path, entry.bytes) for entry in manifest.files] == [("deep/more.bin", 256), ("rows.txt", 6)]
    assert manifest.files[0].sha256 == hashlib.sha256(bytes(range(256))).hexdigest()
    assert (manifest.metrics, manifest.inputs) == ({"rows": 3}, {"contract": "abc"})
    local = lake.fetch("datasets", "tickets", "v1", tmp_path / "fetched")
    assert (local / "rows.txt").read_text(encoding="utf-8") == "grün\n"
    assert (local / "deep" / "more.bin").read_bytes() == bytes(range(256))


def test_the_second_publish_of_a_version_changes_nothing(lake: Lake, folder: Path) -> None:
    publish(lake, folder)
    first = lake.manifest("datasets", "tickets", "v1")
    (folder / "rows.txt").write_text("other")
    publish(lake, folder)
    assert lake.manifest("datasets", "tickets", "v1") == first
    with lake.open("datasets/tickets/versions/v1/rows.txt") as file:
        assert file.read().decode() == "grün\n"


def test_without_its_manifest_a_version_is_not_there(lake: Lake, folder: Path, tmp_path: Path) -> None:
    publish(lake, folder)
    lake.fs.rm(str(lake._version_path("datasets", "tickets", "v1") / MANIFEST))
    assert lake.manifest("datasets", "tickets", "v1") is None
    assert lake.versions("datasets", "tickets") == []
    with pytest.raises(BadData, match="no such version"):
        lake.fetch("datasets", "tickets", "v1", tmp_path / "fetched")


def test_versions_are_listed_oldest_first(lake: Lake, folder: Path) -> None:
    assert lake.versions("datasets", "tickets") == []
    for version in ("b", "a", "c"):
        publish(lake, folder, version)
    found = lake.versions("datasets", "tickets")
    assert {manifest.version for manifest in found} == {"a", "b", "c"}
    assert found == sorted(found, key=lambda manifest: (manifest.created_at, manifest.version))


def test_a_pointer_moves_only_to_what_is_there(lake: Lake, folder: Path) -> None:
    assert lake.pointer("datasets", "tickets", "current") is None
    with pytest.raises(BadData, match="'current' stays where it is"):
        lake.move_pointer("datasets", "tickets", "current", "v1")
    publish(lake, folder)
    lake.move_pointer("datasets", "tickets", "current", "v1", reason="first")
    publish(lake, folder, "v2")
    with pytest.raises(BadData):
        lake.move_pointer("datasets", "tickets", "current", "v3")
    pointer = lake.pointer("datasets", "tickets", "current")
    assert pointer is not None
    assert (pointer.version, pointer.reason) == ("v1", "first")


def test_who_published_is_in_the_manifest(lake: Lake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMJOBS_RUN_ID", "night-1")
    publish(lake, folder)
    manifest = lake.manifest("datasets", "tickets", "v1")
    assert manifest is not None
    assert manifest.produced_by["run_id"] == "night-1"


def test_files_beside_the_versions_are_found_and_read(lake: Lake) -> None:
    with lake.open("raw/tickets/a.json", "wb") if not lake._local else _made(lake) as file:
        file.write(b"[]")
    lake.fs.invalidate_cache()
    assert lake.find("raw/tickets/*.json") == ["raw/tickets/a.json"]
    assert lake.find("raw/nothing/*") == []
    with lake.open("raw/tickets/a.json") as file:
        assert file.read() == b"[]"


def _made(lake: Lake) -> Any:
    Path(lake._root, "raw", "tickets").mkdir(parents=True)
    return lake.open("raw/tickets/a.json", "wb")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../etc"])
def test_a_name_is_one_plain_segment(lake: Lake, folder: Path, name: str) -> None:
    with pytest.raises(BadConfig, match="one plain path segment"):
        lake.manifest("datasets", name, "v1")
    with pytest.raises(BadConfig, match="one plain path segment"):
        lake.publish(folder, kind="datasets", name="tickets", version=name)


def test_the_lake_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMJOBS_LAKE_URL", f"file://{tmp_path}/")
    assert Lake.from_environment().url == f"file://{tmp_path}"
    monkeypatch.delenv("LLMJOBS_LAKE_URL")
    with pytest.raises(BadConfig, match="LLMJOBS_LAKE_URL is not set"):
        Lake.from_environment()


def test_a_remote_lake_has_no_working_folder(lake: Lake) -> None:
    folder = lake.working_folder("checkpoints", "run-1")
    assert (folder is not None) == lake._local
    assert folder is None or folder.is_dir()


# --- what a crash leaves, on a local disk


@pytest.mark.parametrize("fatal", ["copy", "manifest", "rename"])
def test_a_crash_before_the_rename_leaves_no_version(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: str
) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    publish(lake, folder, "v0")

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if fatal == "copy":
            patch.setattr(shutil, "copyfile", crash)
        elif fatal == "manifest":
            patch.setattr("llmjobs.lake._write_synced", crash)
        else:
            patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(lake, folder)
    assert [manifest.version for manifest in lake.versions("datasets", "tickets")] == ["v0"]
    publish(lake, folder)
    assert {manifest.version for manifest in lake.versions("datasets", "tickets")} == {"v0", "v1"}


def test_what_a_killed_process_left_behind_is_no_version(folder: Path, tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    publish(lake, folder)
    versions = tmp_path / "lake/datasets/tickets/versions"
    shutil.copytree(versions / "v1", versions / ".v2.0123")
    assert [manifest.version for manifest in lake.versions("datasets", "tickets")] == ["v1"]


def test_the_slower_of_two_publishers_keeps_what_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    other = Lake(lake.url)
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        with monkeypatch.context() as inner:
            inner.setattr(Path, "rename", rename)
            publish(other, folder, metrics={"winner": True})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    manifest = lake.publish(folder, kind="datasets", name="tickets", version="v1", metrics={"winner": False})
    assert manifest.metrics == {"winner": True}
    assert os.listdir(tmp_path / "lake/datasets/tickets/versions") == ["v1"]  # noqa: PTH208  hidden ones too


def test_a_file_that_changed_on_its_way_is_refused(folder: Path, tmp_path: Path) -> None:
    lake = Lake(f"memory://lake-{uuid.uuid4().hex[:8]}")
    publish(lake, folder)
    lake.fs.pipe_file(str(lake._version_path("datasets", "tickets", "v1") / "rows.txt"), b"other")
    with pytest.raises(BadData, match="SHA-256 is not the manifest's"):
        lake.fetch("datasets", "tickets", "v1", tmp_path / "fetched")


def test_a_remote_manifest_is_written_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(f"memory://lake-{uuid.uuid4().hex[:8]}")
    written: list[str] = []
    put, pipe = lake.fs.put_file, lake.fs.pipe_file

    def put_file(source: str, target: str) -> None:
        written.append(target)
        put(source, target)

    def pipe_file(target: str, content: bytes) -> None:
        written.append(target)
        pipe(target, content)

    monkeypatch.setattr(lake.fs, "put_file", put_file)
    monkeypatch.setattr(lake.fs, "pipe_file", pipe_file)
    publish(lake, folder)
    assert [Path(path).name for path in written][-1] == MANIFEST
    assert len(written) == 3
