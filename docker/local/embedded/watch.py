"""Follows runs to their end: one line for each task that changes its state, and how far a training is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from embedded.api import Api, Refused, Unreachable, segment
from embedded.errors import StackError

POLL_SECONDS = 1.5
PROGRESS_SECONDS = 15.0
STALLED_SECONDS = 900.0
ENDED = {"success", "failed"}
QUIET = {None, "scheduled", "queued", "removed"}
"""States that pass in a moment and tell a reader nothing."""


@dataclass(frozen=True)
class Followed:
    """One DAG run that is watched.

    Attributes:
        started: ``run_after`` of the run, ISO 8601.
    """

    dag_id: str
    run_id: str
    started: str = ""

    @property
    def path(self) -> str:
        """Return the run's path in the API."""
        return f"dags/{self.dag_id}/dagRuns/{segment(self.run_id)}"

    def page(self, base_url: str) -> str:
        """Return the run's page."""
        return f"{base_url}/dags/{self.dag_id}/runs/{segment(self.run_id)}"


@dataclass
class Watch:
    """Prints what happens in some runs until all have ended."""

    api: Api
    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    _states: dict[tuple[str, str, int], tuple[str, int]] = field(default_factory=dict)
    _said: dict[tuple[str, str], str] = field(default_factory=dict)
    _asked: dict[tuple[str, str], float] = field(default_factory=dict)
    _moved: float = field(default_factory=time.monotonic)

    def until_done(self, runs: list[Followed]) -> list[Followed]:
        """Watch until every run has ended, and return those that failed.

        Raises:
            StackError: Nothing moved for a quarter of an hour, or the API is gone.
        """
        self._moved = time.monotonic()
        states: dict[str, str] = {}
        while set(states) != {run.dag_id for run in runs} or not set(states.values()) <= ENDED:
            for run in runs:
                if states.get(run.dag_id) not in ENDED:
                    states[run.dag_id] = self._look(run)
            if time.monotonic() - self._moved > STALLED_SECONDS:
                raise StackError(
                    f"nothing moved for {STALLED_SECONDS / 60:.0f} minutes; see `make status` and the logs"
                )
            time.sleep(POLL_SECONDS)
        return [run for run in runs if states[run.dag_id] == "failed"]

    def _look(self, run: Followed) -> str:
        """Look at one run once: print what is new, and return its state."""
        try:
            state = str(self.api.get(run.path)["state"])
            tasks = self.api.get(run.path + "/taskInstances", limit=1000)["task_instances"]
        except Unreachable:
            return ""  # supervisor starts a lost API server again; the stall limit covers the rest
        for task in sorted(tasks, key=lambda task: str(task["start_date"])):
            self._report(run, task)
        if state in ENDED:
            self._line(run.dag_id, "", f"run {state}")
        return state

    def _report(self, run: Followed, task: dict[str, Any]) -> None:
        key = (run.dag_id, task["task_id"], task["map_index"])
        now = (str(task["state"]), int(task["try_number"]))
        if self._states.get(key) != now:
            self._states[key] = now
            self._moved = time.monotonic()
            if task["state"] not in QUIET:
                self._line(run.dag_id, name_of(task), describe(task))
        if task["state"] == "running":
            self._progress(run, task)

    def _progress(self, run: Followed, task: dict[str, Any]) -> None:
        """Print the last progress line of a running task's log, when there is a new one."""
        key = (run.dag_id, name_of(task))
        if time.monotonic() - self._asked.get(key, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return
        self._asked[key] = time.monotonic()
        path = f"{run.path}/taskInstances/{segment(task['task_id'])}/logs/{max(task['try_number'], 1)}"
        lines: list[Any] = []
        with suppress(Unreachable, Refused):  # the log is slow, or not there yet: the next look has it
            lines = self.api.get(path, full_content="true", map_index=task["map_index"]).get("content", [])
        progress = [found for line in lines if (found := progress_in(text_of(line)))]
        if progress and self._said.get(key) != progress[-1]:
            self._said[key] = progress[-1]
            self._moved = time.monotonic()
            self._line(*key, progress[-1])

    def _line(self, dag_id: str, task: str, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.0f} s  {dag_id:<30} {task:<34} {text}")


def name_of(task: dict[str, Any]) -> str:
    """Return what a person calls the task: its id, and its name or number when it is mapped."""
    index = task.get("rendered_map_index") or task["map_index"]
    return f"{task['task_id']} [{index}]" if task["map_index"] >= 0 else str(task["task_id"])


def describe(task: dict[str, Any]) -> str:
    """Return the task's state, with its duration when it has ended."""
    again = f", try {task['try_number']}" if task["try_number"] > 1 else ""
    seconds = f" in {task['duration']:.0f} s" if task["state"] == "success" and task["duration"] else ""
    return f"{task['state']}{seconds}{again}".replace("_", " ")


def text_of(line: Any) -> str:
    """Return the text of one line of a log."""
    return str(line.get("event", "")) if isinstance(line, dict) else str(line)


def progress_in(event: str) -> str:
    """Return how far a job is, ``step 12/80 loss 0.41 ... left 2m10s``, or nothing when the line says no such thing."""
    found = re.search(r"\bstep \d+/\d+\b.*", event)
    return found.group() if found else ""
