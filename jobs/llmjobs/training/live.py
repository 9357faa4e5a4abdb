"""What the page of a running task shows: which adapter it trains, what it is at, and how far.

A small file of the lake, so that it is there for a lake that is remote too.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from llmjobs.contracts.environment import Identity
from llmjobs.contracts.training_results import TrainingPhase
from llmjobs.lake import Lake

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 5.0


class Live:
    """Writes the file when the phase changes, and of the steps one every few seconds.

    Args:
        lake: Where to; None says nothing, as for a job started by hand.
        path: Of the file, in the lake.
        name: Of the adapter.
        version: Of the adapter.
    """

    def __init__(self, lake: Lake | None, path: str, *, name: str, version: str) -> None:
        """Write nothing yet."""
        self._lake = lake
        self._path = path
        self._adapter = {"name": name, "version": version}
        self._phase: TrainingPhase | None = None
        self._step: dict[str, Any] = {}
        self._written = float("-inf")

    @classmethod
    def of_task(cls, lake: Lake, *, name: str, version: str, heard: bool = True) -> Live:
        """Return the file of the task that this job runs for; one that is not written for a job started by hand.

        Args:
            lake: Where to.
            name: Of the adapter.
            version: Of the adapter.
            heard: False for the processes that leave it to the first.
        """
        task = Identity.from_environment()
        return cls(lake if heard and task.dag_id else None, task.live_path, name=name, version=version)

    def phase(self, phase: TrainingPhase) -> None:
        """Say what the training is at now."""
        if phase != self._phase:
            self._phase = phase
            self._write()

    def step(self, number: int, steps: int, *, loss: float, tokens_per_second: float, left: str) -> None:
        """Say how far it is.

        Args:
            number: Of the step that is done.
            steps: Of the whole run.
            loss: Of the step.
            tokens_per_second: Of all devices since the process began.
            left: Time that is left, as people write it.
        """
        self._step = {
            "step": number, "steps": steps, "loss": loss, "tokens_per_second": tokens_per_second, "left": left,
        }  # fmt: skip
        if time.monotonic() - self._written >= _EVERY_SECONDS:
            self._write()

    @contextmanager
    def ending_told(self) -> Iterator[None]:
        """Say so where the block ends with an error."""
        try:
            yield
        except BaseException:
            self.phase("stopped")
            raise

    def _write(self) -> None:
        if self._lake is None:
            return
        self._written = time.monotonic()
        said = {**self._adapter, "phase": self._phase, "at": datetime.now(UTC).isoformat(), **self._step}
        try:
            self._lake.write_text(self._path, json.dumps(said))
        except Exception as error:  # an object store's client raises what it likes, and no training ends for a page
            logger.warning("the task's page could not be told what the training is at: %s", error)
