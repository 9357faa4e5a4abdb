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

Format = Literal["auto", "alpaca", "sharegpt", "messages", "dolly", "prompt_completion"]
"""``auto`` decides row by row, by the columns that a row has."""

Check = Literal["off", "warn", "quarantine", "fail"]
"""What one bad row leads to: nothing; a count; the row is put aside; the whole dataset is refused."""

Repair = Literal["off", "warn", "fix", "quarantine", "fail"]
"""As `Check`, and ``fix``: the row is repaired in a stated way, its text recorded before and after."""

FieldRepair = Literal["off", "warn", "fix", "drop_field", "quarantine", "fail"]
"""As `Repair`, and ``drop_field``: the optional field that breaks the rule is emptied, its text recorded."""

FieldCheck = Literal["off", "warn", "drop_field", "quarantine", "fail"]
"""As `FieldRepair`, for rules that know no other repair."""

Refusal = Literal["quarantine", "fail"]
"""As `Check`, for rows that cannot be published whatever one wishes."""

PiiPolicy = Literal["off", "warn", "mask", "quarantine", "fail"]
"""As `Check`, and ``mask``: each occurrence is replaced by its kind in brackets, for example ``[EMAIL]``."""


class Severities(Strict):
    """Base of sections whose fields say what happens to a row: YAML 1.1 reads a bare ``off`` as the truth value no."""

    @model_validator(mode="before")
    @classmethod
    def _off_is_a_word(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: "off" if value is False else value for name, value in values.items()}


class RowRules(Severities):
    """The rule library: one field a rule, its default severity, and what it catches.

    The expressions are in `llmjobs.instructions.rules.library`; a test holds both in step.
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
    no_input_marker: FieldRepair = Field(
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
    url_only_input: FieldCheck = Field(
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
    truncated_answer: Check = Field(
        default="warn", description="The answer stops in the middle of a sentence, a list or a code block"
    )
    language_mismatch: Check = Field(
        default="warn",
        description="The answer is in another language than its question, or in none of `limits.languages`",
    )
    broken_tools: FieldCheck = Field(
        default="quarantine", description="Tools or tool calls that are no valid JSON, or a call of an unknown tool"
    )
    too_long: Check = Field(
        default="quarantine", description="More characters than the contract's `limits.max_characters`"
    )
    too_many_tokens: Check = Field(
        default="quarantine", description="More tokens than the contract's `limits.max_tokens`"
    )


class Limits(Strict):
    """What rules compare with."""

    max_characters: int = Field(default=20_000, ge=1, description="Characters of all turns of a row together")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of the rendered row, special tokens included; needs `tokenizer`"
    )
    tokenizer: str | None = Field(default=None, description="Model whose tokenizer and chat template count the tokens")
    languages: tuple[str, ...] = Field(
        default=(), description="ISO 639-1 codes that an answer may be in; empty: that of its question"
    )

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> Self:
        if self.max_tokens is not None and self.tokenizer is None:
            raise ValueError(f"limits.max_tokens ({self.max_tokens}) needs limits.tokenizer: tokens of which model?")
        return self


class Pii(Severities):
    """Personal data and secrets: one field a kind. What was found is never written to a log or a report."""

    email: PiiPolicy = Field(default="mask", description="E-mail address")
    phone: PiiPolicy = Field(default="mask", description="Telephone number in international or a usual national form")
    iban: PiiPolicy = Field(default="mask", description="Bank account number with a right checksum (ISO 13616)")
    card: PiiPolicy = Field(default="mask", description="Payment card number with a right checksum (Luhn)")
    ip: PiiPolicy = Field(default="warn", description="Public IPv4 or IPv6 address")
    api_key: PiiPolicy = Field(default="quarantine", description="Key of a known provider's form, or a bearer token")
    private_key: PiiPolicy = Field(default="quarantine", description="PEM block of a private key")
    engine: Literal["builtin", "presidio"] = Field(
        default="builtin", description="presidio also runs presidio-analyzer, which must be installed, on every text"
    )


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


RULES = tuple(RowRules.model_fields)
PII_KINDS = tuple(name for name in Pii.model_fields if name != "engine")
PII_FLAGS = tuple(f"pii_{kind}" for kind in PII_KINDS)
FLAGS = (*RULES, *PII_FLAGS, "leak", "taken_down")
"""Every reason that a row can have, in the order in which they are shown."""


class Source(Strict):
    """One source of a mix."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="What `source` of its rows says")
    files: str = Field(min_length=1, description="Globs, one a line")
    weight: float | None = Field(
        default=None, gt=0, description="Its part of the train rows, relative to the other weights; empty: all it has"
    )
    licence: str = Field(default="", description="Licence of its rows, where a row does not say it itself")
    format: Format | None = Field(default=None, description="Instead of the contract's")
    mapping: Mapping | None = Field(default=None, description="Instead of the contract's")


