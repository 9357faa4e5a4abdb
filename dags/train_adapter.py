"""A dataset version becomes an adapter, and the better adapter becomes champion.

Starts when a new dataset version is announced, and each night besides: a training that failed is tried again although
the data did not change.

1. **plan**: which adapter do dataset, base and recipe mean, and is it there? Where it is trained, measured and decided,
   the night ends here, with a sentence.
2. **train**: QLoRA on a GPU or a CPU. Killed anywhere, the next try goes on from the newest valid checkpoint.
   The log shows step, loss, tokens per second and the time left; curves and system metrics are in MLflow (button).
3. **evaluate**: base, champion and candidate on the held-out rows, without any row that one of them was trained on.
4. **promote**: `champion` moves only if the candidate beats both. The sentence has the numbers.
5. **champion**, **announce**: tells Airflow about a champion that it does not know yet.

One file of `dags/configs/train_adapter/` is one DAG. With a GPU, `model: Qwen/Qwen3-8B` (and `resources: {gpus: 1}`) is
all that it takes to train another base.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, TaskGroup, TriggerRule, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from llmjobs.contracts.training import TrainConfig
from nightshift.assets import adapter_asset, announce, dataset_asset
from nightshift.configs import each_config
from nightshift.operators.job import JobOperator
from nightshift.params import form_for

FORM = (
    "dataset_version", "model.name", "model.revision", "lora.r", "lora.alpha", "lora.dropout", "data.max_length_tokens",
    "data.on_overflow", "train.epochs", "train.max_steps", "train.global_batch_size", "train.learning_rate",
    "train.warmup_steps", "train.scheduler", "train.optimizer", "train.seed", "dist.strategy", "dist.processes",
    "evaluate.metric", "evaluate.min_gain",
)  # fmt: skip

# The plan's dataset and base hold for the whole run, whatever is published meanwhile.
PINNED = {
    "dataset_version": "{{ ti.xcom_pull(task_ids='plan')['dataset_version'] }}",
    "model.revision": "{{ ti.xcom_pull(task_ids='plan')['base_revision'] }}",
}


@task(task_display_name="Anything to do?")
def needed(plan: Any) -> str:
    """Return why the run goes on; skip the rest, with the plan's sentence, where nothing is left to do."""
    if not plan["needed"]:
        raise AirflowSkipException(plan["sentence"])
    return str(plan["sentence"])


@task(task_display_name="Who is champion?", trigger_rule=TriggerRule.NONE_FAILED)
def champion(plan: Any, promotion: Any) -> dict[str, Any]:
    """Return the champion to announce: tonight's, or one that an earlier night could not announce any more."""
    if promotion and promotion["promoted"]:
        return dict(promotion)
    if not plan["champion_version"]:
        raise AirflowSkipException(f"adapter {plan['name']} has no champion yet")
    return {"name": plan["name"], "version": plan["champion_version"]}


def schedule_of(config: TrainConfig) -> Any:
    """Return the news of the dataset, and the cron expression besides where there is one."""
    news = [dataset_asset(config.dataset)]
    if config.schedule is None:
        return news
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(config.schedule, timezone="UTC"), assets=news)


def train_adapter(name: str, config: TrainConfig) -> DAG:
    """Return the DAG of one adapter."""
    heavy: dict[str, Any] = {
        "pool": "training",
        "memory_gib": config.resources.memory_gib,
        "cpus": config.resources.cpus,
        "gpus": config.resources.gpus,
    }

    @dag(
        dag_id=f"train_adapter_{name}",
        dag_display_name=f"Train adapter: {config.name}",
        description=f"{config.model.name} on the dataset {config.dataset}",
        doc_md=f"{__doc__}\n**Adapter** `{config.name}`: `{config.model.name}` on the dataset `{config.dataset}`.\n",
        schedule=schedule_of(config),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=form_for(config, FORM),
        tags=["nightshift", "training", config.name],
        default_args={"owner": config.owner, "retries": 2, "retry_delay": timedelta(seconds=30)},
    )
    def build() -> None:
        plan = JobOperator(
            task_id="plan",
            task_display_name="Which adapter, and is it there?",
            module="llmjobs.training.plan",
            config=config,
            form=True,
            execution_timeout=timedelta(minutes=30),
        )
        with TaskGroup("adapter", prefix_group_id=False, group_display_name="Train and measure"):
            train = JobOperator(
                task_id="train",
                task_display_name="Train",
                doc_md="Curves and system metrics: the MLflow button. A retry goes on from the newest checkpoint.",
                module="llmjobs.training.train",
                config=config,
                overrides=PINNED,
                form=True,
                execution_timeout=timedelta(hours=24),
                **heavy,
            )
            evaluate = JobOperator(
                task_id="evaluate",
                task_display_name="Measure base, champion and candidate",
                module="llmjobs.training.evaluate",
                config=config,
                overrides=PINNED,
                form=True,
                execution_timeout=timedelta(hours=4),
                **heavy,
            )
        with TaskGroup("promotion", prefix_group_id=False, group_display_name="Promote and announce"):
            promote = JobOperator(
                task_id="promote",
                task_display_name="Promote if it is better",
                module="llmjobs.training.promote",
                config=config,
                overrides=PINNED,
                form=True,
                execution_timeout=timedelta(minutes=30),
            )
            announce(adapter_asset(config.name), champion(plan.output, promote.output))
        needed(plan.output) >> train >> evaluate >> promote

    return build()


for _name, _config in each_config(__file__, TrainConfig):
    train_adapter(_name, _config)
