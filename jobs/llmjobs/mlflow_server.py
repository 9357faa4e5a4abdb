"""The MLflow server: whether it can be reached, and a client that does not wait long.

MLflow mirrors what the lake and the database hold; every job works, with a note, where it is absent.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmjobs.contracts.environment import MLFLOW_URL

REACHABLE_WITHIN_SECONDS = 3.0

# Of MLflow's client, whose own are 120 s and 7 retries: too long for a night that can do without.
_CLIENT_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Reached:
    """An MLflow that answered.

    Attributes:
        client: Its `MlflowClient`.
        url: Where it is.
    """

    client: Any
    url: str

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """Return the page of a run."""
        return f"{self.url}/#/experiments/{experiment_id}/runs/{run_id}"


def reach() -> tuple[Reached | None, str]:
    """Return MLflow, or None and one sentence why it is not used."""
    url = os.environ.get(MLFLOW_URL, "").rstrip("/")
    if not url:
        return None, f"MLflow is not used: {MLFLOW_URL} is not set"
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=REACHABLE_WITHIN_SECONDS).close()
    except (OSError, ValueError) as error:
        return None, f"MLflow at {url} was not reached ({error}); everything is in the lake, and is mirrored later"
    for name, value in _CLIENT_LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return Reached(MlflowClient(tracking_uri=url), url), ""
