"""Raw instruction files become a dataset version.

Each night the files of one dataset are read, row by row, and measured against its data contract:

1. **prepare**: rows that break a rule go to quarantine, with file, line and every reason; small defects are repaired;
   duplicates and leaks go; the rest is split by content hash and becomes a version. Within the contract's limits it is
   published at once. *Rows in = published + quarantined + duplicates + left out.*
2. **approve**, **publish**: beyond a warn limit a person is asked first, with the differences (*Required Actions* in
   the menu). Approved, the version becomes current; rejected, or unanswered for too long, the last one stays.
3. **announce**: tells Airflow about a current version that it does not know yet, which starts whatever trains on it.

An unchanged night publishes nothing and starts nothing. A night beyond a fail limit fails once, with one sentence; its
report is among the reports in the menu, and the last version stays in place.

The form starts a run by hand: other files, another contract, a dry run, the quarantine once more, an older version.

One file of `dags/configs/prepare_instructions/` is one DAG; it names its contract in `dags/contracts/`. With `{date}`
in its source, runs can be backfilled by day; with `map_files: true` each file is examined in a task of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, TriggerRule, conf, dag, task
from airflow.sdk.exceptions import AirflowFailException

from llmjobs.contracts.instructions import PrepareConfig, PublishConfig
from nightshift.assets import announce, dataset_asset
from nightshift.configs import contracts_beside, each_config
from nightshift.operators.approval import PublicationApproval
from nightshift.operators.job import JobOperator
from nightshift.params import choice_for, form_for

FORM = ("dry_run", "replay", "rollback_to", "contract.budgets.max_quarantined_share", "contract.budgets.min_rows")
CONTRACTS = contracts_beside(__file__)

# A run that was started by hand may have no data interval: it then ends when it starts.
INTERVAL_END = "{{ (data_interval_end | default(none) or dag_run.run_after).isoformat() }}"


@task(task_display_name="One task a file")
def deal(files: Any, overrides: dict[str, Any], *, params: Any = None) -> list[dict[str, Any]]:
    """Return one set of overrides for each file.

    Raises:
        AirflowFailException: There are more than Airflow maps.
    """
    if params["rollback_to"]:
        return []
    most = conf.getint("core", "max_map_length")
    if len(files["files"]) > most:
        raise AirflowFailException(
            f"{len(files['files'])} files are more than the {most} tasks that Airflow maps ([core] max_map_length): "
            "set map_files: false, or name fewer files"
        )
    return [{**overrides, "only_file": file} for file in files["files"]]


def schedule_of(config: PrepareConfig) -> Any:
    """Return the cron expression; for dated sources as a timetable of intervals, so that a backfill knows the day.

    Airflow 3 makes runs of a plain cron expression that have no interval: start and end are the same.
    """
    if config.schedule is None or not is_dated(config):
        return config.schedule
    return CronDataIntervalTimetable(config.schedule, timezone="UTC")


def is_dated(config: PrepareConfig) -> bool:
    """Return whether the files depend on the run's data interval."""
    return any("{date}" in pattern for pattern in config.globs)


def examine_files(job: dict[str, Any]) -> Any:
    """Return the mapped tasks that examine one file each."""
    files = JobOperator(
        task_id="files",
        task_display_name="Which files?",
        module="llmjobs.instructions.files",
        execution_timeout=timedelta(minutes=30),
        **job,
    )
    return JobOperator.partial(
        task_id="examine",
        task_display_name="Examine a file",
        map_index_template="{{ task.overrides.only_file }}",
        module="llmjobs.instructions.examine",
        memory_gib=2,
        max_active_tis_per_dag=4,
        execution_timeout=timedelta(hours=2),
        **{name: value for name, value in job.items() if name != "overrides"},
    ).expand(overrides=deal(files.output, job["overrides"]))


def prepare_instructions(name: str, config: PrepareConfig) -> DAG:
    """Return the DAG of one dataset."""
    # A mix names its sources in the YAML; the form asks for files only where there is one source.
    form = FORM if config.sources else ("source", *FORM)

    @dag(
        dag_id=f"prepare_instructions_{name}",
        dag_display_name=f"Prepare instructions: {config.name}",
        description=config.contract.description,
        doc_md=f"{__doc__}\n**Dataset** `{config.name}`: {config.contract.description}\n",
        schedule=schedule_of(config),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params={**choice_for(config, "contract", CONTRACTS), **form_for(config, form)},
        tags=["nightshift", "data", config.name],
        default_args={"owner": config.contract.owner, "retries": 2, "retry_delay": timedelta(minutes=5)},
    )
    def build() -> None:
        job: dict[str, Any] = {
            "config": config,
            "form": True,
            "choices": {"contract": CONTRACTS},
            "overrides": {"interval_end": INTERVAL_END} if is_dated(config) else {},
        }
        prepare = JobOperator(
            task_id="prepare",
            task_display_name="Validate, deduplicate, split, publish",
            doc_md="Its report and quarantine open from the buttons of this task, once it has ended.",
            # With mapped files: also where there is none to examine, as in a rollback.
            trigger_rule=TriggerRule.NONE_FAILED,
            module="llmjobs.instructions.prepare",
            memory_gib=4,
            execution_timeout=timedelta(hours=2),
            **job,
        )
        if config.map_files:
            examine_files(job) >> prepare
        approve = PublicationApproval(
            task_display_name="Ask a person, if it matters",
            doc_md="Waits under *Required Actions* where a warn limit is broken; is skipped where none is.",
            name=config.name,
            of="prepare",
            hours=config.approval_hours,
        )
        publish = JobOperator(
            task_id="publish",
            task_display_name="Publish what was approved",
            module="llmjobs.instructions.publish",
            # Both are known only when the task runs.
            config=PublishConfig(name=config.name, version="(prepared)", reason="(approved)"),
            overrides={
                "version": "{{ ti.xcom_pull(task_ids='prepare')['version'] }}",
                "reason": "{{ ti.xcom_pull(task_ids='approve', key='decision') }}",
                **job["overrides"],
            },
            execution_timeout=timedelta(minutes=30),
        )
        prepare >> approve >> publish
        announce(dataset_asset(config.name), prepare.output, publication=publish.output)

    return build()


for _name, _config in each_config(__file__, PrepareConfig):
    prepare_instructions(_name, _config)
