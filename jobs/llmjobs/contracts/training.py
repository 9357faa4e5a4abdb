"""The config that every job of the training room takes.

The adapter's version follows from it and from the dataset version, so each job finds what the one before left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmjobs.contracts.base import JobConfig, Strict, digest
from llmjobs.contracts.exporting import Export
from llmjobs.contracts.recipe import Checkpoint, Data, Dist, Lora, Model, Quantisation, Train
from llmjobs.contracts.sweeping import Sweep

SCHEMA = 2
"""Raise it when the same recipe would train another adapter than before."""

EVALUATION_SCHEMA = 2
"""Raise it when the same adapter and rows would be measured otherwise than before."""

AUDIT_SCHEMA = 1
"""Raise it when the same rows and tokenizer would be audited otherwise than before."""

SWEEP_SCHEMA = 2
"""Raise it when the same candidates and rows would be compared otherwise than before."""

_LARGEST_AUTOMATIC_MICRO_BATCH = 8

Metric = Literal["exact_match", "loss", "token_f1", "rouge_l"]
"""What promotion can go by."""


class Regression(Strict):
    """Rows of another dataset, on which the candidate must not get worse."""

    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset in the lake")
    version: str = Field(default="", description="Empty: the one that `current` points at")
    split: Literal["train", "validation", "test"] = Field(default="test", description="Which of its rows")
    metric: Metric | None = Field(default=None, description="Empty: `evaluate.metric`")
    margin: float = Field(ge=0, description="So much of the metric may be lost: the interval must not reach below it")


class Generation(Strict):
    """How many answers are generated, greedily, besides the figures that need one forward pass."""

    rows: int = Field(
        default=0, ge=0, title="Generated answers", description="Rows of each set for which each model answers; 0: none"
    )
    max_new_tokens: int = Field(
        default=128, ge=1, title="Longest answer", description="In tokens; an answer without an end by then has none"
    )


class EarlyStopping(Strict):
    """When a run ends before its last step. It looks at the validation split only."""

    patience: int = Field(default=3, ge=1, description="Validations in a row that were no better than the best before")
    min_delta: float = Field(default=0.0, ge=0, description="A loss lower by no more than this is no better")


class Evaluate(Strict):
    """How base, champion and candidate are compared, on the test split."""

    metric: Metric = Field(
        default="exact_match",
        title="Metric",
        description="Promotion goes by it: share of exact answers, loss per token, or words of generated answers",
    )
    min_gain: float = Field(
        default=0.0,
        ge=0,
        title="Gain",
        description="The 95% interval of the gain over the base, and over the champion, must lie above this",
    )
    min_rows: int = Field(default=20, ge=1, title="Fewest rows", description="Below it nothing is promoted")
    regression: tuple[Regression, ...] = Field(
        default=(), title="Regression sets", description="Other datasets that the candidate must not get worse on"
    )
    generation: Generation = Generation()
    approval: bool = Field(
        default=False, title="Ask a person", description="A better candidate becomes champion once a person approves"
    )
    approval_hours: float = Field(default=24, gt=0, description="How long an answer is waited for; then it is no")
    micro_batch_size: int = Field(default=8, ge=1, description="Rows that are measured at once")
    validate_every_steps: int = Field(
        default=0, ge=0, description="Loss on the validation split during training; 0 measures it never"
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="End when the validation loss falls no more, and publish the best checkpoint"
    )

    @model_validator(mode="after")
    def _measured(self) -> Self:
        """Refuse rules that no evaluation can meet."""
        of = {"evaluate.metric": self.metric} | {
            f"the metric of regression set {one.dataset}": one.metric for one in self.regression if one.metric
        }
        for where, metric in of.items():
            if metric in {"token_f1", "rouge_l"} and self.generation.rows < self.min_rows:
                raise ValueError(
                    f"{where} ({metric}) needs generated answers: generation.rows ({self.generation.rows}) must be at "
                    f"least min_rows ({self.min_rows})"
                )
        named = [(one.dataset, one.split) for one in self.regression]
        if len(set(named)) < len(named):
            raise ValueError("two regression sets have one dataset and split; give each once")
        return self


class Resources(Strict):
    """What the training and evaluation pods ask for."""

    cpus: float = Field(default=2, gt=0)
    memory_gib: float = Field(default=8, gt=0)
    gpus: int = Field(default=0, ge=0, le=16)
    gpu: str = Field(
        default="",
        title="GPU type",
        description="What the estimate reckons with: l4, a10g, a100-80gb, h100, ...; empty: what is here, if anything",
    )

    @model_validator(mode="after")
    def _type_of_something(self) -> Self:
        if self.gpu and not self.gpus:
            raise ValueError(f"gpu ({self.gpu}) is the type of gpus, which is 0: set gpus too, or leave gpu out")
        return self


class Limits(Strict):
    """What a training may take before a person is asked. It changes neither the adapter nor how it is computed."""

    max_hours: float | None = Field(
        default=None, gt=0, title="Most hours", description="A training that is estimated to take longer asks a person"
    )
    max_cost: float | None = Field(
        default=None, gt=0, title="Highest cost", description="A training that is estimated to cost more asks a person"
    )
    price_per_hour: float | None = Field(
        default=None, gt=0, title="Price", description="Of one GPU and hour; without a GPU, of the machine"
    )
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="Of the price and of the highest cost")
    tokens_per_second: float | None = Field(
        default=None, gt=0, description="Of one device, where it is known; empty: as past runs, or as the GPU's type"
    )
    approval_hours: float = Field(default=24, gt=0, description="How long an answer is waited for; then it is no")

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.max_cost and not self.price_per_hour:
            raise ValueError(f"max_cost ({self.max_cost:g} {self.currency}) needs price_per_hour, which is empty")
        return self

    @property
    def asks(self) -> bool:
        """Whether there is anything that an estimate could exceed."""
        return bool(self.max_hours or self.max_cost)


def _named(value: Any) -> Any:
    """Accept ``model: Qwen/Qwen3-8B`` for ``model: {name: Qwen/Qwen3-8B}``."""
    return {"name": value} if isinstance(value, str) else value


class TrainConfig(JobConfig):
    """Config of one `train_adapter` DAG."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the adapter in the lake and of its asset")
    owner: str = Field(default="nightshift", min_length=1, description="Who answers for the adapter")
    schedule: str | None = Field(
        default=None, description="Cron expression in UTC, beside the dataset's own news; without one only those count"
    )
    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset in the lake")
    dataset_version: str = Field(
        default="", title="Dataset version", description="Empty: the one that `current` points at"
    )
    model: Annotated[Model, BeforeValidator(_named)]
    quantisation: Quantisation = Quantisation()
    lora: Lora = Lora()
    data: Data = Data()
    train: Train = Train()
    dist: Dist = Dist()
    checkpoint: Checkpoint = Checkpoint()
    evaluate: Evaluate = Evaluate()
    sweep: Sweep | None = None
    resources: Resources = Resources()
    limits: Limits = Limits()
    export: Export = Export()
    rollback_to: str = Field(
        default="", title="Roll back to", description="Adapter version to make champion again; nothing else happens"
    )
    approved: str = Field(default="", description="Who approved the candidate, and when; set by Airflow")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.dist.world_size:
            self.batching(self.dist.world_size)
        if self.sweep and self.sweep.fractions and self.data.fraction != 1:
            raise ValueError(f"data.fraction ({self.data.fraction:g}) and sweep.fractions clash: give one of them")
        if self.sweep and self.evaluate.metric not in {"exact_match", "loss"}:
            raise ValueError(f"a sweep is compared by exact_match or loss, not by {self.evaluate.metric}")
        self._can_choose()
        self._can_be_computed()
        return self

    def _can_choose(self) -> None:
        every, steps = self.evaluate.validate_every_steps, self.train.max_steps
        field = "evaluate.early_stopping" if self.evaluate.early_stopping else "checkpoint.keep_best"
        if self.publishes_best and not every:
            raise ValueError(f"{field} needs validations: set evaluate.validate_every_steps, which is 0")
        if self.publishes_best and steps and every > steps:
            raise ValueError(
                f"{field} needs validations: evaluate.validate_every_steps ({every}) is more than "
                f"train.max_steps ({steps})"
            )

    def _can_be_computed(self) -> None:
        """Refuse what the libraries would break off, or spoil, hours later."""
        storage, dtype, strategy = self.quantisation.storage, self.model.dtype, self.dist.strategy
        if storage not in {"uint8", dtype}:
            raise ValueError(
                f"quantisation.storage ({storage}) must be uint8 or model.dtype ({dtype}): DeepSpeed turns every "
                "other float into the model's, which destroys the 4-bit weights inside"
            )
        if self.model.attention == "flash_attention_2" and dtype == "float32":
            raise ValueError(f"model.attention (flash_attention_2) computes in 16 bits, but model.dtype is {dtype}")
        if strategy.startswith("zero") and self.train.optimizer != "adamw_torch":
            # The state in 8 bits is quantised in blocks of the shard that a process holds: no other cut can take it.
            raise ValueError(
                f"train.optimizer ({self.train.optimizer}) and dist.strategy ({strategy}) clash: ZeRO shards a state "
                "of 32 bits, and one of 8 would tie a checkpoint to the number of processes; take adamw_torch, or ddp"
            )
        if strategy == "zero3" and self.lora.dora:
            raise ValueError(
                "lora.dora and dist.strategy (zero3) clash: DoRA needs the whole frozen weights at every step, which "
                "ZeRO-3 shares out; take zero2 or ddp"
            )

    @property
    def publishes_best(self) -> bool:
        """Whether the adapter is the checkpoint with the lowest validation loss, not the last one."""
        return self.checkpoint.keep_best or self.evaluate.early_stopping is not None

    def candidate(self, settings: Mapping[str, int | float]) -> Self:
        """Return the config of one candidate of the sweep.

        Args:
            settings: Its values, by the dotted paths of their fields.
        """
        changed: dict[str, Any] = {"sweep": None}
        for path, value in settings.items():
            name, _, field = path.partition(".")
            section = changed.get(name, getattr(self, name))
            changed[name] = type(section).model_validate({**section.model_dump(), field: value})
        return self.model_copy(update=changed)

    @property
    def candidates(self) -> tuple[Self, ...]:
        """The configs of the sweep, in its order; without a sweep this one alone."""
        return tuple(map(self.candidate, self.sweep.candidates)) if self.sweep else (self,)

    def batching(self, processes: int) -> Batching:
        """Return how the global batch is cut for so many processes.

        Raises:
            ValueError: It cannot be cut evenly; the text has the numbers.
        """
        rows, rest = divmod(self.train.global_batch_size, processes)
        if rest or not rows:
            raise ValueError(
                f"global_batch_size ({self.train.global_batch_size}) cannot be shared evenly by {processes} processes"
            )
        micro = self.train.micro_batch_size or _largest_divisor(rows, _LARGEST_AUTOMATIC_MICRO_BATCH)
        if rows % micro:
            raise ValueError(
                f"global_batch_size ({self.train.global_batch_size}) over {processes} processes is {rows} rows for "
                f"each, which micro_batch_size ({micro}) does not divide"
            )
        return Batching(processes=processes, micro_batch_size=micro, accumulation=rows // micro)

    def recipe(self) -> dict[str, Any]:
        """Return what decides the adapter, besides the rows and the base's weights.

        Where it is computed (`dist`, micro batch, packing, storage, checkpoints) and how it is measured do not: the
        global batch stays the same optimisation on other devices.
        """
        whole = self.model_dump(mode="json", include={"quantisation", "lora", "data", "train"})
        for field in ("micro_batch_size", "activation_checkpointing"):
            del whole["train"][field]
        del whole["data"]["packing"]
        del whole["quantisation"]["storage"]
        if self.publishes_best:
            whole["best"] = self.evaluate.model_dump(mode="json", include={"validate_every_steps", "early_stopping"})
        return {**whole, "dtype": self.model.dtype}

    def adapter_version(self, dataset_version: str, base_revision: str) -> str:
        """Return the content-addressed version of the adapter that this config trains."""
        return digest([SCHEMA, dataset_version, base_revision, self.recipe()])[:16]

    def audit_version(self, dataset_version: str, base_revision: str) -> str:
        """Return the version of the audit of a dataset version under a base's tokenizer."""
        fields = {"max_length_tokens", "on_overflow", "max_dropped_share", "fraction"}
        settings = self.data.model_dump(mode="json", include=fields)
        return digest([AUDIT_SCHEMA, self.dataset, dataset_version, base_revision, settings])[:16]

    def evaluation_version(
        self, adapter_version: str, champion_version: str, dataset_version: str, regression_versions: list[str]
    ) -> str:
        """Return the version of the evaluation of an adapter against a champion (empty: none) on a dataset's test.

        Args:
            adapter_version: The candidate.
            champion_version: Its rival.
            dataset_version: Whose test split is measured.
            regression_versions: One for each of ``evaluate.regression``.
        """
        sets = [[one.dataset, version, one.split]
                for one, version in zip(self.evaluate.regression, regression_versions, strict=True)]  # fmt: skip
        budget = self.evaluate.generation.model_dump() if self.evaluate.generation.rows else None
        return digest([EVALUATION_SCHEMA, adapter_version, champion_version, dataset_version, sets, budget])[:16]

    def sweep_version(self, adapter_versions: list[str], dataset_version: str) -> str:
        """Return the version of the comparison of a sweep's candidates on a dataset's validation split."""
        return digest([SWEEP_SCHEMA, adapter_versions, dataset_version, self.evaluate.metric])[:16]

    def decision_version(self, evaluation_version: str) -> str:
        """Return the version of the decision about an evaluation under this config's rules."""
        rules = self.evaluate.model_dump(mode="json", include={"metric", "min_gain", "min_rows", "regression"})
        return digest([evaluation_version, rules])[:16]


class Batching(Strict):
    """A global batch cut into what each process does: ``processes * micro_batch_size * accumulation`` rows."""

    processes: int
    micro_batch_size: int
    accumulation: int


def _largest_divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, min(number, limit) + 1) if number % n == 0)
