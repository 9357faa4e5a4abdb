"""A wrong YAML is refused alone: its import error names file, field and fix, and every good DAG runs on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

REPOSITORY = Path(__file__).parents[2]
DAGS = REPOSITORY / "dags"
CHECKER = "check_configs.py"
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != CHECKER)
DAG_IDS = sorted(f"{path.parent.name}_{path.stem}" for path in (DAGS / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_wrong_yaml_is_refused_alone(file: Path, tmp_path: Path) -> None:
    """For each DAG file: a misspelt field names file, field and fix; the good configs stay."""
    bundle = tmp_path / "dags"
    shutil.copytree(DAGS, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    folder = bundle / "configs" / file.stem
    good = sorted(folder.glob("*.yaml"))
    text = good[0].read_text(encoding="utf-8")
    (folder / "misspelt.yaml").write_text(text.replace("name:", "nmae:", 1), encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="nightshift", dag_folder=str(bundle))
    assert sorted(bag.dags) == DAG_IDS
    assert list(bag.import_errors) == [CHECKER]  # not the DAG file: its good DAGs would be stopped with it
    said = bag.import_errors[CHECKER]
    assert f"configs/{file.stem}/misspelt.yaml: nmae: unknown field; did you mean 'name'?" in said
    assert f"configs/{file.stem}/misspelt.yaml: name: is required but absent" in said


def test_a_wrong_contract_is_named_once_and_only_its_own_dags_stop(tmp_path: Path) -> None:
    bundle = tmp_path / "dags"
    shutil.copytree(DAGS, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "contracts" / "unused.yaml").write_text("owner: me\nrules: {refusl: warn}\n", encoding="utf-8")
    (bundle / "contracts" / "alpaca.yaml").write_text("owner: me\nformat: alpacca\n", encoding="utf-8")
    (bundle / "contracts" / "other.yml").write_text("owner: me\n", encoding="utf-8")
    bag = BundleDagBag(bundle_path=bundle, bundle_name="nightshift", dag_folder=str(bundle))
    assert sorted(bag.dags) == [dag_id for dag_id in DAG_IDS if dag_id != "prepare_instructions_alpaca_demo"]
    assert list(bag.import_errors) == [CHECKER]
    said = bag.import_errors[CHECKER]
    assert "contracts/unused.yaml: rules.refusl: unknown field; did you mean 'refusal'?" in said
    assert said.count("contracts/alpaca.yaml: format: Input should be") == 1
    assert "contracts/other.yml: is not read; rename it to other.yaml" in said
    assert bag.dags["prepare_instructions_tickets"].params.get_param("contract").schema["enum"] == ["tickets"]


RECORD = """
import json, sys
from pathlib import Path
from airflow.utils.db import initdb
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dag import DagModel
from airflow.models.errors import ParseImportError
from airflow.utils.session import create_session

folder = Path(sys.argv[1])
initdb()
DagBundlesManager().sync_bundles_to_db()

def parse():
    bag = BundleDagBag(bundle_path=folder, bundle_name="dags-folder", dag_folder=str(folder))
    sync_bag_to_db(bag, "dags-folder", None)

parse()
(folder / "configs" / "refresh_embeddings" / "misspelt.yaml").write_text("nmae: x")
parse()
with create_session() as session:
    print(json.dumps({
        "stopped": [d.dag_id for d in session.query(DagModel) if d.has_import_errors or d.is_stale],
        "dags": sorted(d.dag_id for d in session.query(DagModel)),
        "errors": {e.filename: e.stacktrace for e in session.query(ParseImportError)},
    }))
"""


@pytest.mark.slow
def test_airflow_itself_goes_on_with_the_good_dags(tmp_path: Path) -> None:
    """The same in Airflow's own tables, which decide what is scheduled; migrating them takes most of the time."""
    bundle = tmp_path / "dags"
    shutil.copytree(DAGS, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    env = os.environ | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(bundle),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": f"{REPOSITORY / 'jobs'}:{REPOSITORY / 'plugins'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", RECORD, str(bundle)], env=env, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["dags"] == DAG_IDS
    assert found["stopped"] == []
    assert list(found["errors"]) == [CHECKER]
    assert "did you mean 'name'?" in found["errors"][CHECKER]
