"""What a job tells OpenLineage, and that Airflow's provider emits it where a transport is configured and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.base import JobConfig
from llmjobs.contracts.instructions import PrepareConfig, PrepareResult, PublishConfig
from nightshift.lineage import lineage_of
from nightshift.operators.job import JobOperator

REPOSITORY = Path(__file__).parents[2]
PREPARE = "llmjobs.instructions.prepare"


def config(source: str = "raw/rows/*.jsonl", **budgets: Any) -> PrepareConfig:
    contract = {"owner": "tests", "budgets": {"max_quarantined_share": 0.5, **budgets}}
    return PrepareConfig.from_mapping({"name": "rows", "source": source, "contract": contract}, origin="test")


def result(**changes: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("duplicates", "fixed", "warned", "train_rows", "validation_rows", "test_rows"), 0)
    urls = {
        "dataset_url": "s3://bucket/lake/datasets/rows/versions/v2",
        "report_url": "s3://bucket/lake/audits/rows/versions/a2/report.html",
        "quarantine_url": "s3://bucket/lake/audits/rows/versions/a2/quarantine.jsonl",
    }
    reasons = {"refusal": 2, "too_long": 1}
    values = {"name": "rows", "version": "v2", "changed": True, "audit_version": "a2", "reasons": reasons, **counts}
    values |= {"rows_in": 10, "published": 7, "quarantined": 3, **urls, **changes}
    return PrepareResult.model_validate(values).model_dump(mode="json")


def assertions(dataset: Any) -> dict[str, tuple[bool, str, str]]:
    found = dataset.inputFacets["dataQualityAssertions"].assertions
    return {one.name: (one.success, one.severity, one.actual) for one in found}


def test_a_preparation_says_what_it_read_how_good_that_was_and_what_it_wrote() -> None:
    lineage = lineage_of(PREPARE, config(warn_quarantined_share=0.2), result())
    (read,), (written,) = lineage.inputs, lineage.outputs
    assert (read.namespace, read.name) == ("s3://bucket", "lake/raw/rows/*.jsonl")
    assert read.inputFacets["dataQualityMetrics"].rowCount == 10
    assert assertions(read) == {
        "max_quarantined_share": (True, "error", "0.3"),
        "min_rows": (True, "error", "7"),
        "warn_quarantined_share": (False, "warn", "0.3"),
        "refusal": (False, "error", "2"),
        "too_long": (False, "error", "1"),
    }
    assert (written.namespace, written.name) == ("nightshift://dataset", "rows")
    assert written.facets["version"].datasetVersion == "v2"
    assert [field.name for field in written.facets["schema"].fields][:3] == ["row_id", "group_id", "messages"]
    assert written.outputFacets["outputStatistics"].rowCount == 7


def test_several_sources_are_judged_together() -> None:
    lineage = lineage_of(PREPARE, config("raw/a/*.json\ns3://key:word@other/b.json\nfile:///srv/c.json"), result())
    names = [(read.namespace, read.name) for read in lineage.inputs]
    assert names == [
        ("nightshift://source", "rows"),
        ("s3://bucket", "lake/raw/a/*.json"),
        ("s3://other", "b.json"),
        ("file", "/srv/c.json"),
    ]
    assert [sorted(read.inputFacets) for read in lineage.inputs][1:] == [[], [], []]
    assert len(assertions(lineage.inputs[0])) == 4


def test_a_dry_run_wrote_nothing() -> None:
    lineage = lineage_of(PREPARE, config(), result(verdict="dry_run", dataset_url=""))
    assert lineage.outputs == []
    assert [(read.namespace, read.name) for read in lineage.inputs] == [("s3://bucket", "lake/raw/rows/*.jsonl")]


def test_an_empty_source_has_no_share() -> None:
    lineage = lineage_of(PREPARE, config(), result(rows_in=0, published=0, quarantined=0, reasons={}))
    assert assertions(lineage.inputs[0]) == {
        "max_quarantined_share": (True, "error", "0"),
        "min_rows": (False, "error", "0"),
    }


def test_a_publication_and_a_training_name_their_versions() -> None:
    publish = PublishConfig(name="rows", version="v2", reason="approved")
    published = lineage_of(
        "llmjobs.instructions.publish", publish, {"name": "rows", "version": "v2", "previous": "v1", "changed": True}
    )
    assert [(one.name, one.facets["version"].datasetVersion) for one in published.outputs] == [("rows", "v2")]
    trained = lineage_of(
        "llmjobs.training.train",
        JobConfig(),
        {"name": "small", "version": "a1", "dataset": "rows", "dataset_version": "v2"},
    )
    assert [(one.namespace, one.name) for one in trained.inputs] == [("nightshift://dataset", "rows")]
    assert [(one.namespace, one.name) for one in trained.outputs] == [("nightshift://adapter", "small")]


def test_an_export_names_its_adapter_and_each_form() -> None:
    forms = [{"format": "safetensors", "version": "e1"}, {"format": "gguf", "version": "e2"}]
    told = lineage_of(
        "llmjobs.training.export", JobConfig(), {"name": "small", "adapter_version": "a1", "exports": forms}
    )
    assert [(one.name, one.facets["version"].datasetVersion) for one in told.inputs] == [("small", "a1")]
    assert [(one.name, one.facets["version"].datasetVersion) for one in told.outputs] == [
        ("small/safetensors", "e1"), ("small/gguf", "e2"),
    ]  # fmt: skip


@pytest.mark.parametrize("found", [None, {"rows_in": 3}])
def test_a_job_that_says_nothing_has_no_lineage(found: Any) -> None:
    module = PREPARE if found is None else "llmjobs.instructions.files"
    one = JobOperator(task_id="job", module=module, config=config())
    one._result = found
    lineage = one.get_openlineage_facets_on_complete(None)
    assert (lineage.inputs, lineage.outputs) == ([], [])


RUN = "import sys; sys.path.insert(0, sys.argv[1]); from tells import dag; sys.exit(str(dag.test().state) != 'success')"
TELLS = """
from airflow.sdk import DAG
from llmjobs.contracts.instructions import PrepareConfig
from nightshift.operators.job import JobOperator

