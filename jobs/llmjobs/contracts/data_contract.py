"""The data contract of an instruction dataset: one YAML file of `dags/contracts/`, which a config names.

It is read when Airflow parses the DAG, so a misspelt rule is an import error. Rules of single rows: `data_rules`.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import JobConfig, Strict
from llmjobs.contracts.data_rules import Limits, Pii, RowRules, Severities

Format = Literal["auto", "alpaca", "sharegpt", "messages", "dolly", "prompt_completion"]
"""``auto`` decides row by row, by the columns that a row has."""


class Mapping(Strict):
    """Which column of a file says what. A dot reaches into an object: ``payload.question``.

    Either `messages`, or `instruction` and `output`.
    """

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    system: str | None = None
    messages: str | None = Field(default=None, description="Column with a list of turns")
    role: str = Field(default="role", description="Within a turn: who speaks")
    content: str = Field(default="content", description="Within a turn: what is said")
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        default_factory=dict, description="Names of roles that differ from ours, for example {human: user}"
    )
    tools: str | None = Field(default=None, description="Column with the tools' JSON")
    topic: str | None = Field(default=None, description="Column with a category")
    label: str | None = Field(default=None, description="Column with the label whose mix is watched")
    licence: str | None = Field(default=None, description="Column with the row's licence")
    source: str | None = Field(default=None, description="Column that says where the row is from")
    conversation: str | None = Field(
        default=None, description="Column with a conversation's id; its rows are all on the same side of the split"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.messages is None and (self.instruction is None or self.output is None):
            raise ValueError("mapping must name either `messages`, or `instruction` and `output`")
        if self.messages is not None and (self.instruction is not None or self.output is not None):
            raise ValueError("mapping names `messages` and also `instruction` or `output`: give one of the two ways")
        return self


class JsonField(Strict):
    """One field of a JSON answer."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"]
    required: bool = True
    nullable: bool = False
    enum: tuple[str | int, ...] = Field(default=(), description="The only values allowed; empty allows any")


class Answer(Strict):
    """What every answer of the dataset must look like."""

    format: Literal["text", "json"] = "text"
    fields: dict[str, JsonField] = Field(default_factory=dict, description="Fields of a JSON answer")
    additional_fields: bool = Field(
        default=False, description="Whether a JSON answer may hold fields that are not named here"
    )
    label: str | None = Field(default=None, description="Field of a JSON answer that is the row's label")

    @model_validator(mode="after")
    def _fields_need_json(self) -> Self:
        if self.fields and self.format != "json":
            raise ValueError(f"answer.fields names {len(self.fields)} fields, which needs answer.format: json")
        if self.label is not None and self.label not in self.fields:
            raise ValueError(
                f"answer.label {self.label!r} is none of answer.fields: {', '.join(self.fields) or 'none'}"
            )
        return self


class Budgets(Strict):
    """Limits on the dataset as a whole. Beyond a ``max`` nothing is published; beyond a ``warn`` a person is asked."""

    max_quarantined_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Largest quarantined share",
        description="Quarantined rows divided by rows in, 0 to 1",
    )
    warn_quarantined_share: float | None = Field(
        default=None, ge=0, le=1, title="Quarantined share to ask about", description="Beyond it a person is asked"
    )
    min_rows: int = Field(
        default=1, ge=1, title="Fewest published rows", description="Rows that a version must at least hold"
    )
    max_lost_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        title="Largest lost share",
        description="Fewer rows than the last version, as a share of its rows",
    )
    warn_lost_share: float | None = Field(
        default=None, ge=0, le=1, title="Lost share to ask about", description="Beyond it a person is asked"
    )

    @model_validator(mode="after")
    def _asked_before_refused(self) -> Self:
        for name in ("quarantined_share", "lost_share"):
            _ask_first(self, f"warn_{name}", f"max_{name}")
        return self


class Shift(Strict):
    """Limits of one kind of drift; empty: only reported."""

    warn: float | None = Field(default=None, ge=0, le=1, description="Beyond it a person is asked")
    fail: float | None = Field(default=None, ge=0, le=1, description="Beyond it nothing is published")

    @model_validator(mode="after")
    def _asked_before_refused(self) -> Self:
        _ask_first(self, "warn", "fail")
        return self


def _ask_first(limits: Strict, warn: str, most: str) -> None:
    """Raise ValueError where the limit `warn` is not below the limit `most`, as far as both are there."""
    asked, refused = getattr(limits, warn), getattr(limits, most)
    if asked is not None and refused is not None and asked >= refused:
        raise ValueError(f"{warn} ({asked:g}) must be below {most} ({refused:g}), or nobody is ever asked")


class Drift(Strict):
    """How far the published rows may be from those of the last published version, each from 0 (same) to 1.

    `length` is the Kolmogorov-Smirnov statistic of the characters of a row, the others are Jensen-Shannon distances
    (base 2) of shares.
    """

    length: Shift = Shift()
    language: Shift = Shift()
    topic: Shift = Shift()
    source: Shift = Shift()
    label: Shift = Shift()


