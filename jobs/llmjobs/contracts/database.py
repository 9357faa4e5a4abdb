"""Config and result of the migration job."""

from __future__ import annotations

from pydantic import Field

from llmjobs.contracts.base import JobConfig, JobResult


class MigrateConfig(JobConfig):
    """What `llmjobs.database.migrate` needs: nothing but the database's URL, which comes by environment."""


class MigrateResult(JobResult):
    """What a migration did."""

    schema_version: int = Field(description="Number of the last migration that the database has now")
    applied: list[str] = Field(default_factory=list, description="Files applied by this run")
    pgvector: str = Field(description="Version of the pgvector extension")
