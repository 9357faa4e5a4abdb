"""What "healthy" means: the API answers, every component beats, MLflow answers, and the DAG files are parsed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from embedded.api import Api, Refused, Unreachable, fetch, fetch_json
from embedded.environment import airflow_url, mlflow_url
from embedded.errors import StackError
from embedded.home import REPOSITORY, Home, Ports

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


@dataclass
class Health:
    """What is not well yet; empty when all is well."""

    waiting_for: list[str] = field(default_factory=list)
    import_errors: dict[str, str] = field(default_factory=dict)


def check(home: Home, ports: Ports, *, since: datetime | None = None) -> Health:
    """Ask every component once.

    Args:
        home: The stack's home.
        ports: Its ports.
        since: DAG files must have been parsed after this moment, or just once when it is None.
    """
    health = Health()
    api = Api.of(home, ports)
    try:
        health.waiting_for += _components(api)
        _check_dags(api, health, since)
    except (Unreachable, Refused):
        health.waiting_for.append("api-server")
    if not _answers(f"{mlflow_url(ports)}/health"):
        health.waiting_for.append("mlflow")
    return health


def wait(
    home: Home, ports: Ports, *, since: datetime, patience_seconds: float = 300.0, say: Callable[[str], None]
) -> Health:
    """Wait until everything is well, and say what is waited for.

    Raises:
        StackError: Something is not well within `patience_seconds`; names it and its log.
    """
    deadline = time.monotonic() + patience_seconds
    said = ""
    while True:
        health = check(home, ports, since=since)
        missing = ", ".join(health.waiting_for)
        if not missing:
            return health
        if missing != said:
            say(f"waiting for {missing}")
            said = missing
        if time.monotonic() > deadline:
            raise StackError(f"not healthy after {patience_seconds:.0f} s: {missing}; see {home.logs}")
        time.sleep(0.5)


def wait_for_api(home: Home, ports: Ports, *, patience_seconds: float = 180.0) -> None:
    """Wait until Airflow's API answers.

    Raises:
        StackError: It does not within `patience_seconds`; names its log.
    """
    deadline = time.monotonic() + patience_seconds
    while not _answers(f"{airflow_url(ports)}/api/v2/version"):
        if time.monotonic() > deadline:
            log = home.logs / "api-server.log"
            raise StackError(f"Airflow's API does not answer after {patience_seconds:.0f} s; see {log}")
        time.sleep(0.25)


def expected_dags() -> dict[str, str]:
    """Return the id of each DAG that a YAML file makes, ``<folder>_<file>``, with that file's path below ``dags``."""
    folder = REPOSITORY / "dags"
    configs = [path for path in folder.glob("configs/*/*.yaml") if (folder / f"{path.parent.name}.py").exists()]
    return {f"{path.parent.name}_{path.stem}": path.relative_to(folder).as_posix() for path in configs}


def said_of(config: str, errors: dict[str, str]) -> list[str]:
    """Return the sentences of import errors on one config; the file they are filed under is ``check_configs.py``.

    Args:
        config: The YAML file's path below ``dags``.
        errors: DAG file -> stack trace.
    """
    lines = [line for trace in errors.values() for line in trace.splitlines()]
    return [line[line.index(f"{config}:") :] for line in lines if f"{config}:" in line]


def _components(api: Api) -> list[str]:
    fetch_json("GET", f"{api.base_url}/api/v2/version")
    answer = fetch_json("GET", f"{api.base_url}/api/v2/monitor/health")
    return [name for name in COMPONENTS if (answer.get(name) or {}).get("status") != "healthy"]


def _check_dags(api: Api, health: Health, since: datetime | None) -> None:
    """Add DAGs that are not parsed yet; a file or config with an import error is parsed, and its error is kept."""
    dags = api.get("dags", limit=1000)["dags"]
    fresh = {d["dag_id"] for d in dags if since is None or _moment(d["last_parsed_time"]) >= since}
    errors = api.get("importErrors", limit=1000)["import_errors"]
    # An error of an earlier start may be mended by now.
    new = [error for error in errors if since is None or _moment(error["timestamp"]) >= since]
    health.import_errors = {error["filename"]: error["stack_trace"] for error in new}
    missing = {dag: config for dag, config in expected_dags().items() if dag not in fresh}
    health.waiting_for += [
        f"DAG {dag}" for dag, config in sorted(missing.items()) if not _has_error(config, health.import_errors)
    ]


def _has_error(config: str, errors: dict[str, str]) -> bool:
    """Return whether `config`, or the DAG file that reads it, has an import error."""
    dag_file = f"{Path(config).parent.name}.py"
    return any(Path(name).name == dag_file for name in errors) or bool(said_of(config, errors))


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.fromtimestamp(0, UTC)
    return datetime.fromisoformat(text)


def _answers(url: str) -> bool:
    try:
        return fetch("GET", url, None, {}, 5.0)[0] == 200
    except Unreachable:
        return False
