"""The set-up: what it does without rights, that it does nothing twice, and what it hands to uv."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import bootstrap
import lock
from embedded.home import REPOSITORY

MISSING = bootstrap.Need("Chromium", lambda: False, ("chromium", "fonts-liberation"))
COMPILER = bootstrap.Need("a C++ compiler", lambda: False, ("g++",))
THERE = bootstrap.Need("a shell", lambda: True, ("dash",))


def test_without_root_and_sudo_the_exact_line_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "apt-get").symlink_to("/bin/false")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        bootstrap.satisfy([MISSING, THERE, COMPILER])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Chromium, a C++ compiler missing" in said
    line = "sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium fonts-liberation g++\n"
    assert line in said


def test_nothing_is_installed_when_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # neither apt-get nor sudo can be called
    bootstrap.satisfy([THERE])


def test_install_that_brings_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package manager says yes and the tool is still not there."""
    (tmp_path / "apt-get").symlink_to("/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        bootstrap.satisfy([COMPILER])


def test_setup_done_once_does_nothing() -> None:
    assert bootstrap.STAMP.read_text() == bootstrap.stamp(), "make setup first"
    before = bootstrap.STAMP.stat().st_mtime_ns
    done = subprocess.run(
        ["make", "--no-print-directory", "setup"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert bootstrap.STAMP.stat().st_mtime_ns == before


def test_stamp_follows_the_lock_and_the_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stamps = {bootstrap.stamp()}
    for name in ("LOCK", "MODELS"):
        changed = tmp_path / name
        changed.write_text(getattr(bootstrap, name).read_text() + "another==1\n")
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, name, changed)
            stamps.add(bootstrap.stamp())
    assert len(stamps) == 3


def test_uv_gets_pips_wheels_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "/a /b")
    assert bootstrap.uv_environment()["UV_FIND_LINKS"] == "/a,/b"
    monkeypatch.setenv("UV_FIND_LINKS", "/mine")
    assert bootstrap.uv_environment()["UV_FIND_LINKS"] == "/mine"


def test_pips_configuration_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nfind-links = /from/the/file\n")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert bootstrap.pip_option("find-links") == "/from/the/file"
    assert bootstrap.pip_option("index-url") == ""


def test_lock_without_uv_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(lock, "BINARIES", tmp_path)
    with pytest.raises(SystemExit):
        lock.main()
    assert f"`{tmp_path}/pip install uv`" in capsys.readouterr().err


def test_local_version_labels_leave_the_lock() -> None:
    assert lock.plain("torch==2.13.0+cpu\n    # via x+y\nab==1\n") == "torch==2.13.0\n    # via x+y\nab==1\n"
