"""A dataset version becomes an adapter, and the better adapter becomes champion.

Starts when a new dataset version is announced, and each night besides: a training that failed is tried again although
the data did not change.

1. **plan**: which adapter do dataset, base and recipe mean, and is it there? Where it is trained, measured and decided,
   the night ends here, with a sentence.
2. **audit**: the rows as the training takes them, token by token (button *Report*). Rows that must not be trained on
   end the night here, before a GPU is asked for.
3. **estimate**: memory part by part, disk, hours and cost, as tables in the log. It chooses the strategy where
   `dist.strategy` is `auto`, and refuses what cannot fit, saying what would. With `limits`, a training that is
   estimated to exceed them asks a person first (*Required Actions* in the menu).
4. **train**: QLoRA on a GPU or a CPU. Killed anywhere, the next try goes on from the newest valid checkpoint.
   The log shows step, loss, tokens per second and the time left; curves and system metrics are in MLflow (button).
5. **evaluate**: base, champion and candidate on the held-out rows, without any row that one of them was trained on.
6. **promote**: `champion` moves only if the candidate beats both. The sentence has the numbers. With
   `evaluate.approval` a person is asked first (*Required Actions* in the menu).
7. **champion**, **announce**: tells Airflow about a champion that it does not know yet.
8. **export**, where the config names `export.formats`: the champion as merged safetensors or GGUF, each measured on
   held-out rows before it is kept.

The form starts a run by hand: another dataset version or recipe, or an older adapter that is to be champion again.

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
from nightshift.decisions import APPROVAL_TASK, DECISION
from nightshift.operators.approval import BudgetApproval, PromotionApproval
from nightshift.operators.job import JobOperator
from nightshift.params import form_for

FORM = (
    "dataset_version", "model.name", "model.revision", "lora.r", "lora.alpha", "lora.dropout", "data.max_length_tokens",
    "data.on_overflow", "train.epochs", "train.max_steps", "train.global_batch_size", "train.learning_rate",
    "train.warmup_steps", "train.scheduler", "train.optimizer", "train.seed", "dist.strategy", "dist.processes",
    "evaluate.metric", "evaluate.min_gain", "rollback_to",
)  # fmt: skip

LIMITS = ("limits.max_hours", "limits.max_cost", "limits.price_per_hour")

SWEEP = """
**Sweep**: one candidate for each fraction of the rows, the best rows first. **sweep** compares them on the validation
split, never on the test split, and says whether more rows still help (button *Report*); the best candidate goes on.
"""

# The plan's dataset and base hold for the whole run, whatever is published meanwhile.
PINNED = {
    "dataset_version": "{{ ti.xcom_pull(task_ids='plan')['dataset_version'] }}",
    "model.revision": "{{ ti.xcom_pull(task_ids='plan')['base_revision'] }}",
}
# So do the layout that was estimated and, maybe, approved.
LAID_OUT = {
    **PINNED,
    "dist.strategy": "{{ ti.xcom_pull(task_ids='estimate')['strategy'] }}",
    "dist.processes": "{{ ti.xcom_pull(task_ids='estimate')['processes'] }}",
    "train.micro_batch_size": "{{ ti.xcom_pull(task_ids='estimate')['micro_batch_size'] }}",
}
BEST = {**PINNED, "data.fraction": "{{ ti.xcom_pull(task_ids='sweep')['fraction'] }}"}

APPROVED = {"approved": f"{{{{ ti.xcom_pull(task_ids='{APPROVAL_TASK}', key='{DECISION}') or '' }}}}"}


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


@task(task_display_name="Is it the champion?")
def promoted(promotion: Any) -> str:
    """Return why the adapter is exported; skip the export of one that is not the champion."""
    if not promotion["promoted"]:
        raise AirflowSkipException(f"not exported: {promotion['sentence']}")
    return str(promotion["sentence"])


def schedule_of(config: TrainConfig) -> Any:
    """Return the news of the dataset, and the cron expression besides where there is one."""
    news = [dataset_asset(config.dataset)]
    if config.schedule is None:
        return news
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(config.schedule, timezone="UTC"), assets=news)


def heavy(config: TrainConfig) -> dict[str, Any]:
    """Return what the tasks ask for that need the machine or its GPUs for themselves."""
    resources = config.resources
    return {
        "pool": "training",
        "memory_gib": resources.memory_gib,
        "cpus": resources.cpus,
        "gpus": resources.gpus,
    }


def job(module: str, title: str, config: TrainConfig, hours: float, *, task_id: str = "", **more: Any) -> JobOperator:
    """Return the task of a module of `llmjobs.training`; its id is the module's name, unless it is given."""
    return JobOperator(
        task_id=task_id or module,
        task_display_name=title,
        module=f"llmjobs.training.{module}",
        config=config,
        form=True,
        execution_timeout=timedelta(hours=hours),
        **more,
    )


