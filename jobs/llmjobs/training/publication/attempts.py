"""Which processes have worked at a training, from which step and for how long: a list beside its checkpoints."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmjobs.contracts.base import Strict

ATTEMPTS = "attempts.json"


class Attempt(Strict):
    """One try of a run.

    Attributes:
        began_at: ISO 8601, UTC.
        from_step: Step of the checkpoint that it went on from; 0 when it began anew.
        layout: Strategy, processes and micro batch.
        devices: Name of each process' device.
        seconds: Until it ended; of one that was killed, until its last sign of life.
    """

    began_at: str
    from_step: int
    layout: dict[str, Any]
    devices: list[str]
    seconds: float = 0.0


def begin(folder: Path, attempt: Attempt, *, sign_of_life: Path) -> None:
    """Add an attempt; the one before, which may have been killed, ended when it last wrote `sign_of_life`."""
    before = read_attempts(folder)
    if before and not before[-1].seconds and sign_of_life.is_file():
        before[-1] = _ended(before[-1], sign_of_life.stat().st_mtime)
    _write(folder, [*before, attempt])


def end(folder: Path) -> list[Attempt]:
    """End the last attempt now; return them all."""
    attempts = read_attempts(folder)
    attempts[-1:] = [_ended(one, time.time()) for one in attempts[-1:]]
    _write(folder, attempts)
    return attempts


def read_attempts(folder: Path) -> list[Attempt]:
    """Return the attempts so far."""
    path = folder / ATTEMPTS
    return [Attempt(**one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def device_seconds(attempts: list[Attempt]) -> float:
    """Return devices times seconds over all attempts, loading and validation included."""
    return round(sum(len(one.devices) * one.seconds for one in attempts), 1)


def now() -> str:
    """Return the time as `Attempt.began_at` has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _ended(attempt: Attempt, at: float) -> Attempt:
    seconds = max(0.0, at - datetime.fromisoformat(attempt.began_at).timestamp())
    return attempt.model_copy(update={"seconds": round(seconds, 3)})


def _write(folder: Path, attempts: list[Attempt]) -> None:
    temporary = folder / f"{ATTEMPTS}.tmp"
    temporary.write_text(json.dumps([one.model_dump() for one in attempts], indent=1), encoding="utf-8")
    temporary.replace(folder / ATTEMPTS)
