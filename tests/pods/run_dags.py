"""Run the DAGs of sample jobs with `dag.test`, all in one process, and write down what happened.

    python tests/pods/run_dags.py FOLDER KUBECONFIG

writes FOLDER/<runner>-<dag>/{states.json, results.json, failures.jsonl, log.txt}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

CASES = (("local", "jobs"), ("kubernetes", "jobs"), ("kubernetes", "faults"))


def redirect(path: Path) -> None:
    """Send this process' output to a file: its descriptors, for Airflow's loggers keep the stream objects."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def main(folder: Path, kubeconfig: str) -> None:
    os.environ["AIRFLOW__NIGHTSHIFT__KUBECONFIG"] = kubeconfig
    os.environ["AIRFLOW__NIGHTSHIFT__PODS_SHARE_THIS_MACHINE"] = "True"
    os.environ["AIRFLOW__NIGHTSHIFT__WORK_CLAIM"] = "checkpoints"
    sys.path.insert(0, str(Path(__file__).with_name("dags")))
    for runner, dag_id in CASES:
        os.environ["AIRFLOW__NIGHTSHIFT__RUNNER"] = runner
        out = folder / f"{runner}-{dag_id}"
        out.mkdir(parents=True)
        os.environ["SAMPLE_OUT"] = str(out)
        sys.modules.pop("sample_jobs", None)
        dag = getattr(importlib.import_module("sample_jobs"), dag_id)
        redirect(out / "log.txt")
        run = dag.test()
        states = {f"{ti.task_id}[{ti.map_index}]": (str(ti.state), ti.try_number) for ti in run.get_task_instances()}
        (out / "states.json").write_text(json.dumps(states, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
