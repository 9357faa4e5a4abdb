"""Play the Airflow process of a task: run the sample job as the first try. The test kills it with SIGKILL."""

from __future__ import annotations

import json
import logging
import sys

from kubernetes.client import models as k8s

from nightshift.runners.local import JobKey, LocalRunner

mode, folder, grace = sys.argv[1], sys.argv[2], float(sys.argv[3])
config = json.dumps({"mode": mode, "folder": folder})
container = k8s.V1Container(
    name="base",
    command=["python", "-m", "sample_job"],
    env=[k8s.V1EnvVar(name="LLMJOBS_CONFIG", value=config)],
)
key = JobKey("dag", "run", "task", -1)
LocalRunner(key, try_number=1, grace_seconds=grace, log=logging.getLogger("first")).run(container, relaunches=5)
