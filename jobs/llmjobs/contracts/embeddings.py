"""Configs and results of `refresh_embeddings`: documents become vectors, at the price of what changed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import JobConfig, JobResult, Strict

Operation = Literal["add", "change", "delete"]


Scalar = str | int | float | bool
"""A value of a document's metadata, which filters compare."""

PUBLIC = "public"
"""Tenant of documents whose source names none."""


class _Source(Strict):
    """What every kind of source has."""

    name: str = Field(
        default="documents",
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Name of the source in its index; another name is another source",
    )
    tenant: str = Field(default=PUBLIC, min_length=1, description="Who may see its documents; search names tenants")
    tenant_field: str = Field(
        default="", description="Metadata field that names a document's tenant; `tenant` where a document has none"
    )
    metadata: dict[str, Scalar] = Field(
        default={}, description="Of every document of the source; a document's own values come first"
    )
    language: str = Field(
        default="",
        pattern=r"^([a-z]{2,3})?$",
        description="ISO 639 code of all its documents; empty: told from the text",
    )
    chunker: Literal["auto", "markdown", "text", "whole"] = Field(
        default="auto",
        description="auto: along headings where the documents have them; whole: a document is one chunk where it fits",
    )


class FilesSource(_Source):
    """A folder or an object store."""

    kind: Literal["files"] = "files"
    url: str = Field(
        min_length=1,
        title="Documents folder",
        description="A folder below the lake (documents/guide) or an fsspec URL (s3://bucket/docs); {date} is each day "
        "of the run's data interval",
    )
    include: tuple[str, ...] = Field(
        default=("**/*",), min_length=1, description="Globs below the folder; of all files those that can be read"
    )
    exclude: tuple[str, ...] = Field(default=(), description="Globs below the folder that are left out")
    text_field: str = Field(default="text", min_length=1, description="JSONL: field with the document's text")
    key_field: str = Field(default="id", min_length=1, description="JSONL: field that names the document in its file")


class SqlSource(_Source):
    """A table or query of a PostgreSQL database."""

    kind: Literal["sql"] = "sql"
    url_env: str = Field(
        default="LLMJOBS_DATABASE_URL",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Environment variable with the database's URL; never the URL itself",
    )
    query: str = Field(min_length=1, description="A table (schema.table) or a select statement; read only")
    key: str = Field(min_length=1, description="Column that names the row for ever")
    text: tuple[str, ...] = Field(min_length=1, description="Columns that make the text, one paragraph each")
    title: str = Field(default="", description="Column with the title")
    fields: tuple[str, ...] = Field(default=(), description="Columns that become metadata")
    updated: str = Field(
        default="",
        description="Column with the time of the last change: only newer rows are read; empty: all, each time",
    )
    lag_seconds: int = Field(
        default=3600, ge=0, description="Rows changed so shortly before the watermark are read again: late commits"
    )
    reconcile_every: int = Field(
        default=7, ge=1, description="Every so many runs all keys are compared, which finds deleted rows"
    )


class SitemapSource(_Source):
    """The pages that a web site's sitemap names."""

    kind: Literal["sitemap"] = "sitemap"
    url: str = Field(pattern=r"^https?://", description="URL of sitemap.xml, or of an index of sitemaps")
    include: tuple[str, ...] = Field(default=("*",), min_length=1, description="Globs of page URLs")
    exclude: tuple[str, ...] = Field(default=(), description="Globs of page URLs that are left out")
    requests_per_second: float = Field(default=2.0, gt=0, description="Politeness")
    most_pages: int = Field(default=10_000, ge=1, description="More are an error, not a part of the site")
    user_agent: str = Field(default="nightshift", min_length=1, description="How we present ourselves")


class DatasetSource(_Source):
    """The rows of a published instruction dataset."""

    kind: Literal["dataset"] = "dataset"
    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset")
    sides: tuple[Literal["train", "validation", "test"], ...] = Field(
        default=("train",), min_length=1, description="Sides of the split; examples for prompts come from train only"
    )


class DirectSource(_Source):
    """Documents that programs write into an index themselves: no config names it, `upsert` fills it."""

    name: Literal["direct"] = "direct"


SourceConfig = FilesSource | SqlSource | SitemapSource | DatasetSource


class RateLimits(Strict):
    """What a provider allows, and what we allow ourselves."""

    requests_per_minute: int | None = Field(default=None, ge=1, description="Of all shards of a run together")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Of all shards of a run together")
    max_cost: float | None = Field(default=None, gt=0, description="A run stops before it costs more, in `currency`")
    price_per_million_tokens: float = Field(default=0.0, ge=0, description="In `currency`")
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="ISO 4217 code")


