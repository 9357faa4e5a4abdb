"""Which version of the jobs' code a run used."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nightshift import settings


def code_version(context: Any = None) -> str:
    """Return the configured version, else the commit of the run's git bundle, else a digest of the code.

    Args:
        context: Airflow's task context, if there is one: a run of a versioned DAG bundle carries its commit.
    """
    configured = settings.text("code_version", "")
    if configured:
        return configured
    run = context.get("dag_run") if context else None
    return getattr(run, "bundle_version", None) or digest_of_code()


@cache
def digest_of_code() -> str:
    """Return ``code-`` and 12 hex digits: the SHA-256 over names and bytes of the installed ``llmjobs``."""
    spec = find_spec("llmjobs")
    assert spec is not None, "llmjobs is not on the path"
    assert spec.origin is not None, "llmjobs has no __init__.py"
    root = Path(spec.origin).parent
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in {".py", ".sql", ".j2", ".html"}):
        total.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return f"code-{total.hexdigest()[:12]}"
