"""Configs and results of `refresh_embeddings`: documents become vectors, at the price of what changed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmjobs.contracts.base import JobConfig, JobResult, Strict

Operation = Literal["add", "change", "delete"]


class SourceConfig(Strict):
    """Where the documents are."""

    url: str = Field(
        min_length=1,
        title="Documents folder",
        description="A folder below the lake (documents/guide) or an fsspec URL (s3://bucket/docs)",
    )
    include: tuple[str, ...] = Field(
        default=("**/*.md", "**/*.txt"),
        min_length=1,
        description="Globs below the folder",
    )


class EmbedderConfig(Strict):
    """The model that turns text into vectors. Whatever changes a vector is part of the index's fingerprint."""

    name: str = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="Hub id or folder of a sentence model",
    )
    revision: str | None = Field(default=None, description="Commit of the hub; without one the newest that is at hand")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is about twice as fast on processors that have it (AVX512-BF16, AMX)"
    )
    batch_size: int = Field(default=8, ge=1, le=512, description="Texts a forward pass; sorted by length first")
    document_prefix: str = Field(default="", description="Put before each chunk, if the model wants it (passage: )")
    query_prefix: str = Field(default="", description="Put before each question, if the model wants it (query: )")


class ChunksConfig(Strict):
    """How documents are cut."""

    max_tokens: int = Field(
        default=200,
        ge=32,
        description="Most tokens of a chunk, heading path included; the model's own limit where that is lower",
    )


class ShardsConfig(Strict):
    """How the work is divided into mapped tasks."""

    documents_per_shard: int = Field(default=200, ge=1, description="Documents that are worth a process of their own")
    most: int = Field(default=8, ge=1, le=32, description="Most mapped tasks of one run")


class RefreshConfig(JobConfig):
    """Config of one `refresh_embeddings` DAG."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the index and of its asset")
    schedule: str | None = Field(default=None, description="Cron expression in UTC; without one it is started by hand")
    owner: str = Field(default="nightshift", min_length=1, description="Who answers for the index")
    source: SourceConfig
    embedder: EmbedderConfig = EmbedderConfig()
    chunks: ChunksConfig = ChunksConfig()
    shards: ShardsConfig = ShardsConfig()
    max_delete_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Largest deleted share",
        description="A run that would delete more is refused",
    )
    allow_mass_delete: bool = Field(
        default=False,
        title="Allow a mass delete",
        description="Delete beyond the limit: the documents are really gone",
    )
    cache_days: int = Field(default=90, ge=1, description="Days that an unused vector stays in the cache")


class EmbedConfig(RefreshConfig):
    """Config of one shard's task."""

    run_id: int = Field(default=0, ge=0, description="The plan's run")
    shard: int = Field(default=0, ge=0, description="Which part of the plan")
    documents: int = Field(default=0, ge=0, description="How many documents the plan dealt to it, for the log")


class FinaliseConfig(RefreshConfig):
    """Config of the closing task."""

    run_id: int = Field(default=0, ge=0, description="The plan's run")


class ShardWork(Strict):
    """One mapped task's share of a plan."""

    shard: int
    documents: int


class PlanResult(JobResult):
    """What differs. Documents themselves never travel through XCom.

    Attributes:
        shards: Only those that have work: an unchanged source maps no task at all.
        rebuilding: Model or chunker changed: a new generation is filled beside the one that answers.
    """

    name: str
    run_id: int
    generation_id: int
    rebuilding: bool
    documents: int
    documents_added: int
    documents_changed: int
    documents_deleted: int
    documents_unchanged: int
    shards: list[ShardWork]


class EmbedResult(JobResult):
    """What one shard's task did; a repeated try counts only what it did itself."""

    run_id: int
    shard: int
    published: int
    superseded: int
    vanished: int
    refused: int
    texts_embedded: int


class Refused(Strict):
    """A document that could not be indexed; what the index held of it stays."""

    document: str
    reason: str


class RefreshResult(JobResult):
    """Figures of one refresh.

    Every document that the source lists is one of added, changed, unchanged, refused or deferred. A chunk of a changed
    document counts as changed where a new text took an old one's place.

    Attributes:
        version: Digest of model, chunker and every document's hash: equal versions are equal indexes.
        changed: Whether the index differs from what it was before this run.
        active: Whether this generation answers questions now.
        documents: Documents that the index holds.
        documents_refused: Not indexable (see `refused`); what the index held of them stays, the next run tries again.
        documents_deferred: Left to another run that was there first, or gone since the plan.
        texts_embedded: Texts that the model encoded, tries that were killed included.
        texts_cached: New chunks whose vector was there already.
        vector_index: What was done about the HNSW index: ``kept``, ``built``, ``rebuilt`` or ``none``.
    """

    name: str
    version: str
    changed: bool
    run_id: int
    generation_id: int
    active: bool
    documents: int
    documents_added: int
    documents_changed: int
    documents_deleted: int
    documents_unchanged: int
    documents_refused: int
    documents_deferred: int
    refused: list[Refused]
    chunks: int
    chunks_added: int
    chunks_changed: int
    chunks_deleted: int
    chunks_unchanged: int
    texts_embedded: int
    texts_cached: int
    vector_index: Literal["none", "kept", "built", "rebuilt"]
    embedder: str
    dimensions: int
