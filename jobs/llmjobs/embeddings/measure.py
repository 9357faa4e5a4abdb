"""What a refreshed index is worth, measured after each refresh: recall, sound tables, lag, cache hits, tokens, sizes.

A night that changed nothing measures nothing but lag and sizes. A report tells it all. What is wrong fails the task
with a sentence after the documents are published, so nobody is told of a new version of an index that lost its quality.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass

from psycopg import sql

from llmjobs.contracts.embeddings import MeasureConfig, MeasureResult, RefreshResult
from llmjobs.contracts.environment import Identity
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.generations import Generation, generation
from llmjobs.embeddings.recall import measured_recall
from llmjobs.embeddings.report.publication import publish_report
from llmjobs.embeddings.runs import finished_result, last_measured, note_measured
from llmjobs.embeddings.table_checks import check_tables
from llmjobs.lake import Lake
from llmjobs.mlflow_server import Reached, reach
from llmjobs.results import main

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk.

    Attributes:
        vector_bytes: Vectors of the generation, without their index.
        index_bytes: Their HNSW index.
        chunk_bytes: Chunks of all generations, with their indexes.
        cache_bytes: Vectors that need not be paid for again, of all indexes.
    """

    vector_bytes: int
    index_bytes: int
    chunk_bytes: int
    cache_bytes: int


def run(config: MeasureConfig) -> MeasureResult:
    """Measure the index in the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        found = mirrored(measure(connection, config))
        problems = found.broken + _limits_passed(found, config)
        url = publish_report(connection, Lake.from_environment(), config, found, problems)
    if problems:
        raise BadData(
            f"{config.name}: {'; '.join(problems)}. The documents are published, the version is not announced; "
            f"report: {url}"
        )
    return found.model_copy(update={"report_url": url})


def measure(connection: Connection, config: MeasureConfig) -> MeasureResult:
    """Measure what a finished run left.

    Raises:
        BadConfig: There is no such run, or it was not finished.
    """
    refreshed = finished_result(connection, config.name, config.run_id)
    if refreshed is None:
        raise BadConfig(f"{config.name}: run {config.run_id} is not in the database, or was not finished")
    target = generation(connection, refreshed.generation_id)
    if target is None:
        raise BadConfig(f"{config.name}: the generation of run {config.run_id} was replaced: start a new run")
    looked = refreshed.changed or refreshed.vector_index != "kept"
    recall = measured_recall(connection, target, config.watch.queries) if looked else None
    verdict = check_tables(connection, target) if looked else None
    new = refreshed.texts_embedded + refreshed.texts_cached
    sizes = _sizes(connection, target)
    growth = _growth(connection, target, refreshed, sizes)
    if looked:
        figures = {**asdict(sizes), "recall": recall.value if recall else None}
        note_measured(connection, config.run_id, figures)
    return MeasureResult(
        **refreshed.model_dump(),
        recall=recall.value if recall else None,
        recall_queries=recall.queries if recall else 0,
        broken=verdict.broken if verdict else [],
        lag_hours=_lag_hours(connection, target),
        cache_hit_share=refreshed.texts_cached / new if new else None,
        growth_bytes=growth,
        **asdict(sizes),
    )


def mirrored(result: MeasureResult) -> MeasureResult:
    """Write the figures to MLflow, one run a refresh; without MLflow the note says so."""
    mlflow, note = reach()
    if mlflow is None:
        return result.model_copy(update={"mlflow_note": note})
    try:
        return result.model_copy(update={"mlflow_run_url": _logged(mlflow, result)})
    except Exception as error:
        note = f"MLflow failed ({type(error).__name__}: {str(error)[:200]}); the figures are in the database"
        logger.warning(note)
        return result.model_copy(update={"mlflow_note": note})


def _lag_hours(connection: Connection, target: Generation) -> float:
    """Return the age of the oldest document that failed and is still not indexed as it is; 0 where there is none."""
    row = connection.execute(
        "select extract(epoch from now() - min(first_failed_at)) / 3600 from document_failure where index_id = %s",
        [target.index_id],
    ).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def _sizes(connection: Connection, target: Generation) -> Sizes:
    names = [target.table, target.vector_index, sql.Identifier("chunk"), sql.Identifier("embedding_cache")]
    texts = [name.as_string(connection) for name in names]
    row = connection.execute(
        """
        select pg_table_size(to_regclass(%s)), coalesce(pg_relation_size(to_regclass(%s)), 0),
            pg_total_relation_size(to_regclass(%s)), pg_total_relation_size(to_regclass(%s))
        """,
        texts,
    ).fetchone()
    assert row is not None
    return Sizes(*(int(size) for size in row))


def _growth(connection: Connection, target: Generation, refreshed: RefreshResult, now: Sizes) -> int | None:
    """Return by how many bytes vectors and index grew since the last measured run, where its version is this one's."""
    last = last_measured(connection, target.index_id, refreshed.run_id)
    this = refreshed.version, target.generation_id
    if last is None or (last[0]["version"], last[0]["generation_id"]) != this:
        return None
    return now.vector_bytes + now.index_bytes - int(last[1]["vector_bytes"]) - int(last[1]["index_bytes"])


def _limits_passed(result: MeasureResult, config: MeasureConfig) -> list[str]:
    problems = []
    least, most = config.watch.min_recall, config.watch.max_lag_hours
    if result.recall is not None and result.recall < least:
        problems.append(
            f"recall at 10 is {result.recall:.3f} ({result.recall_queries} queries), watch.min_recall is {least:g}: "
            "raise storage.m or storage.ef_construction, or rebuild the vector index"
        )
    if most is not None and result.lag_hours > most:
        problems.append(
            f"a document has failed for {result.lag_hours:.1f} hours and watch.max_lag_hours is {most:g}: "
            "mend or remove the documents that `refused` names"
        )
    return problems


def _logged(mlflow: Reached, result: MeasureResult) -> str:
    client, experiment = mlflow.client, f"nightshift/index/{result.name}"
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment)
    tags = {f"nightshift.{key}": str(value) for key, value in Identity.from_environment().as_dict().items()}
    run_id = client.create_run(experiment_id, tags=tags, run_name=f"refresh {result.run_id}").info.run_id
    values = result.model_dump()
    for key in ("embedder", "version", "vector_index"):
        client.log_param(run_id, key, values[key])
    figures = {key: value for key, value in values.items() if type(value) in {int, float}}
    for key, value in figures.items():
        client.log_metric(run_id, key, float(value), step=result.run_id)
    client.set_terminated(run_id, "FINISHED")
    return mlflow.run_url(experiment_id, run_id)


if __name__ == "__main__":
    sys.exit(main(MeasureConfig, run))
