"""Adapters that a person took out of use: no night makes one of them champion again by itself.

``adapters/<name>/withdrawn.json`` in the lake says when, by whom and why.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime

from llmjobs.contracts.environment import Identity
from llmjobs.lake import Lake
from llmjobs.training.identity import ADAPTERS


def is_withdrawn(lake: Lake, name: str, version: str) -> str:
    """Return a sentence that says when, by whom and why an adapter was withdrawn; empty where it was not."""
    mark = _marks(lake, name).get(version)
    if mark is None:
        return ""
    return (
        f"version {version} was withdrawn by {mark['by']} at {mark['at']} ({mark['reason']}), so it does not become "
        "champion by itself; rolling back to it takes the mark away"
    )


def withdraw(lake: Lake, name: str, version: str, *, reason: str) -> None:
    """Mark an adapter, unless it is marked."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _write(lake, name, {version: {"at": now, "by": _who(), "reason": reason}, **_marks(lake, name)})


def reinstate(lake: Lake, name: str, version: str) -> None:
    """Take an adapter's mark away, if it has one."""
    marks = _marks(lake, name)
    if marks.pop(version, None) is not None:
        _write(lake, name, marks)


def _who() -> str:
    """Return the run that this process works for, else the user of the machine."""
    identity = Identity.from_environment()
    if identity.dag_id:
        return f"{identity.dag_id} {identity.run_id}"
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "somebody"


def _path(name: str) -> str:
    return f"{ADAPTERS}/{name}/withdrawn.json"


def _marks(lake: Lake, name: str) -> dict[str, dict[str, str]]:
    return dict(json.loads(lake.read_text(_path(name)) or "{}"))


def _write(lake: Lake, name: str, marks: dict[str, dict[str, str]]) -> None:
    lake.write_text(_path(name), json.dumps(marks, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
