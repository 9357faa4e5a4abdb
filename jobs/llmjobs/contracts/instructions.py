"""Data contract, config and result of `prepare_instructions`: raw instruction files become a dataset version.

A contract is one YAML file of `dags/contracts/`; a config of `dags/configs/prepare_instructions/` names it. Both are
read when Airflow parses the DAG, so a misspelt rule is an import error.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from llmjobs.contracts.base import JobConfig, JobResult, Strict
from llmjobs.contracts.errors import BadConfig

Format = Literal["auto", "alpaca", "messages"]
"""``auto`` decides row by row: a ``messages`` field makes a chat, ``instruction`` makes Alpaca."""

Check = Literal["off", "warn", "quarantine", "fail"]
"""What one bad row leads to: nothing; a count; the row is put aside; the whole dataset is refused."""

Repair = Literal["off", "warn", "fix", "quarantine", "fail"]
"""As `Check`, and ``fix``: the row is repaired in a stated way, its text recorded before and after."""

Refusal = Literal["quarantine", "fail"]
"""As `Check`, for rows that cannot be published whatever one wishes."""


class RowRules(Strict):
    """The rule library: one field a rule, its default severity, and what it catches.

    The expressions are in `llmjobs.instructions.rules`; a test holds both in step.
    """

    unreadable: Refusal = Field(
        default="quarantine", description="Not valid JSON: a broken or cut-off row, or bytes that are no UTF-8"
    )
    wrong_shape: Refusal = Field(
        default="quarantine", description="JSON, but no row: not an object, a field missing, or not a text"
    )
    duplicate_keys: Check = Field(
        default="quarantine", description="A key appears twice in one object, so a value would be lost"
    )
    broken_encoding: Check = Field(
        default="quarantine", description="Text that was decoded wrongly once: U+FFFD or sequences like â€™"
    )
    control_characters: Repair = Field(
        default="fix", description="Control or invisible characters and terminal colours; the fix removes them"
    )
    no_input_marker: Repair = Field(
        default="fix", description="An input that only says that there is none; the fix makes it empty"
    )
    role_order: Check = Field(
        default="quarantine", description="Turns are not: one optional system, then user and assistant in turn"
    )
    empty_turn: Check = Field(default="quarantine", description="A system, user or earlier assistant turn without text")
    empty_answer: Check = Field(default="quarantine", description="The last answer has no text")
    placeholder_answer: Check = Field(
        default="quarantine", description="The answer stands for no answer: N/A, <no output>, ..."
    )
    empty_code_block: Check = Field(
        default="quarantine", description="The answer promises code and its code block is empty"
    )
    url_only_input: Check = Field(
        default="quarantine", description="The input is only a link, which the answer can but invent"
    )
    refusal: Check = Field(
        default="quarantine", description="The answer refuses, or excuses itself for what it cannot do"
    )
    speaks_as_ai: Check = Field(
        default="quarantine", description="The answer talks about itself: as an AI (language model), ..."
    )
    unrendered_template: Check = Field(
        default="quarantine", description="A placeholder or chat-template token that was never filled in"
    )
    merged_instructions: Check = Field(
        default="quarantine", description="Another numbered instruction runs on inside the text"
    )
    answer_repeats_question: Check = Field(default="quarantine", description="The answer is the question again")
    image_request: Check = Field(default="quarantine", description="Asks for a picture, or about one that is not there")
    invalid_json_answer: Check = Field(
        default="quarantine", description="The answer is not the JSON that the contract's `answer` describes"
    )
    too_long: Check = Field(
        default="quarantine", description="More characters than the contract's `limits.max_characters`"
    )


class Limits(Strict):
    """Numbers that rules compare with."""

    max_characters: int = Field(default=20_000, ge=1, description="Characters of all turns of a row together")


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

    @model_validator(mode="after")
    def _fields_need_json(self) -> Self:
        if self.fields and self.format != "json":
            raise ValueError(f"answer.fields names {len(self.fields)} fields, which needs answer.format: json")
        return self


class Budgets(Strict):
    """Limits on the dataset as a whole; beyond one, nothing is published."""

    max_quarantined_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Largest quarantined share",
        description="Quarantined rows divided by rows in, 0 to 1",
    )
    min_rows: int = Field(
        default=1, ge=1, title="Fewest published rows", description="Rows that a version must at least hold"
    )


class Dedupe(Strict):
    """How repeated rows are found."""

    exact: bool = Field(default=True, description="Drop rows that are equal but for white space and letter case")


class Split(Strict):
    """Shares of the three sides. A row's side follows from its first user turn and the salt, from nothing else."""

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
    answer: Answer = Answer()
    rules: RowRules = RowRules()
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    dedupe: Dedupe = Dedupe()
    split: Split = Split()

    def publishing_digest(self) -> str:
        """Return the digest of what decides the published rows; prose and budgets do not."""
        return self.digest(exclude={"owner", "description", "budgets"})


class PrepareConfig(JobConfig):
    """Config of one `prepare_instructions` DAG."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset in the lake and of its asset")
    source: str = Field(
        min_length=1,
        title="Source files",
        description="One glob a line: below the lake (raw/tickets/*.json*) or an fsspec URL (s3://bucket/rows/*.jsonl)",
        json_schema_extra={"format": "multiline"},
    )
    schedule: str | None = Field(
        default=None, description="Cron expression in UTC; without one the DAG is started by hand"
    )
    contract: DataContract

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a config, and the contract that it names, from ``../../contracts/<contract>.yaml``.

        Raises:
            BadConfig: One of both is absent, no YAML, or does not fit its model.
        """
        try:
            values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return super().from_yaml(path)  # which words the error
        if isinstance(values, dict) and isinstance(values.get("contract"), str):
            values["contract"] = _contract(path, values["contract"]).model_dump()
        return cls.from_mapping(values, origin=str(path))

    @property
    def globs(self) -> list[str]:
        """The lines of `source`, without blank ones."""
        return [line.strip() for line in self.source.splitlines() if line.strip()]


def _contract(config_path: Path, name: str) -> DataContract:
    folder = config_path.parents[2] / "contracts"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise BadConfig(f"{config_path}: contract: there is no {path.name!r} in {folder} (known: {known})")
    return DataContract.from_yaml(path)


class PrepareResult(JobResult):
    """Figures of one run; the whole of them is in the audit's manifest.

    ``rows_in = published + quarantined + duplicates`` always holds.

    Attributes:
        version: The dataset version that ``current`` points at.
        changed: Whether this run moved ``current``.
        reasons: Rule -> quarantined rows that broke it, the most frequent first; a row can break several.
        audit_version: Version of ``audits/<name>`` that holds report, quarantine, duplicates and verdict.
    """

    name: str
    version: str
    changed: bool
    rows_in: int
    published: int
    quarantined: int
    duplicates: int
    fixed: int
    warned: int
    train_rows: int
    validation_rows: int
    test_rows: int
    reasons: dict[str, int]
    audit_version: str
    report_url: str
    quarantine_url: str
    dataset_url: str
