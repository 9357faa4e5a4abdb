"""Raw instruction files become a dataset version.

Each night the files of one dataset are read, row by row, and measured against its data contract:

1. **prepare**: rows that break a rule go to quarantine, with file, line and every reason; small defects are repaired;
   exact duplicates go; the rest is split by content hash and published. The contract's budgets decide whether anything
   is published at all. *Rows in = published + quarantined + duplicates.*
2. **announce**: tells Airflow about a version that it does not know yet, which starts whatever trains on it.

An unchanged night publishes nothing and starts nothing. A refused night leaves the last version in place; its error
is one sentence, and its report is among the reports in the menu.

One file of `dags/configs/prepare_instructions/` is one DAG; it names its contract in `dags/contracts/`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, dag

from llmjobs.contracts.instructions import PrepareConfig
from nightshift.assets import announce, dataset_asset
from nightshift.configs import each_config
from nightshift.operators.job import JobOperator
from nightshift.params import form_for

FORM = ("source", "contract.budgets.max_quarantined_share", "contract.budgets.min_rows")


def prepare_instructions(name: str, config: PrepareConfig) -> DAG:
    """Return the DAG of one dataset."""

    @dag(
        dag_id=f"prepare_instructions_{name}",
        dag_display_name=f"Prepare instructions: {config.name}",
        description=config.contract.description,
        doc_md=f"{__doc__}\n**Dataset** `{config.name}`: {config.contract.description}\n",
        schedule=config.schedule,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=form_for(config, FORM),
        tags=["nightshift", "data", config.name],
        default_args={"owner": config.contract.owner, "retries": 2, "retry_delay": timedelta(minutes=5)},
    )
    def build() -> None:
        prepare = JobOperator(
            task_id="prepare",
            task_display_name="Validate, deduplicate, split, publish",
            doc_md="Its report and quarantine open from the buttons of this task, once it has ended.",
            module="llmjobs.instructions.prepare",
            config=config,
            form=True,
            memory_gib=4,
            execution_timeout=timedelta(hours=2),
        )
        announce(dataset_asset(config.name), prepare.output)

    return build()


for _name, _config in each_config(__file__, PrepareConfig):
    prepare_instructions(_name, _config)
