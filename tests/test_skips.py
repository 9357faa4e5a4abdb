"""A skip with an unlisted reason fails the run; a listed one does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedded.home import REPOSITORY


@pytest.mark.parametrize(("reason", "code"), [("the moon is full", 1), ("../shared/data is not here", 0)])
def test_unlisted_skip_fails_the_run(tmp_path: Path, reason: str, code: int) -> None:
    (tmp_path / "test_one.py").write_text(
        f"import pytest\ndef test_it(): pytest.skip({reason!r})\ndef test_b(): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.skips", "-p", "no:kmock", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("not listed in tests/skips.py" in done.stdout) == bool(code)
