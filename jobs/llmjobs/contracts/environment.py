"""Names of the environment variables through which Airflow speaks to a job."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass

CONFIG = "LLMJOBS_CONFIG"
"""The job's whole config as JSON."""

RESULT = "LLMJOBS_RESULT"
"""Path where the job writes its result; pods write to `POD_RESULT_PATH`, the XCom sidecar's file."""

POD_RESULT_PATH = "/airflow/xcom/return.json"

LAKE_URL = "LLMJOBS_LAKE_URL"
DATABASE_URL = "LLMJOBS_DATABASE_URL"
MLFLOW_URL = "MLFLOW_TRACKING_URI"

CONNECTIONS = (LAKE_URL, DATABASE_URL, MLFLOW_URL)
"""Where things are. Secret references in pods, an allow-list from the environment locally, never in a config."""

STORAGE_OPTIONS = "LLMJOBS_STORAGE_OPTIONS"
"""fsspec options, as JSON, of the sources of a job whose config names a `connection`: ``{"key": ..., "secret": ...}``.

From Airflow's connection locally, from a Secret in pods; never in a config, never logged."""

DAG_ID = "LLMJOBS_DAG_ID"
RUN_ID = "LLMJOBS_RUN_ID"
TASK_ID = "LLMJOBS_TASK_ID"
MAP_INDEX = "LLMJOBS_MAP_INDEX"
TRY = "LLMJOBS_TRY"
CODE_VERSION = "LLMJOBS_CODE_VERSION"

WORK_FOLDER = "LLMJOBS_WORK_FOLDER"
"""Folder for checkpoints that outlives the machine, shared by all nodes of a training; not set: see `Lake`."""

IMAGE = "LLMJOBS_IMAGE"
"""Image of the job's pod, by digest where the setting names it so; not set locally."""


@dataclass(frozen=True)
class Identity:
    """Which Airflow task try a job runs for; all empty when it was started by hand."""

    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 0
    code_version: str = ""

    @classmethod
    def from_environment(cls) -> Identity:
        """Read the identity that the operator put into the environment."""
        env = os.environ
        return cls(
            dag_id=env.get(DAG_ID, ""),
            run_id=env.get(RUN_ID, ""),
            task_id=env.get(TASK_ID, ""),
            map_index=int(env.get(MAP_INDEX, "-1")),
            try_number=int(env.get(TRY, "0")),
            code_version=env.get(CODE_VERSION, ""),
        )

    def as_dict(self) -> dict[str, str | int]:
        """Return the identity as manifest and lineage fields."""
        return asdict(self)

    @property
    def live_path(self) -> str:
        """Path, in the lake, of the file that names the adapter that the task trains, whatever its try."""
        of = "\n".join((self.dag_id, self.run_id, self.task_id, str(self.map_index)))
        return f"work/live/{hashlib.sha256(of.encode()).hexdigest()[:24]}.json"
