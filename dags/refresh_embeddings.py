"""Documents become vectors in pgvector, at the price of what changed.

Each night the documents of one index are compared with the database by content hash:

1. **plan**: lists the sources and reads what may have changed; new, changed and deleted documents are dealt to
   shards. If most of the index would go (a missing mount), the run is refused.
2. **embed**, one task a shard that has work: cuts documents along their headings, encodes only texts that were
   never seen, publishes each document whole in a short transaction. An unchanged night has no such task. A document
   that cannot be read, cut or encoded keeps its old text in the index, is tried again on later nights, and is named in
   the result of *finalise*.
3. **finalise**: looks after the HNSW index, lets a new generation answer (model or chunks changed), counts.
4. **measure**: compares the vector index with an exact search, judges the tables with Great Expectations, writes
   recall, lag, cache hits, tokens and sizes to MLflow, and the report that its button *Report* opens. What is wrong
   fails here, with a sentence.
5. **announce**: tells Airflow about a version of the index that it does not know yet.

Killed anywhere, the next try or the next night goes on, without duplicates and without paying twice. Ask the index with
`make ask q="..."`.

One file of `dags/configs/refresh_embeddings/` is one DAG. With `{date}` in a source's `url`, runs can be backfilled by
day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, TriggerRule, dag, task

from llmjobs.contracts.embeddings import EmbedConfig, FinaliseConfig, MeasureConfig, RefreshConfig
from nightshift.assets import announce, index_asset
from nightshift.configs import each_config
from nightshift.operators.job import JobOperator
from nightshift.params import form_for

FORM = ("max_delete_share", "allow_mass_delete", "chunks.max_tokens", "shards.most")

# A run that was started by hand may have no data interval: it then begins and ends when it starts.
INTERVAL = {
    f"interval_{side}": f"{{{{ (data_interval_{side} | default(none) or dag_run.run_after).isoformat() }}}}"
    for side in ("start", "end")
}


@task(task_display_name="Deal the shards")
def deal(plan: Any, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one set of overrides for each shard that has work; ids only, never documents."""
    return [{**overrides, "run_id": plan["run_id"], **shard} for shard in plan["shards"]]


def schedule_of(config: RefreshConfig) -> Any:
    """Return the cron expression; for dated sources as a timetable of intervals, so that a backfill knows the day.

    Airflow 3 makes runs of a plain cron expression that have no interval: start and end are the same.
    """
    if config.schedule is None or not is_dated(config):
        return config.schedule
    return CronDataIntervalTimetable(config.schedule, timezone="UTC")


def is_dated(config: RefreshConfig) -> bool:
    """Return whether the documents depend on the run's data interval."""
    return any("{date}" in getattr(source, "url", "") for source in config.inputs)


def _places(config: RefreshConfig) -> str:
    """Return where the documents come from, in words."""
    return ", ".join(getattr(source, "url", source.name) for source in config.inputs)


def refresh_embeddings(name: str, config: RefreshConfig) -> DAG:
    """Return the DAG of one index."""

    @dag(
        dag_id=f"refresh_embeddings_{name}",
        dag_display_name=f"Refresh embeddings: {config.name}",
        description=f"Documents of {_places(config)} -> vectors of {config.embedder.name}",
        doc_md=f"{__doc__}\n**Index** `{config.name}`: {_places(config)}, encoded by `{config.embedder.name}`.\n",
        schedule=schedule_of(config),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params=form_for(config, FORM),
        tags=["nightshift", "embeddings", config.name],
        default_args={"owner": config.owner, "retries": 2, "retry_delay": timedelta(minutes=2)},
    )
    def build() -> None:
        interval = INTERVAL if is_dated(config) else {}
        plan = JobOperator(
            task_id="plan",
            task_display_name="Compare documents with the index",
            module="llmjobs.embeddings.plan",
            config=config,
            overrides=interval,
            form=True,
            execution_timeout=timedelta(hours=1),
        )
        embed = JobOperator.partial(
            task_id="embed",
            task_display_name="Encode and publish a shard",
            map_index_template="shard {{ task.overrides.shard }}: {{ task.overrides.documents }} documents",
            module="llmjobs.embeddings.embed",
            config=EmbedConfig(**config.model_dump()),
            form=True,
            memory_gib=3,
            execution_timeout=timedelta(hours=6),
        ).expand(overrides=deal(plan.output, interval))
        finalise = JobOperator(
            task_id="finalise",
            task_display_name="Vector index and figures",
            # Runs when no shard was mapped, too.
            trigger_rule=TriggerRule.NONE_FAILED,
            module="llmjobs.embeddings.finalise",
            config=FinaliseConfig(**config.model_dump()),
            overrides={"run_id": "{{ ti.xcom_pull(task_ids='plan')['run_id'] }}"},
            form=True,
            execution_timeout=timedelta(hours=2),
        )
        measure = JobOperator(
            task_id="measure",
            task_display_name="Recall, tables and sizes",
            doc_md="The report of the refresh opens from the button of this task, once it has ended; where nothing "
            "changed it is that of the last refresh that had something to tell.",
            module="llmjobs.embeddings.measure",
            config=MeasureConfig(**config.model_dump()),
            overrides={"run_id": "{{ ti.xcom_pull(task_ids='plan')['run_id'] }}"},
            form=True,
            execution_timeout=timedelta(hours=1),
        )
        embed >> finalise >> measure
        announce(index_asset(config.name), measure.output)

    return build()


for _name, _config in each_config(__file__, RefreshConfig):
    refresh_embeddings(_name, _config)
