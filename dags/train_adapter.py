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

from llmjobs.contracts.sweeping import SAID
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
**Sweep**: **train** is mapped: one candidate for each combination of the lists in `sweep`, of fractions the best rows
first. **sweep** compares them on the validation split, never on the test split, and says which is best and whether
another is as good (button *Report*); the best candidate goes on. One that diverges ends alone, and is told.
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


def job_arguments(module: str, title: str, config: TrainConfig, hours: float, **more: Any) -> dict[str, Any]:
    """Return the arguments of the task of a module of `llmjobs.training`; its id is the module's name."""
    return {
        "task_id": module,
        "task_display_name": title,
        "module": f"llmjobs.training.{module}",
        "config": config,
        "form": True,
        "execution_timeout": timedelta(hours=hours),
        **more,
    }


def job(module: str, title: str, config: TrainConfig, hours: float, **more: Any) -> JobOperator:
    """Return the task of a module of `llmjobs.training`."""
    return JobOperator(**job_arguments(module, title, config, hours, **more))


def train_tasks(config: TrainConfig) -> tuple[Any, Any]:
    """Return the task that trains, and the one after which it is known what to measure."""
    arguments = {
        "doc_md": "Curves and system metrics: the MLflow button. A retry goes on from the newest checkpoint.",
        "resumable": True,
        # Within the limits nobody is asked, and that is recorded as a skip; a rejection skips what hangs on it.
        "trigger_rule": TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS if config.limits.asks else TriggerRule.ALL_SUCCESS,
        **heavy(config),
    }
    if not config.sweep:
        train = job("train", "Train", config, 24, overrides=LAID_OUT, **arguments)
        return train, train
    candidates = config.sweep.candidates
    label = ", ".join(SAID[path].format(f"{{{{ task.overrides['{path}'] }}}}") for path in candidates[0])
    of_one = job_arguments("train", "Train a candidate", config.candidate({}), 24, **arguments)
    trains = JobOperator.partial(map_index_template=label, **of_one).expand(
        overrides=[{**LAID_OUT, **settings} for settings in candidates]
    )
    sweep = job(
        "sweep",
        "Compare the candidates",
        config,
        4,
        doc_md="On the validation split. The comparison: the Report button.",
        overrides=PINNED,
        # The job tells a candidate that diverged from one that is missing for another reason, and goes on without it.
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
        **heavy(config),
    )
    trains >> sweep
    return trains, sweep


def pinned_best(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """Return the config of what is measured and promoted, and its overrides: of a sweep the best candidate's."""
    if not config.sweep:
        return config, PINNED
    best = {path: f"{{{{ ti.xcom_pull(task_ids='sweep')['settings']['{path}'] }}}}"
            for path in config.sweep.candidates[0]}  # fmt: skip
    return config.candidate({}), {**PINNED, **best}


def form(config: TrainConfig) -> dict[str, Any]:
    """Return the trigger form; what a sweep has a list for is not asked."""
    swept = config.sweep.candidates[0] if config.sweep else {}
    return form_for(config, [path for path in FORM + (LIMITS if config.limits.asks else ()) if path not in swept])


def bill(config: TrainConfig, trains: Any) -> JobOperator:
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
    chosen, pinned = pinned_best(config)

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
        params=form(config),
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
