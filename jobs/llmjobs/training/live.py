"""Which adapter a task trains: a small file of the lake, by which the page of a running task finds its curves."""

from __future__ import annotations

import json

from llmjobs.contracts.environment import Identity
from llmjobs.lake import Lake
from llmjobs.training.identity import AdapterIdentity


def say_what_is_trained(lake: Lake, adapter: AdapterIdentity) -> None:
    """Write down the adapter of the task that this job runs for; nothing for a job started by hand."""
    task = Identity.from_environment()
    if task.dag_id:
        text = json.dumps({"name": adapter.config.name, "version": adapter.version})
        lake.write_text(task.live_path, text)
