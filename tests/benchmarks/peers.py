"""Environments of their own for the programs that we compare ourselves with, made once and kept in ``.cache``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "benchmarks"


class PeerMissingError(RuntimeError):
    """A peer cannot be installed or started here; the message says why, in one line."""


def environment(name: str, *requirements: str) -> Path:
    """Return the Python of a virtual environment that holds `requirements`; it is made where it is not there.

    Raises:
        PeerMissingError: They cannot be installed.
    """
    folder = ENVIRONMENTS / name
    python, record = folder / "bin" / "python", folder / "requirements.json"
    if record.is_file() and json.loads(record.read_text()) == list(requirements):
        return python
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements])
    record.write_text(json.dumps(requirements))
    return python


def output_of(python: Path, program: str, *arguments: str, folder: Path) -> str:
    """Return the standard output of a program in a peer's environment, which keeps its caches in `folder`.

    Raises:
        PeerMissingError: It failed.
    """
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    homes = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    return _run([str(python), "-c", program, *arguments], env=keep | homes)


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        raise PeerMissingError(f"{Path(command[0]).name} ended with {done.returncode}: {last[0].strip()[:300]}")
    return done.stdout