class Target(Strict):
    """A form in which the published rows are written out as training text, with token counts."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the files: <name>.train.parquet, ...")
    template: Literal["alpaca", "chatml", "model"] = Field(
        default="model", description="Alpaca's prompt, ChatML, or the model's own chat template"
    )
    model: str = Field(min_length=1, description="Model whose tokenizer counts, as in a training's `model.name`")


class PrepareConfig(JobConfig):
    """Config of one `prepare_instructions` DAG."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset in the lake and of its asset")
    source: str = Field(
        default="",
        title="Source files",
        description="One glob or folder a line: below the lake (raw/tickets/*.json*) or an fsspec URL "
        "(s3://bucket/rows/*.jsonl); {date} is each day up to the end of the run's data interval",
        json_schema_extra={"format": "multiline"},
    )
    sources: tuple[Source, ...] = Field(default=(), description="Instead of `source`: several, mixed by weight")
    connection: str | None = Field(
        default=None, title="Connection", description="Airflow connection with the credentials of s3:// sources"
    )
    schedule: str | None = Field(
        default=None, description="Cron expression in UTC; without one the DAG is started by hand"
    )
    map_files: bool = Field(
        default=False,
        description="Examine each file in a task of its own: for large inputs; an unchanged file costs nothing",
    )
    approval_hours: float = Field(
        default=24,
        gt=0,
        description="How long a run waits for a person where a warn limit is broken; then it is refused",
    )
    targets: tuple[Target, ...] = Field(default=(), description="Forms in which the published rows are written out")
    contract: DataContract

    dry_run: bool = Field(default=False, title="Dry run", description="Examine and report; publish nothing")
    replay: str = Field(
        default="",
        title="Replay quarantine",
        description="Quarantined rows of an audit (its version, or `last`) again, on top of the current version",
    )
    rollback_to: str = Field(
        default="", title="Roll back to", description="Version to make current again; nothing else happens then"
    )
    interval_end: str = Field(default="", description="End of the run's data interval, ISO 8601; set by Airflow")
    only_file: str = Field(default="", description="The one file that a mapped task examines; set by Airflow")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.source.strip()) == bool(self.sources):
            raise ValueError("give either `source` or `sources`")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources have one name: {', '.join(names)}")
        return self

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
        """The lines of all sources, without blank ones."""
        return [line.strip() for source in self.inputs for line in source.files.splitlines() if line.strip()]

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The variable with the judge's key, where the contract names one."""
        judge = self.contract.quality.judge
        return (judge.key_variable,) if judge and judge.key_variable else ()

    @property
    def inputs(self) -> tuple[Source, ...]:
        """The sources of the run; a plain `source` is one without weight, named after the dataset."""
        return self.sources or (Source(name=self.name, files=self.source),)

    def reading(self, source: Source) -> tuple[Format, Mapping | None]:
        """Return format and mapping of a source's rows: its own, else the contract's."""
        mapping = source.mapping or (self.contract.mapping if source.format is None else None)
        return source.format or self.contract.format, mapping


def _contract(config_path: Path, name: str) -> DataContract:
    folder = config_path.parents[2] / "contracts"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise BadConfig(f"{config_path}: contract: there is no {path.name!r} in {folder} (known: {known})")
    return DataContract.from_yaml(path)


class PrepareResult(JobResult):
    """Figures of one run; the whole of them is in the audit's manifest.

    ``rows_in = published + quarantined + duplicates + left_out`` always holds.

    Attributes:
        version: The dataset version of this run; with verdict ``accepted`` it is what ``current`` points at, of a dry
            run the one that the same run would publish: the lake need not have it.
        verdict: ``accepted``; ``ask``: beyond a warn limit, so a person decides; ``dry_run``: nothing was published.
        changed: Whether this run moved ``current``.
        base_version: The published version that this run was compared with; empty before the first.
        added_rows: Rows that the base version does not have.
        removed_rows: Rows that only the base version has.
        left_out: Good rows that a budget or a mix had no room for.
        reasons: Flag -> quarantined rows that have it, the most frequent first; a row can have several.
        summary: The diff in a few lines of Markdown, for the person who is asked.
        audit_version: Version of ``audits/<name>`` that holds report, quarantine, duplicates and verdict.
        dataset_url: Of the version's folder; empty where nothing was published.
    """

    name: str
    version: str
    verdict: Literal["accepted", "ask", "dry_run"] = "accepted"
    changed: bool
    base_version: str = ""
    rows_in: int
    published: int
    quarantined: int
    duplicates: int
    left_out: int = 0
    fixed: int
    warned: int
    masked: int = 0
    train_rows: int
    validation_rows: int
    test_rows: int
    added_rows: int = 0
    removed_rows: int = 0
    reasons: dict[str, int]
    summary: str = ""
    audit_version: str
    report_url: str
    quarantine_url: str
    dataset_url: str


class FilesResult(JobResult):
    """Which files a run reads (``llmjobs.instructions.files``); each is one mapped task.

    Attributes:
        files: Their labels, sorted, as `PrepareConfig.only_file` takes them.
        bytes: Of all together.
    """

    files: list[str]
    bytes: int


class ExamineResult(JobResult):
    """What one mapped task (``llmjobs.instructions.examine``) found in its file.

    Attributes:
        file: Label of the file.
        part: Version of ``parts/<name>`` in the lake that holds the examined rows, which `prepare` picks up.
        cached: Whether an earlier run had examined this very file under this very contract.
    """

    file: str
    part: str
    cached: bool
    rows_in: int
    quarantined: int


class PublishConfig(JobConfig):
    """Config of ``llmjobs.instructions.publish``: a version that is there becomes the current one."""

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    reason: str = Field(min_length=1, description="Who or what decided; kept with the pointer")
    interval_end: str = Field(default="", description="End of the data interval that it was approved for, ISO 8601")


class PublishResult(JobResult):
    """What a publication changed.

    Attributes:
        version: What ``current`` points at now.
        previous: What it pointed at before; empty when nothing.
        changed: Whether the two differ.
    """

    name: str
    version: str
    previous: str
    changed: bool