class Dedupe(Strict):
    """How repeated rows are found."""

    exact: bool = Field(default=True, description="Drop rows that are equal but for white space and letter case")
    near_threshold: float | None = Field(
        default=None,
        ge=0.5,
        le=1,
        description="Drop rows whose text is so similar to one that stays (Jaccard, 0.5 to 1); empty: keep them",
    )
    across: tuple[str, ...] = Field(
        default=(), description="Other datasets of the lake: a row of their current versions is a duplicate here"
    )


class EvaluationSet(Strict):
    """Rows that no published train row may match."""

    name: str = Field(min_length=1)
    source: str = Field(min_length=1, description="Globs, one a line, as in a config")
    format: Format = "auto"
    mapping: Mapping | None = None


class Leaks(Severities):
    """What no train row may match: validation and test of the dataset itself, and the sets named here.

    White space and letter case aside, a row of a set matches every row with the same first prompt. Two rows of the
    dataset match when all their user turns are the same, or when the only one of one row is the first of the other.
    Either way rows match when the whole of them is nearly the same.
    """

    severity: Literal["off", "warn", "quarantine", "fail"] = "quarantine"
    near_threshold: float | None = Field(
        default=0.9, ge=0.5, le=1, description="Jaccard similarity from which two rows match; empty: only exactly"
    )
    sets: tuple[EvaluationSet, ...] = ()

    @model_validator(mode="after")
    def _names_apart(self) -> Self:
        names = [chosen.name for chosen in self.sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            both = "; ".join(f"{one.name}: {one.source.strip()}" for one in self.sets if one.name == repeated[0])
            raise ValueError(f"leaks.sets: {names.count(repeated[0])} sets have one name ({both}); rename one")
        return self


class Judge(Strict):
    """A model behind an OpenAI-compatible endpoint that gives each row a mark from 1 to 5."""

    url: str = Field(min_length=1, description="Base URL, for example http://vllm.internal:8000/v1")
    model: str = Field(min_length=1)
    key_variable: str | None = Field(default=None, description="Environment variable that holds the API key")
    max_rows: int = Field(default=10_000, ge=1, description="More rows are not sent; those keep their other signals")


class TrainBudget(Strict):
    """How much of the train side is published: one of both."""

    rows: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1, description="Of limits.tokenizer, else estimated from characters")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.rows is None) == (self.tokens is None):
            raise ValueError("budget must hold either `rows` or `tokens`")
        return self


class Quality(Strict):
    """A score for each row, from 0 to 1, and the order in which a budget takes rows."""

    score: bool = Field(default=False, description="Score and rank the rows; a budget needs it")
    similarity: bool = Field(
        default=False, description="Let the embedding model compare question and answer: slow, about 30 rows/s a core"
    )
    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    judge: Judge | None = None
    diversity: float = Field(
        default=0.3, ge=0, le=1, description="Weight of being unlike the rows chosen before, against the score"
    )
    budget: TrainBudget | None = None

    @model_validator(mode="after")
    def _needs_a_score(self) -> Self:
        wanted = [name for name in ("budget", "judge") if getattr(self, name) is not None]
        wanted += ["similarity"] if self.similarity else []
        if wanted and not self.score:
            raise ValueError(f"quality.{wanted[0]} needs quality.score: true")
        return self


class Split(Strict):
    """Shares of the three sides.

    A prompt keeps the side that it had in the last version; a new one takes that of the rows it is nearly the same as,
    else one that follows from its hash and the salt.
    """

    train: float = Field(default=0.8, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    salt: str = Field(default="", description="Another salt deals all rows anew; rows then change sides")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1, abs_tol=1e-9):
            raise ValueError(f"train, validation and test must add up to 1, they add up to {total:g}")
        return self


class DataContract(JobConfig):
    """What a row of a dataset must look like, and what happens to one that does not."""

    owner: str = Field(min_length=1, description="Who answers for the data")
    description: str = ""
    format: Format = "auto"
    mapping: Mapping | None = Field(default=None, description="For columns of other names; replaces `format`")
    answer: Answer = Answer()
    rules: RowRules = RowRules()
    pii: Pii = Pii()
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    drift: Drift = Drift()
    dedupe: Dedupe = Dedupe()
    leaks: Leaks = Leaks()
    split: Split = Split()
    quality: Quality = Quality()

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if self.mapping is not None and self.format != "auto":
            raise ValueError(f"mapping and format ({self.format}) clash: a mapping says all that a format would")
        return self

    def severities(self) -> dict[str, str]:
        """Return flag -> severity, for every flag of `FLAGS`."""
        pii = self.pii.model_dump(exclude={"engine"})
        return {
            **self.rules.model_dump(),
            **{f"pii_{kind}": policy for kind, policy in pii.items()},
            "leak": self.leaks.severity,
            "taken_down": "quarantine",
        }

    def publishing_digest(self) -> str:
        """Return the digest of what decides the published rows; prose, budgets and drift limits do not."""
        return self.digest(exclude={"owner", "description", "budgets", "drift"})