class EmbedderConfig(Strict):
    """The model that turns text into vectors. Whatever changes a vector is part of the index's fingerprint."""

    backend: Literal["local", "onnx", "openai", "cohere"] = Field(
        default="local",
        description="local: sentence-transformers on this machine; onnx: ONNX Runtime; openai: any endpoint of that "
        "form (OpenAI, vLLM, TEI, Ollama); cohere: Cohere's",
    )
    name: str = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="Hub id or folder of a sentence model; of a provider the model's name",
    )
    revision: str | None = Field(default=None, description="Commit of the hub; without one the newest that is at hand")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16 is about twice as fast on processors that have it (AVX512-BF16, AMX); auto: what a short "
        "probe of the machine finds faster, kept in the fingerprint",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one")
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=2048,
        description="Most texts of a forward pass (empty: 64) or of a request (empty: 96); sorted by length first",
    )
    batch_tokens: int = Field(
        default=16_384, ge=1, description="Most tokens of a forward pass or request, padding included"
    )
    document_prefix: str = Field(default="", description="Put before each chunk, if the model wants it (passage: )")
    query_prefix: str = Field(default="", description="Put before each question, if the model wants it (query: )")
    dimensions: int | None = Field(
        default=None, ge=8, description="First so many dimensions (Matryoshka models); empty: all that the model has"
    )
    onnx_file: str = Field(
        default="", description="onnx: file in the model's folder or a path; empty: the only one there is"
    )
    url: str = Field(default="", description="openai, cohere: base URL; empty: the provider's own")
    key_env: str = Field(
        default="", pattern=r"^([A-Z][A-Z0-9_]*)?$", description="openai, cohere: environment variable with the API key"
    )
    tokenizer: str = Field(
        default="",
        description="openai, cohere: model whose tokenizer.json counts tokens; empty: by bytes, never too few",
    )
    max_tokens: int | None = Field(default=None, ge=32, description="openai, cohere: most tokens that the model reads")
    limits: RateLimits = RateLimits()


class ChunksConfig(Strict):
    """How documents are cut."""

    max_tokens: int = Field(
        default=200,
        ge=32,
        description="Most tokens of a chunk, heading path included; the model's own limit where that is lower",
    )


class RetryConfig(Strict):
    """What happens to a document that cannot be read, cut or embedded; what the index holds of it stays."""

    attempts: int = Field(
        default=3, ge=1, description="Failed tries until it is quarantined: tried again only when it changes"
    )
    first_hours: float = Field(
        default=12.0, ge=0, description="Least time until the second try; doubled with each further one"
    )


class StorageConfig(Strict):
    """How vectors are stored and searched."""

    type: Literal["vector", "halfvec"] = Field(
        default="vector", description="halfvec: half the space, 16-bit floats; up to 4,000 dimensions in an index"
    )
    index: Literal["hnsw", "none"] = Field(
        default="hnsw",
        description="none: every search compares all vectors",
    )
    m: int = Field(default=16, ge=2, le=100, description="HNSW: links of a vector")
    ef_construction: int = Field(default=64, ge=4, le=1000, description="HNSW: candidates while building")


class RolloutConfig(Strict):
    """How a new generation (other model, chunks or storage) takes over."""

    documents_per_run: int | None = Field(
        default=None, ge=1, description="Most documents that a run puts into the new generation; empty: all at once"
    )
    min_coverage: float = Field(
        default=1.0, ge=0, le=1, description="Share of the old generation's documents it must hold"
    )
    min_recall: float = Field(default=0.95, ge=0, le=1, description="Recall at 10 of its index against exact search")
    golden: str = Field(
        default="", description="YAML file in the lake with questions and the documents that answer them"
    )
    max_golden_drop: float = Field(
        default=0.02, ge=0, le=1, description="Largest drop of the share of golden questions answered in the first ten"
    )
    keep_days: int = Field(
        default=7, ge=0, description="Days that the former generation is kept up to date for a rollback"
    )


class WatchConfig(Strict):
    """What is measured after each refresh."""

    queries: int = Field(default=50, ge=0, description="Stored vectors whose neighbours are compared with exact search")
    min_recall: float = Field(
        default=0.9, ge=0, le=1, description="Recall at 10 below which the run fails after publishing"
    )
    max_lag_hours: float | None = Field(default=None, gt=0, description="Oldest unindexed change that is no failure")


class ShardsConfig(Strict):
    """How the work is divided into mapped tasks."""

    documents_per_shard: int = Field(default=200, ge=1, description="Documents that are worth a process of their own")
    most: int = Field(default=8, ge=1, le=32, description="Most mapped tasks of one run")


