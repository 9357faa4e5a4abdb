"""What the DAG files cost the DAG processor: CPU seconds to parse them with 20 YAML configs together.

Airflow's DAG processor imports Airflow before it forks the process that parses a file, so that share is paid once
and does not count. The provider's modules are loaded beforehand too: the bound is on what our files add.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.figures import Figure, Skipped, report

REPOSITORY = Path(__file__).parents[2]
CONFIGS = 20
TRIES = 3
TARGET_CPU_SECONDS = 1.5

PARSE = """
import sys, time
from pathlib import Path
import airflow.providers.cncf.kubernetes.operators.pod, airflow.providers.standard.operators.hitl
import airflow.sdk
from airflow.dag_processing.dagbag import BundleDagBag

def parse(folder):
    return BundleDagBag(bundle_path=Path(folder), bundle_name="bench", dag_folder=folder)

parse(sys.argv[1])  # a plain DAG: what Airflow itself loads for its first file
before = time.process_time()
bag = parse(sys.argv[2])
spent = time.process_time() - before
assert not bag.import_errors, bag.import_errors
print(spent, len(bag.dags))
"""

PLAIN = """
from airflow.sdk import dag, task

@dag(schedule=None)
def plain():
    @task
    def nothing(): ...
    nothing()

plain()
"""


def measure() -> list[Figure | Skipped]:
    """Return the parse cost, the median of a few fresh processes."""
    files = sorted(
        path for path in (REPOSITORY / "dags").glob("*.py") if (path.parent / "configs" / path.stem).is_dir()
    )
    if not files:
        return [Skipped("dags", "parse", "there is no DAG file")]
    with tempfile.TemporaryDirectory() as folder:
        plain, bundle = Path(folder, "plain"), Path(folder, "bundle")
        plain.mkdir()
        (plain / "plain.py").write_text(PLAIN)
        write_bundle(bundle, files)
        spent = [parse_seconds(plain, bundle, Path(folder, "airflow")) for _ in range(TRIES)]
    metric = f"CPU to parse {len(files)} DAG files and the checker, {CONFIGS} configs; Airflow and provider loaded"
    return [Figure("dags", metric, round(statistics.median(spent), 3), "s", target=TARGET_CPU_SECONDS)]


def write_bundle(bundle: Path, files: list[Path]) -> None:
    """Copy the DAG files and their configs, and multiply the configs until there are `CONFIGS` of them."""
    shutil.copytree(REPOSITORY / "dags", bundle, ignore=shutil.ignore_patterns("__pycache__"))
    originals = [next(iter(sorted((bundle / "configs" / file.stem).glob("*.yaml")))) for file in files]
    present = len(list((bundle / "configs").glob("*/*.yaml")))
    for number in range(CONFIGS - present):
        original = originals[number % len(originals)]
        text = original.read_text(encoding="utf-8")
        copy = original.with_name(f"copy{number}.yaml")
        copy.write_text(re.sub(r"(?m)^name: .*$", f"name: copy{number}", text), encoding="utf-8")


def parse_seconds(plain: Path, bundle: Path, airflow_home: Path) -> float:
    """Return the CPU seconds, user and system, of one parse in a fresh process.

    Raises:
        RuntimeError: The process failed, or did not find a DAG for every config.
    """
    env = os.environ | {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": f"{REPOSITORY / 'plugins'}:{REPOSITORY / 'jobs'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PARSE, str(plain), str(bundle)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the parse failed:\n{done.stdout}\n{done.stderr}")
    seconds, dags = done.stdout.splitlines()[-1].split()
    if int(dags) != CONFIGS:
        raise RuntimeError(f"{dags} DAGs were found for {CONFIGS} configs")
    return float(seconds)


if __name__ == "__main__":
    raise SystemExit(report(measure))