values = {"name": "rows", "source": "raw/rows/*.jsonl",
          "contract": {"owner": "tests", "budgets": {"max_quarantined_share": 1}}}
with DAG("tells", schedule=None) as dag:
    JobOperator(task_id="prepare", module="llmjobs.instructions.prepare", config=PrepareConfig(**values))
"""


@pytest.mark.slow
def test_the_provider_emits_it(tmp_path: Path) -> None:
    """A real job in a real `dag.test` with the provider's file transport; migrating SQLite takes a third of it."""
    rows = [{"instruction": f"Add one to {n}.", "input": "", "output": f"The sum is {n + 1}."} for n in range(40)]
    raw = tmp_path / "lake" / "raw" / "rows"
    raw.mkdir(parents=True)
    lines = [json.dumps(row) for row in (*rows, {**rows[0], "output": "I'm sorry, but I can't help with that."})]
    (raw / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    emitted, dags = tmp_path / "emitted.jsonl", tmp_path / "dags"
    dags.mkdir()
    (dags / "tells.py").write_text(TELLS, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "OPENLINEAGE"))} | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(emitted), "append": True}),
        "LLMJOBS_LAKE_URL": f"file://{tmp_path}/lake",
        "NIGHTSHIFT_HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{REPOSITORY / 'jobs'}:{REPOSITORY / 'plugins'}",
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(dags)], env=env, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    events = [json.loads(line) for line in emitted.read_text(encoding="utf-8").splitlines()]
    (complete,) = [e for e in events if e["job"]["name"] == "tells.prepare" and e["eventType"] == "COMPLETE"]
    (read,), (written,) = complete["inputs"], complete["outputs"]
    assert read["name"] == f"{tmp_path}/lake/raw/rows/*.jsonl"
    assert read["inputFacets"]["dataQualityMetrics"]["rowCount"] == 41
    found = {one["name"]: one["actual"] for one in read["inputFacets"]["dataQualityAssertions"]["assertions"]}
    assert found["refusal"] == "1"
    assert (written["namespace"], written["name"]) == ("nightshift://dataset", "rows")
    assert len(written["facets"]["version"]["datasetVersion"]) == 32
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 40


def test_nothing_of_it_is_loaded_where_no_transport_is_configured() -> None:
    """The provider's plugin is empty then, and our modules import nothing of OpenLineage."""
    code = (
        "import sys; import nightshift.operators.job; "
        "from airflow.providers.openlineage.plugins.openlineage import OpenLineageProviderPlugin as P; "
        "print(P.listeners, sorted(m for m in sys.modules if m.split('.')[0] == 'openlineage'))"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENLINEAGE")}
    env["PYTHONPATH"] = f"{REPOSITORY / 'jobs'}:{REPOSITORY / 'plugins'}"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"