class RefreshConfig(JobConfig):
    """Config of one `refresh_embeddings` DAG."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the index and of its asset")
    schedule: str | None = Field(default=None, description="Cron expression in UTC; without one it is started by hand")
    owner: str = Field(default="nightshift", min_length=1, description="Who answers for the index")
    source: SourceConfig | None = Field(default=None, discriminator="kind", description="Where the documents are")
    sources: tuple[Annotated[SourceConfig, Field(discriminator="kind")], ...] = Field(
        default=(), description="Instead of `source`: several, each with a name of its own"
    )
    interval_start: str = Field(default="", description="Start of the run's data interval; Airflow fills it in")
    interval_end: str = Field(default="", description="End of the run's data interval; Airflow fills it in")
    embedder: EmbedderConfig = EmbedderConfig()
    chunks: ChunksConfig = ChunksConfig()
    shards: ShardsConfig = ShardsConfig()
    retry: RetryConfig = RetryConfig()
    storage: StorageConfig = StorageConfig()
    rollout: RolloutConfig = RolloutConfig()
    watch: WatchConfig = WatchConfig()
    rehash_every: int = Field(
        default=7, ge=1, description="Every so many runs all documents are read, whatever size and time of change say"
    )
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

    @model_validator(mode="before")
    @classmethod
    def _kind_may_be_left_out(cls, values: Any) -> Any:
        """A source without `kind` is a folder of files."""
        if not isinstance(values, dict):
            return values
        found = dict(values)
        if isinstance(found.get("source"), dict):
            found["source"] = {"kind": "files", **found["source"]}
        if isinstance(found.get("sources"), list | tuple):
            found["sources"] = [
                {"kind": "files", **source} if isinstance(source, dict) else source for source in found["sources"]
            ]
        return found

    @model_validator(mode="after")
    def _sources_have_names(self) -> Self:
        if bool(self.source) == bool(self.sources):
            raise ValueError("give `source` or `sources`, one of both")
        names = [source.name for source in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: each needs a name of its own, got {', '.join(names)}")
        if DirectSource().name in names:
            raise ValueError("the source name `direct` is that of documents written by upsert: choose another name")
        return self

    @property
    def inputs(self) -> tuple[SourceConfig, ...]:
        """The sources of the index."""
        return self.sources or ((self.source,) if self.source else ())


class EmbedConfig(RefreshConfig):
    """Config of one shard's task."""

    run_id: int = Field(default=0, ge=0, description="The plan's run")
    shard: int = Field(default=0, ge=0, description="Which part of the plan")
    documents: int = Field(default=0, ge=0, description="How many documents the plan dealt to it, for the log")


class FinaliseConfig(RefreshConfig):
    """Config of the closing task."""

    run_id: int = Field(default=0, ge=0, description="The plan's run")


class MeasureConfig(RefreshConfig):
    """Config of the task that measures the refreshed index."""

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
    source: str = ""


class RefreshResult(JobResult):
    """Figures of one refresh.

    Every document that the sources list is one of added, changed, unchanged, refused, deferred, waiting or
    quarantined. A chunk of a changed document counts as changed where a new text took an old one's place.

    Attributes:
        version: Digest of model, chunker and every document's hash: equal versions are equal indexes.
        changed: Whether the index differs from what it was before this run.
        active: Whether this generation answers questions now.
        documents: Documents that the index holds.
        documents_moved: Of those added and deleted: the same content under another key.
        documents_refused: Not indexable (see `refused`); what the index held of them stays, and they are tried again
            as the config's `retry` says.
        documents_deferred: Left to another run that was there first, or gone since the plan.
        documents_waiting: Failed now or before, and due for another try later.
        documents_quarantined: Failed too often: tried again only when they change.
        texts_embedded: Texts that the model encoded, tries that were killed included.
        texts_cached: New chunks whose vector was there already.
        tokens_embedded: Of those texts, as the model reads them.
        cost: What a provider was paid, in the config's currency.
        next_generation_id: The generation that is built beside the one that answers; 0 where none is.
        next_documents: How many documents that one holds.
        held_back: Why it does not answer yet: what the gates found, in sentences.
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
    documents_moved: int = 0
    documents_waiting: int = 0
    documents_quarantined: int = 0
    tokens_embedded: int = 0
    cost: float = 0.0
    next_generation_id: int = 0
    next_documents: int = 0
    held_back: list[str] = Field(default=[])


class MeasureResult(RefreshResult):
    """Figures of one refresh, and what the index is worth after it.

    Attributes:
        recall: Of the vector index at 10 against an exact scan; None where nothing changed.
        recall_queries: Stored vectors that were asked for their neighbours.
        broken: What is wrong in the tables, in sentences.
        lag_hours: Age of the oldest document that failed and is still not indexed as it is.
        cache_hit_share: Share of the new chunks whose vector needed no model; None where there was none.
        vector_bytes: Vectors of the generation, without their index.
        index_bytes: Their HNSW index.
        chunk_bytes: Chunks of all generations, with their indexes.
        cache_bytes: The cache of vectors, of all indexes.
        growth_bytes: By how much vectors and their index grew since the run that made this version; None where this
            run made it. Identical refreshes leave them as they are.
        mlflow_run_url: The run with these figures; empty where MLflow was not reached, as `mlflow_note` says.
        report_url: The report, a web page: of this run, or of the last one that had something to tell.
    """

    recall: float | None
    recall_queries: int
    broken: list[str]
    lag_hours: float
    cache_hit_share: float | None
    vector_bytes: int
    index_bytes: int
    chunk_bytes: int
    cache_bytes: int
    growth_bytes: int | None = None
    mlflow_run_url: str = ""
    mlflow_note: str = ""
    report_url: str = ""
