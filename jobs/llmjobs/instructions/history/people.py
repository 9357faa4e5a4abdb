"""Who does something to a dataset: an Airflow run, or a person at a shell."""

from __future__ import annotations

import getpass

from llmjobs.contracts.environment import Identity


def who() -> str:
    """Return the run that this process works for, else the user of the machine."""
    identity = Identity.from_environment()
    if identity.dag_id:
        return f"{identity.dag_id} {identity.run_id}"
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "somebody"
