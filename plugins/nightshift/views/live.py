"""The chart of a training task, on a tab of its page: loss and utilisation, while it runs and afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from llmjobs.contracts.environment import Identity
from llmjobs.contracts.errors import BadConfig
from nightshift.views.lake_files import LakeFiles

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    )
}
"""Our own script and style, and the figures: nothing from elsewhere, nothing inline."""

FIGURES = ("step", "loss", "tokens_per_second", "cpu_cores", "memory_gib", "gpu_percent", "gpu_memory_gib")
MOST_POINTS = 600
_FOLDER = Path(__file__).parent
_TYPES = {"live.html": "text/html", "live.js": "text/javascript", "live.css": "text/css"}

NOTHING = "This task has trained nothing that is known here. The tab is for training tasks, once they have begun."
NO_STEP = (
    "No step is to be seen. Either none is done yet, or the training runs beside a lake that is remote: then each step "
    "is in the task's log, and the chart is here when it has ended."
)


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
    """Return what a task has trained so far: ``steps``, ``done``, and a ``sentence`` where there is no step."""
    named = lake.text(task.live_path)
    if named is None:
        return {"steps": [], "done": False, "sentence": NOTHING}
    adapter = json.loads(named)
    name, version = adapter["name"], adapter["version"]
    published = lake.text(f"adapters/{name}/versions/{version}/metrics.jsonl")
    text = published or lake.text(f"work/adapters/{name}/{version}/metrics.jsonl") or ""
    steps = _thinned(_lines(text))
    sentence = "" if steps else NO_STEP
    return {"name": name, "version": version, "steps": steps, "done": published is not None, "sentence": sentence}


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
