"""Configs and results of `prepare_instructions`: raw instruction files become a dataset version.

A config of `dags/configs/prepare_instructions/` names the data contract (`data_contract`). Both are read when Airflow
parses the DAG, so a mistake is an import error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from llmjobs.contracts.base import JobConfig, JobResult, Strict
from llmjobs.contracts.data_contract import DataContract, Format, Mapping
from llmjobs.contracts.errors import BadConfig


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
