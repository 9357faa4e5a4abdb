"""The recipe of an adapter, and what the training room's jobs hand back.

All four jobs (plan, train, evaluate, promote) take the same `TrainConfig`: the adapter's version follows from it
and from the dataset version, so each of them finds what the one before left.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmjobs.contracts.base import JobConfig, JobResult, Strict, digest

SCHEMA = 2
"""Raise it when the same recipe would train another adapter than before."""

EVALUATION_SCHEMA = 2
"""Raise it when the same adapter and rows would be measured otherwise than before."""

AUDIT_SCHEMA = 1
"""Raise it when the same rows and tokenizer would be audited otherwise than before."""

SWEEP_SCHEMA = 1
"""Raise it when the same candidates and rows would be compared otherwise than before."""

_LARGEST_AUTOMATIC_MICRO_BATCH = 8


class Model(Strict):
    """The frozen base."""

    name: str = Field(min_length=1, title="Base model", description="Hub id, or path of a model's folder")
    revision: str | None = Field(
        default=None,
        title="Revision",
        description="Commit, tag or branch of the hub; empty takes what is installed or newest",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        title="Number format",
        description="Of everything that is not quantised, and of the computation",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(default="sdpa", description="Attention kernel")


class Quantisation(Strict):
    """How the frozen base is stored (QLoRA, arXiv:2305.14314)."""

    type: Literal["nf4", "none"] = Field(default="nf4", description="4-bit NormalFloat, or none for plain LoRA")
    double: bool = Field(
        default=True, description="Quantise the quantisation constants too: 0.37 bit less per parameter"
    )
    storage: Literal["uint8", "bfloat16", "float32"] = Field(
        default="uint8",
        title="Storage",
        description="Number format whose bytes hold the 4-bit weights: uint8, or the model's own",
    )

    @model_validator(mode="after")
    def _stores_something(self) -> Self:
        if self.type == "none" and self.storage != "uint8":
            raise ValueError(f"storage ({self.storage}) is of 4-bit weights, but type is none: leave it out")
        return self


class Lora(Strict):
    """The adapter (LoRA, arXiv:2106.09685)."""

    r: int = Field(default=16, ge=1, le=512, title="Rank", description="Rank of the adapter's matrices")
    alpha: int = Field(default=32, ge=1, title="Alpha", description="The adapter's output is scaled by alpha / rank")
    dropout: float = Field(
        default=0.05, ge=0, lt=1, title="Dropout", description="On the adapter's input, in training only"
    )
    rslora: bool = Field(
        default=False, title="rsLoRA", description="Scale by alpha / sqrt(rank) instead (arXiv:2312.03732)"
    )
    dora: bool = Field(
        default=False,
        title="DoRA",
        description="Learn each output's magnitude too (arXiv:2402.09353); vLLM does not serve such adapters",
    )
    target: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        title="Layers",
        description="Every linear layer but the output head, or a list of their names, such as q_proj and v_proj",
    )

    @model_validator(mode="after")
    def _targets_layers(self) -> Self:
        if not self.target:
            raise ValueError("target is an empty list: name layers, or give all-linear")
        if "lm_head" in self.target:
            raise ValueError(f"target holds lm_head ({', '.join(self.target)}): the output head is never adapted")
        return self


class Data(Strict):
    """How rows become tokens."""

    max_length_tokens: int = Field(
        default=2048, ge=8, title="Longest row", description="In tokens; an answer is never cut"
    )
    on_overflow: Literal["refuse", "drop", "truncate_prompt"] = Field(
        default="refuse",
        title="Longer rows",
        description="Refuse the dataset, leave the longer rows out, or cut the beginning of their first question; "
        "what is left out or cut is counted, and a row that is too long even so is refused",
    )
    max_dropped_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Refuse the dataset when more than this share of its rows would be dropped",
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Fraction",
        description="Part of the train rows, the best by the dataset's rank; below 1 the contract must score its rows",
    )
    packing: Literal["none", "bfd"] = Field(
        default="none",
        title="Packing",
        description="bfd: several rows in one sequence that do not see each other, instead of padding "
        "(best fit, the longest first); a step's rows stay the same",
    )


class Train(Strict):
    """The optimisation."""

    epochs: float | None = Field(
        default=None, gt=0, le=1000, title="Epochs", description="Passes over the rows; 1 when steps are empty"
    )
    max_steps: int | None = Field(default=None, ge=1, title="Steps", description="Optimiser steps, instead of epochs")
    global_batch_size: int = Field(
        default=16, ge=1, title="Global batch size", description="Rows per optimiser step over all devices together"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, title="Micro batch size", description="Rows that a device holds at once; empty chooses it"
    )
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, title="Learning rate", description="Highest of the schedule")
    warmup_steps: int = Field(default=0, ge=0, title="Warm-up steps", description="Steps from 0 to the learning rate")
    scheduler: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        default="cosine", title="Schedule", description="Of the learning rate after the warm-up"
    )
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        default="adamw_torch", title="Optimiser", description="AdamW, or one with its state in 8 bits"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are scaled down to this norm")
    seed: int = Field(
        default=7, ge=0, le=2**31, title="Seed", description="Of the adapter's start, the dropout and the order"
    )
    activation_checkpointing: bool | None = Field(
        default=None, description="Recompute activations to save memory; empty: on a GPU yes, on a CPU no"
    )
    group_by_length: bool = Field(
        default=False,
        title="Group by length",
        description="Rows of like length share an optimiser step: less padding, a less random order",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError(f"epochs ({self.epochs:g}) and max_steps ({self.max_steps}) clash: give one of them")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be fewer than max_steps ({self.max_steps}), "
                "or the learning rate is never reached"
            )
        return self


class Dist(Strict):
    """Processes, and what they share. It changes where a run computes, not what it computes."""

    strategy: Literal["auto", "ddp", "zero1", "zero2", "zero3"] = Field(
        default="auto",
        title="Strategy",
        description="auto: one process, or DDP over several; ZeRO-n shards more the higher n",
    )
    processes: int | None = Field(
        default=None, ge=1, le=64, title="Processes", description="Empty: one for each GPU, or one on a CPU"
    )
    offload: Literal["none", "cpu"] = Field(
        default="none",
        title="Offload",
        description="cpu: the optimiser's state is kept, and its step computed, in main memory; needs ZeRO",
    )

    @model_validator(mode="after")
    def _can_offload(self) -> Self:
        if self.offload != "none" and not self.strategy.startswith("zero"):
            raise ValueError(
                f"offload ({self.offload}) is a part of ZeRO, but strategy is {self.strategy}: "
                "take zero1, zero2 or zero3, or no offload"
            )
        return self

    threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="CPU threads of each process; empty: OMP_NUM_THREADS, or a share of the cores",
    )


class Checkpoint(Strict):
    """When a run leaves a state from which it can go on."""

    every_steps: int = Field(default=50, ge=1, title="Every steps", description="Steps between two checkpoints")
    keep_last: int = Field(default=2, ge=1, le=100, description="Older ones are deleted once a newer one is complete")
    keep_best: bool = Field(
        default=False,
        title="Keep the best",
        description="The checkpoint with the lowest validation loss is kept, and it is published instead of the last",
    )


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


class Sweep(Strict):
    """Several candidates, each trained on a part of the rows; the best on the validation split goes on."""

    fractions: tuple[float, ...] = Field(
        min_length=2, description="Parts of the train rows, each above 0 and at most 1; the best rows first"
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        wrong = [fraction for fraction in self.fractions if not 0 < fraction <= 1]
        if wrong:
            raise ValueError(f"sweep.fractions holds {wrong[0]:g}; a fraction is above 0 and at most 1")
        if len(set(self.fractions)) != len(self.fractions):
            raise ValueError(f"sweep.fractions names a fraction twice: {', '.join(map('{:g}'.format, self.fractions))}")
        return self


class Resources(Strict):
    """What the training and evaluation pods ask for."""

    cpus: float = Field(default=2, gt=0)
    memory_gib: float = Field(default=8, gt=0)
    gpus: int = Field(default=0, ge=0, le=16)


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
    rollback_to: str = Field(
        default="", title="Roll back to", description="Adapter version to make champion again; nothing else happens"
    )
    approved: str = Field(default="", description="Who approved the candidate, and when; set by Airflow")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.dist.processes:
            self.batching(self.dist.processes)
        if self.sweep and self.data.fraction != 1:
            raise ValueError(f"data.fraction ({self.data.fraction:g}) and sweep clash: give one of them")
        if self.sweep and self.evaluate.metric not in {"exact_match", "loss"}:
            raise ValueError(f"a sweep is compared by exact_match or loss, not by {self.evaluate.metric}")
        if self.dist.strategy.startswith("zero") and self.train.optimizer != "adamw_torch":
            # The state in 8 bits is quantised in blocks of the shard that a process holds: no other cut can take it.
            raise ValueError(
                f"train.optimizer ({self.train.optimizer}) and dist.strategy ({self.dist.strategy}) clash: ZeRO shares "
                "out the state already, and a checkpoint of it in 8 bits would be tied to the number of processes"
            )
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
            raise ValueError(
                f"train.optimizer ({self.train.optimizer}) and dist.strategy ({strategy}) clash: ZeRO shards a "
                "state of 32 bits; take adamw_torch, or ddp"
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

    def on_fraction(self, fraction: float) -> Self:
        """Return the config of one candidate of the sweep."""
        return self.model_copy(update={"sweep": None, "data": self.data.model_copy(update={"fraction": fraction})})

    @property
    def candidates(self) -> tuple[Self, ...]:
        """The configs of the sweep, the smallest fraction first; without a sweep this one alone."""
        return tuple(map(self.on_fraction, sorted(self.sweep.fractions))) if self.sweep else (self,)

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


class PlanResult(JobResult):
    """What the night has to do for one adapter.

    Attributes:
        needed: Whether anything is left to do; `sentence` says why, or why not.
    """

    name: str
    dataset: str
    dataset_version: str
    adapter_version: str
    champion_version: str
    base_model: str
    base_revision: str
    trained: bool
    evaluated: bool
    decided: bool
    needed: bool
    sentence: str


class SplitAudit(Strict):
    """One split as tokens: ``rows`` is what is trained on or measured, the rest is counted beside it.

    Attributes:
        over_long_rows: Rows longer than ``data.max_length_tokens`` that are left out.
        truncated_rows: Rows whose first question was cut at its beginning; they are among `rows`.
        trainable_tokens: Tokens with a loss: the assistants' words and the ends of their turns.
        answers: Assistant turns; ``ended_answers``: those whose end of turn is learnt.
        median_tokens: Of a row; so are ``p95_tokens`` and ``longest_tokens``.
        histogram: Upper end of a range of lengths in tokens -> rows in it.
    """

    split: Literal["train", "validation", "test"]
    rows: int
    over_long_rows: int
    truncated_rows: int
    tokens: int
    trainable_tokens: int
    answers: int
    ended_answers: int
    median_tokens: int
    p95_tokens: int
    longest_tokens: int
    histogram: dict[int, int]

    @property
    def masked_share(self) -> float:
        """Share of the tokens without a loss."""
        return 1 - self.trainable_tokens / self.tokens


class AuditResult(JobResult):
    """A dataset version as the trainer takes it; a result is a pass, since everything else is refused.

    Attributes:
        version: Version of ``training_audits/<name>``.
        splits: Train, validation and test; a split that the version keeps without rows is absent.
        tokens_per_epoch: Tokens of the train rows, padding not counted.
        trainable_tokens_per_epoch: Those of them with a loss.
        ends: The tokens that end an answer, as text.
        notes: What does not stop a training and should be known.
    """

    name: str
    version: str
    reused: bool
    dataset: str
    dataset_version: str
    base_model: str
    base_revision: str
    splits: list[SplitAudit]
    tokens_per_epoch: int
    trainable_tokens_per_epoch: int
    longest_tokens: int
    ends: list[str]
    notes: list[str]
    sentence: str
    report_url: str


class TrainResult(JobResult):
    """Figures of one training; the whole of them is in the adapter's manifest.

    Attributes:
        version: Version of ``adapters/<name>``.
        reused: The adapter was there already: nothing was trained.
        over_long_rows: Rows longer than ``data.max_length_tokens`` that were left out.
        resumed_from_step: Step of the checkpoint that the last process went on from; 0 when it began anew.
        tokens_per_second: Over the steps of the last process, padding not counted.
        adapter_sha256: Of the adapter's safetensors.
        mlflow_run_url: Empty when MLflow was not reached.
        notes: What the run had to do without.
    """

    name: str
    version: str
    adapter_url: str
    reused: bool
    dataset: str
    dataset_version: str
    base_model: str
    base_revision: str
    steps: int
    train_rows: int
    over_long_rows: int
    loss_first: float
    loss_last: float
    seconds: float
    tokens_per_second: float
    resumed_from_step: int
    adapter_sha256: str
    mlflow_run_url: str = ""
    notes: list[str] = Field(default_factory=list)


class Generated(Strict):
    """The answers that one model generated, greedily and within the stated budget.

    Attributes:
        rows: Answers.
        token_f1: Mean F1 of the words of answer and reference.
        rouge_l: Mean ROUGE-L (Lin, 2004), its F-measure.
        length_ratio: Tokens of the answers to those of the references.
        ended: Share that ends by itself.
        repeated: Share that runs in circles.
    """

    rows: int
    token_f1: float
    rouge_l: float
    length_ratio: float
    ended: float
    repeated: float


class Score(Strict):
    """How one model did on the held-out rows.

    Attributes:
        loss: Mean negative log-likelihood per answer token, in nats.
        exact_match: Share of rows whose whole answer, its end included, greedy decoding would give.
        generated: None where ``evaluate.generation.rows`` is 0.
    """

    version: str
    rows: int
    exact: int
    exact_match: float
    loss: float
    generated: Generated | None = None


class Gain(Strict):
    """By how much the candidate is better than a rival on the same rows; negative is worse.

    Attributes:
        against: Its role.
        metric: A field of `Score` or of `Generated`; of ``length_ratio`` the plain difference.
        rows: How many were compared.
        low: Lower end of the 95% interval (paired bootstrap); ``high``: the upper end.
    """

    against: Literal["base", "champion"]
    metric: str
    rows: int
    gain: float
    low: float
    high: float


class RegressionScore(Strict):
    """Base, champion (if any) and candidate on one regression set.

    Attributes:
        excluded_rows: As in `EvaluateResult`; ``over_long_rows`` too.
    """

    dataset: str
    version: str
    split: str
    rows: int
    excluded_rows: int
    over_long_rows: int
    base: Score
    adapter: Score
    champion: Score | None
    gains: list[Gain]


class EvaluateResult(JobResult):
    """Base, champion (if there is one and it is another adapter) and candidate on the same rows.

    Attributes:
        version: Version of ``evaluations/<name>``.
        excluded_rows: Test rows that the candidate or the champion was trained on: not measured.
        over_long_rows: Test rows longer than ``data.max_length_tokens``: not measured.
        conditions: The form of the base that was measured, in one phrase.
        gains: Of each metric, over the base and over the champion.
        verdict: By the config's rules: ``accepted``; ``ask``: better, and a person decides; ``refused``.
        sentence: The verdict with its numbers.
        summary: The figures as a Markdown table, for the person who is asked.
    """

    name: str
    version: str
    evaluation_url: str
    reused: bool
    adapter_version: str
    champion_version: str
    dataset: str
    dataset_version: str
    rows: int
    excluded_rows: int
    over_long_rows: int
    base: Score
    adapter: Score
    champion: Score | None
    conditions: str
    mlflow_run_url: str = ""
    gains: list[Gain] = Field(default_factory=list)
    regression: list[RegressionScore] = Field(default_factory=list)
    verdict: Literal["accepted", "ask", "refused"] = "refused"
    sentence: str = ""
    summary: str = ""
    report_url: str = ""


class SweepPoint(Strict):
    """One candidate of a sweep.

    Attributes:
        rows: Rows that it was trained on; ``tokens``: theirs, of one pass.
        score: On the validation rows.
        gain: By how much its metric is better than that of the largest fraction; negative is worse.
        low: Lower end of the paired bootstrap's 95% interval of `gain`; ``high``: the upper end.
        p_value: Of McNemar's exact test against the largest fraction; None where the metric is the loss.
    """

    fraction: float
    adapter_version: str
    rows: int
    tokens: int
    score: Score
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p_value: float | None = None


class SweepResult(JobResult):
    """The candidates of a sweep on the same validation rows; the test split is not looked at.

    Attributes:
        version: Version of ``sweeps/<name>``.
        rows: Validation rows that were measured.
        curve: The candidates, the smallest fraction first.
        fraction: Of the best candidate, which goes on; ``adapter_version`` is its version.
        sentence: Whether fewer rows would do, with the numbers.
    """

    name: str
    version: str
    reused: bool
    dataset: str
    dataset_version: str
    metric: Metric
    rows: int
    excluded_rows: int
    over_long_rows: int
    base: Score
    curve: list[SweepPoint]
    fraction: float
    adapter_version: str
    sentence: str
    report_url: str


class PromoteResult(JobResult):
    """Whether the candidate is champion now, and why.

    Attributes:
        version: The candidate; where `promoted` is true, the champion.
        sentence: The decision with its numbers.
    """

    name: str
    version: str
    promoted: bool
    previous_champion: str
    sentence: str
    adapter_url: str
    evaluation_version: str
    exact_match_base: float
    exact_match: float
    loss_base: float
    loss: float
    mlflow_model_url: str = ""
    report_url: str = ""
    notes: list[str] = Field(default_factory=list)