def train_task(config: TrainConfig, task_id: str, title: str) -> JobOperator:
    """Return the task that trains one adapter."""
    doc = "Curves and system metrics: the MLflow button. A retry goes on from the newest checkpoint."
    # Within the limits nobody is asked, and that is recorded as a skip; a rejection skips what hangs on it.
    rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS if config.limits.asks else TriggerRule.ALL_SUCCESS
    return job(
        "train", title, config, 24, task_id=task_id, doc_md=doc, overrides=LAID_OUT, trigger_rule=rule, **heavy(config)
    )


def train_tasks(config: TrainConfig) -> tuple[list[JobOperator], JobOperator]:
    """Return the tasks that train, and the one after which it is known what to measure."""
    if not config.sweep:
        train = train_task(config, "train", "Train")
        return [train], train
    doc = "On the validation split. The curve: the Report button."
    sweep = job("sweep", "Compare the fractions", config, 4, doc_md=doc, overrides=PINNED, **heavy(config))
    parts = {f"{one.data.fraction:g}": one for one in config.candidates}
    trains = [
        train_task(one, f"train_{part.replace('.', '_')}", f"Train on {part} of the rows")
        for part, one in parts.items()
    ]
    trains >> sweep
    return trains, sweep


def bill(config: TrainConfig, trains: list[JobOperator]) -> JobOperator:
    """Return the task that estimates the trainings; where the config has limits, the question to a person between."""
    doc = "Memory part by part, disk, hours and cost: tables in the log."
    estimate = job("estimate", "What will it take?", config, 0.5, overrides=PINNED, doc_md=doc)
    estimate >> trains
    if config.limits.asks:
        approve = BudgetApproval(
            task_display_name="Ask a person, if it exceeds the limits",
            doc_md="Waits under *Required Actions* where the estimate exceeds a limit; is skipped where it does not.",
            name=config.name,
            of="estimate",
            hours=config.limits.approval_hours,
        )
        estimate >> approve >> trains
    return estimate


def promote_task(config: TrainConfig, pinned: dict[str, str], evaluate: JobOperator) -> JobOperator:
    """Return the task that decides; where the config asks for it, behind the question to a person."""
    title = "Promote if it is better"
    if not config.evaluate.approval:
        promote = job("promote", title, config, 0.5, overrides=pinned)
        evaluate >> promote
        return promote
    approve = PromotionApproval(
        task_display_name="Ask a person, if it is better",
        doc_md="Waits under *Required Actions* where the candidate is better; is skipped where it is not.",
        name=config.name,
        of="evaluate",
        hours=config.evaluate.approval_hours,
    )
    # A candidate that is not better asks nobody, and that is recorded; where nothing was measured nothing is decided.
    rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    promote = job("promote", title, config, 0.5, overrides={**pinned, **APPROVED}, trigger_rule=rule)
    evaluate >> [approve, promote]
    approve >> promote
    return promote


def export_task(config: TrainConfig, pinned: dict[str, str], promote: JobOperator) -> None:
    """Add the task that exports a new champion, if the config asks for it; the announcement does not wait."""
    if not config.export.formats:
        return
    doc = "Merged into the 16-bit base, loaded back, and measured on held-out rows; the figures are in the log."
    export = job("export", "Export and measure again", config, 4, doc_md=doc, overrides=pinned, **heavy(config))
    promoted(promote.output) >> export


def train_adapter(name: str, config: TrainConfig) -> DAG:
    """Return the DAG of one adapter."""
    # What is measured and promoted: of a sweep the candidate that its comparison names.
    chosen, pinned = (config.on_fraction(1), BEST) if config.sweep else (config, PINNED)

    @dag(
        dag_id=f"train_adapter_{name}",
        dag_display_name=f"Train adapter: {config.name}",
        description=f"{config.model.name} on the dataset {config.dataset}",
        doc_md=f"{__doc__}{SWEEP if config.sweep else ''}\n"
        f"**Adapter** `{config.name}`: `{config.model.name}` on the dataset `{config.dataset}`.\n",
        schedule=schedule_of(config),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=form_for(config, FORM + LIMITS if config.limits.asks else FORM),
        tags=["nightshift", "training", config.name],
        default_args={"owner": config.owner, "retries": 2, "retry_delay": timedelta(seconds=30)},
    )
    def build() -> None:
        plan = job("plan", "Which adapter, and is it there?", config, 0.5)
        doc = "Counts, lengths, and 20 rows token by token: the Report button."
        audit = job("audit", "Are the rows fit to train on?", config, 2, overrides=PINNED, memory_gib=4, doc_md=doc)
        with TaskGroup("adapter", prefix_group_id=False, group_display_name="Train and measure"):
            trains, trained = train_tasks(config)
            title = "Measure base, champion and candidate"
            evaluate = job("evaluate", title, chosen, 4, overrides=pinned, **heavy(config))
        with TaskGroup("promotion", prefix_group_id=False, group_display_name="Promote and announce"):
            promote = promote_task(chosen, pinned, evaluate)
            export_task(chosen, pinned, promote)
            announce(adapter_asset(config.name), champion(plan.output, promote.output))
        needed(plan.output) >> audit >> bill(config, trains)
        trained >> evaluate

    return build()


for _name, _config in each_config(__file__, TrainConfig):
    train_adapter(_name, _config)
