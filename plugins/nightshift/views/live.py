"""The chart of a training task, on a tab of its page: loss and utilisation, while it runs and afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from llmjobs.contracts.environment import Identity
from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training_results import TrainingPhase
from nightshift.views.lake_files import LakeFiles

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    )
}
"""Our own script and style, and the figures: nothing from elsewhere, nothing inline."""

FIGURES = (
    "step", "loss", "tokens_per_second", "mfu", "tflops_per_device", "cpu_cores", "memory_gib", "gpu_percent",
    "gpu_memory_gib",
)  # fmt: skip
MOST_POINTS = 600
_FOLDER = Path(__file__).parent
_TYPES = {"live.html": "text/html", "live.js": "text/javascript", "live.css": "text/css"}

NOTHING = "This task has trained nothing that is known here. The tab is for training tasks, once they have begun."
NO_STEP = (
    "No step is to be seen. Either none is done yet, or the training runs beside a lake that is remote: then each step "
    "is in the task's log, and the chart is here when it has ended."
)
PHASES: dict[TrainingPhase, str] = {
    "starting": "Looking up dataset and base",
    "waiting": "Waiting for another run that trains this adapter",
    "tokenising": "Tokenising all rows",
    "loading": "Loading the base",
    "trying": "Trying the longest batch",
    "training": "Training",
    "validating": "Validating",
    "saving": "Saving a checkpoint",
    "testing": "Testing the adapter",
    "publishing": "Publishing the adapter",
    "stopped": "Stopped before the end; the task's log says why",
}
_SILENT_SECONDS = 120


def add_live_pages(app: FastAPI) -> None:
    """Add the page, its parts and its figures; who may read the task may read them."""
    readable = [Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))]
    app.add_api_route("/training/", lambda: _file("live.html"), dependencies=readable)
    app.add_api_route("/training/live.js", lambda: _file("live.js"))
    app.add_api_route("/training/live.css", lambda: _file("live.css"))
    app.add_api_route("/training/steps", show_steps, dependencies=readable)


def show_steps(request: Request) -> JSONResponse:
    """Return the steps of the task that the query names."""
    try:
        return JSONResponse(steps_of(LakeFiles(), _task(request.query_params)))
    except BadConfig as error:
        raise HTTPException(503, str(error)) from None


def steps_of(lake: LakeFiles, task: Identity) -> dict[str, Any]:
    """Return what a task has trained so far.

    Returns:
        ``steps``, ``done``, a ``sentence`` where there is no step, and the ``progress`` of one that is not done.
    """
    named = lake.text(task.live_path)
    if named is None:
        return {"steps": [], "done": False, "sentence": NOTHING, "progress": ""}
    adapter = json.loads(named)
    name, version = adapter["name"], adapter["version"]
    published = lake.text(f"adapters/{name}/versions/{version}/metrics.jsonl")
    text = published or lake.text(f"work/adapters/{name}/{version}/metrics.jsonl") or ""
    steps = _thinned(_lines(text))
    return {
        "name": name,
        "version": version,
        "steps": steps,
        "done": published is not None,
        "sentence": "" if steps else NO_STEP,
        "progress": "" if published else progress_of(adapter, datetime.now(UTC)),
    }


def progress_of(said: Mapping[str, Any], now: datetime) -> str:
    """Return in one line what a training is at: phase, step, loss, speed, time left; and for how long it is silent.

    Args:
        said: The task's file, as `llmjobs.training.live` writes it.
        now: With its zone.
    """
    phase = said.get("phase")
    if phase not in PHASES:
        return ""
    parts = [PHASES[phase]]
    if "step" in said:
        parts[0] += f": step {said['step']} of {said['steps']}"
        parts += [f"loss {said['loss']:.4g}", f"{said['tokens_per_second']:,.0f} tokens/s"]
    if "step" in said and phase == "training":
        parts.append(f"{said['left']} left")
    silent = (now - datetime.fromisoformat(said["at"])).total_seconds()
    if silent > _SILENT_SECONDS and phase != "stopped":
        parts.append(f"nothing was heard for {silent / 60:.0f} minutes")
    return ", ".join(parts)


def _task(query: Mapping[str, str]) -> Identity:
    index = query.get("map_index", "")
    return Identity(
        dag_id=query.get("dag_id", ""),
        run_id=query.get("run_id", ""),
        task_id=query.get("task_id", ""),
        map_index=int(index) if index.isdecimal() else -1,
    )


def _lines(text: str) -> list[dict[str, Any]]:
    """Return the figures of each step; a last line that is being written is left for the next look."""
    found = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            break
        found.append({name: values[name] for name in FIGURES if name in values})
    return found


def _thinned(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every n-th step, the last one always, so that a page never draws more than it has pixels."""
    every = -(-len(steps) // MOST_POINTS) or 1
    return steps[::-1][::every][::-1]


def _file(name: str) -> Response:
    return FileResponse(_FOLDER / name, media_type=_TYPES[name], headers=HEADERS)
