"""The ``[nightshift]`` section of Airflow's configuration, read when a task executes unless it says otherwise.

runner                   local | kubernetes: where jobs run (default local)
image                    image of a job's pod (read when the DAG is parsed)
namespace                namespace of pods; empty: the provider's choice
connections_secret       Secret with one key for each variable of `llmjobs.contracts.environment.CONNECTIONS`, and
                         LLMJOBS_STORAGE_OPTIONS.<connection id> for each `connection` that a config names
work_claim               PersistentVolumeClaim for checkpoints (read when the DAG is parsed): a training goes on from
                         them on another machine; ReadWriteMany, and needed, where dist.nodes is above 1
code_version             version of the jobs' code; empty: the git bundle's commit or a digest of the code
relaunches               how often one try starts an interrupted job again (default 5)
local_environment        more variables that a local job may see, separated by commas
pods_share_this_machine  True only where "pods" are processes of this machine, as in our tests
kubeconfig               path of a kubeconfig; empty: in-cluster or the connection
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk.configuration import conf

from nightshift.failures import BadConfig

SECTION = "nightshift"
RUNNERS = ("local", "kubernetes")


def runner() -> str:
    """Return where jobs run: ``local`` or ``kubernetes``.

    Raises:
        BadConfig: The configuration names another runner.
    """
    name = text("runner", "local")
    if name not in RUNNERS:
        raise BadConfig(f"[{SECTION}] runner is {name!r}; set it to one of: {', '.join(RUNNERS)}")
    return name


def relaunches() -> int:
    """Return how often one try starts an interrupted job again."""
    return int(conf.getint(SECTION, "relaunches", fallback=5))


def pods_share_this_machine() -> bool:
    """Return whether pods see this machine's files and sockets: true in tests only."""
    return bool(conf.getboolean(SECTION, "pods_share_this_machine", fallback=False))


def local_environment() -> tuple[str, ...]:
    """Return the names of further variables that a local job may see."""
    return tuple(name.strip() for name in text("local_environment", "").split(",") if name.strip())


def text(option: str, fallback: str) -> str:
    """Return one option as text; an empty one counts as absent."""
    return str(conf.get(SECTION, option, fallback=fallback) or fallback).strip()


def home() -> Path:
    """Return the folder with Nightshift's state: ``$NIGHTSHIFT_HOME``, else a folder below ``$AIRFLOW_HOME``."""
    named = os.environ.get("NIGHTSHIFT_HOME")
    return Path(named) if named else Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "nightshift"
