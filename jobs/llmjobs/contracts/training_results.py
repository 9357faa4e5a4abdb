"""What the training room's jobs hand back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmjobs.contracts.base import JobResult, Strict
from llmjobs.contracts.sweeping import Settings
from llmjobs.contracts.training import Metric


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


class StrategyEstimate(Strict):
    """Memory of one process under one strategy, in bytes: part -> bytes.

    Attributes:
        load: While the base is loaded; ``load_peak`` is the most of it at once.
        training: In a step; ``training_peak`` is the most of it at once.
        host: In main memory, of what is offloaded.
        fits: None where it is not known how much there is.
    """

    strategy: str
    load: dict[str, int]
    training: dict[str, int]
    load_peak: int
    training_peak: int
    host: int
    fits: bool | None


class EstimateResult(JobResult):
    """What a training will take; one that cannot fit is refused instead.

    Attributes:
        adapter_version: Of a sweep that of its largest candidate.
        device: Type of GPU, ``gpu`` where it is not known, or ``cpu``.
        strategy: For ``dist.strategy``: the one that is configured, or what ``auto`` comes to.
        processes: For ``dist.processes``; ``micro_batch_size`` for the field of that name.
        room_bytes: Memory that a process has; None where the GPU's type is not known.
        peak_bytes: The most of it that a process takes, at load or in a step; 0 where that is not known.
        strategies: The chosen one and what it was compared with.
        disk: Part -> bytes.
        adapters: How many are to be trained: those of a sweep that are there already are not counted.
        steps: Optimiser steps of all of them; ``tokens``: those that they take in, padding not counted.
        tokens_per_second: Of one device; None where neither a figure, nor a past run, nor a GPU's type is known.
        source: Where that figure comes from, in one phrase.
        hours: Of all trainings, one after the other: steps only, not loading, validation and evaluation.
        cost: ``hours`` times the price of the devices; None without either.
        exceeded: Each limit that is exceeded, or whose figure is not known, as a phrase with the numbers.
        verdict: ``ask`` where there is one.
        sentence: The whole in one sentence.
        summary: The figures as Markdown tables.
    """

    name: str
    adapter_version: str
    dataset: str
    dataset_version: str
    base_model: str
    base_revision: str
    device: str
    strategy: Literal["ddp", "zero1", "zero2", "zero3"]
    processes: int
    micro_batch_size: int
    room_bytes: int | None
    peak_bytes: int
    strategies: list[StrategyEstimate]
    disk: dict[str, int]
    adapters: int
    steps: int
    tokens: int
    tokens_per_second: float | None
    source: str
    hours: float | None
    cost: float | None
    currency: str
    exceeded: list[str]
    verdict: Literal["ask", "within"]
    sentence: str
    summary: str


TrainingPhase = Literal[
    "starting", "waiting", "tokenising", "loading", "trying", "training", "validating", "saving", "testing",
    "publishing", "stopped",
]  # fmt: skip
"""What a training is at, as its task's page is told."""


class TrainResult(JobResult):
    """Figures of one training; the whole of them is in the adapter's manifest.

    Attributes:
        version: Version of ``adapters/<name>``.
        reused: The adapter was there already: nothing was trained.
        over_long_rows: Rows longer than ``data.max_length_tokens`` that were left out.
        resumed_from_step: Step of the checkpoint that the last process went on from; 0 when it began anew.
        tokens_per_second: Over the steps of the last process, padding not counted.
        tokens_per_second_per_device: Over all steps, validations and checkpoints not counted; None in older versions.
        mfu: Share of the devices' peak operations, over all steps; None where the peak or the base's family is unknown.
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
    tokens_per_second_per_device: float | None = None
    mfu: float | None = None
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
        settings: Its values, by the dotted paths of their fields.
        rows: Rows that it was trained on; ``tokens``: theirs, of one pass.
        score: On the validation rows.
        gain: By how much its metric is better than that of the reference; negative is worse.
        low: Lower end of the paired bootstrap's 95% interval of `gain`; ``high``: the upper end.
        p_value: Of McNemar's exact test against the reference; None where the metric is the loss.
    """

    settings: Settings
    adapter_version: str
    rows: int
    tokens: int
    score: Score
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p_value: float | None = None


class DivergedPoint(Strict):
    """A candidate whose training ended because its loss was no number; `sentence` names the step."""

    settings: Settings
    adapter_version: str
    sentence: str


class SweepResult(JobResult):
    """The candidates of a sweep on the same validation rows; the test split is not looked at.

    Attributes:
        version: Version of ``sweeps/<name>``.
        rows: Validation rows that were measured.
        curve: The candidates, the smallest values first.
        diverged: Those that were trained in vain.
        reference_version: The candidate that the others are compared with: of a sweep over fractions alone the
            largest, else the best.
        settings: Of the best candidate, which goes on; ``adapter_version`` is its version.
        sentence: What was found, with the numbers.
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
    diverged: list[DivergedPoint]
    reference_version: str
    settings: Settings
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
