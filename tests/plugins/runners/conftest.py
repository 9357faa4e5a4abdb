"""A home of its own for each test, and containers that run the sample job."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import models as k8s

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = REPOSITORY / "tests" / "fixtures" / "programs"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set NIGHTSHIFT_HOME, and the path on which jobs find their modules."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(folder))
    path = [str(REPOSITORY / "jobs"), str(REPOSITORY / "plugins"), str(PROGRAMS)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return the folder in which the sample job leaves its traces."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


Sample = Callable[..., k8s.V1Container]


@pytest.fixture
def sample(home: Path, work: Path) -> Sample:
    """Return a function that makes a container of the sample job."""

    def make(mode: str, **fields: Any) -> k8s.V1Container:
        config = json.dumps({"mode": mode, "folder": str(work), **fields})
        variables = [k8s.V1EnvVar(name="LLMJOBS_CONFIG", value=config), k8s.V1EnvVar(name="HOME", value="/nowhere")]
        return k8s.V1Container(name="base", command=["python", "-m", "sample_job"], env=variables)

    return make


def until(condition: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """Poll until `condition` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """Return the polling function: conftest modules cannot be imported."""
    return until
