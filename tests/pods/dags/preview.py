"""A DAG to look at, never run."""

from __future__ import annotations

from airflow.sdk import DAG

from llmjobs.contracts.base import JobConfig
from nightshift.operators.job import JobOperator

with DAG("preview", schedule=None):
    JobOperator(task_id="train", module="llmjobs.training.train", config=JobConfig(), gpus=1)
    JobOperator.partial(task_id="mapped", module="llmjobs.embeddings.embed", config=JobConfig()).expand(
        overrides=[{}, {}]
    )
