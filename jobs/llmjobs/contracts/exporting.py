"""Other forms of an adapter: what to export, and what is handed back about it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import JobResult, Strict, digest

EXPORT_SCHEMA = 1
"""Raise it when the same adapter and settings would be exported as other files than before."""

Format = Literal["safetensors", "gguf"]


class Export(Strict):
    """Forms in which a champion is published besides its adapter. They change nothing of the adapter itself."""

    formats: tuple[Format, ...] = Field(
        default=(),
        title="Exports",
        description="safetensors: base and adapter merged in 16 bits; gguf: one file for llama.cpp; empty: none",
    )
    dtype: Literal["bfloat16", "float16"] = Field(
        default="bfloat16", title="Number format", description="Of the base while it is merged, and of the safetensors"
    )
    gguf_type: Literal["f16", "bf16", "q8_0"] = Field(
        default="f16",
        title="GGUF type",
        description="Of its matrices; q8_0 takes half the space: blocks of 32 numbers in 8 bits and one 16-bit scale",
    )
    rows: int = Field(
        default=32, ge=1, title="Rows", description="Held-out rows on which each export is measured before it is kept"
    )
    max_loss_increase: float = Field(
        default=0.05,
        ge=0,
        title="Highest loss of quality",
        description="Nats per answer token by which an export may be worse than the adapter on the base as trained",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"export.formats names a format twice: {', '.join(self.formats)}")
        return self

    def number_type(self, form: Format) -> str:
        """Return the number format of a form's matrices."""
        return self.gguf_type if form == "gguf" else self.dtype

    def version(self, adapter_version: str, form: Format) -> str:
        """Return the version of one form of an adapter under these settings."""
        settings = self.model_dump(mode="json", exclude={"formats"} if form == "gguf" else {"formats", "gguf_type"})
        return digest([EXPORT_SCHEMA, adapter_version, form, settings])[:16]


class ExportedForm(Strict):
    """One form of an adapter. Losses are means per answer token, in nats, on the same held-out rows.

    Attributes:
        type: Number format of its matrices.
        version: Of ``exports/<name>``.
        bytes: Of all its files.
        rows: How many were measured.
        loss_adapter: Of the adapter on the base as it was trained (4 bits, maybe).
        loss_unmerged: Of the adapter on the 16-bit base, not merged: what the files have to reproduce.
        loss: Of the files, loaded back.
        top1_agreement: Share of answer tokens where the files' likeliest token is that of the adapter as trained.
        reused: Whether it was there already.
    """

    format: Format
    type: str
    version: str
    url: str
    bytes: int
    rows: int
    loss_adapter: float
    loss_unmerged: float
    loss: float
    top1_agreement: float
    reused: bool = False

    @property
    def sentence(self) -> str:
        """The same for people."""
        again = "there already" if self.reused else "exported"
        return (
            f"{self.format} ({self.type}) {again}, {self.bytes / 1e6:.1f} MB: loss {self.loss:.4f} on {self.rows} "
            f"held-out rows; the adapter on the 16-bit base, not merged, {self.loss_unmerged:.4f} "
            f"({self.loss - self.loss_unmerged:+.4f}), on the base as trained {self.loss_adapter:.4f} "
            f"({self.loss - self.loss_adapter:+.4f}); {self.top1_agreement:.1%} of the likeliest tokens as there"
        )


class ExportResult(JobResult):
    """Every form that the config asks for.

    Attributes:
        adapter_version: What was exported.
        sentence: What was done, with the numbers.
        notes: What did not forbid the export and should be known.
    """

    name: str
    adapter_version: str
    exports: list[ExportedForm]
    sentence: str
    notes: list[str] = Field(default_factory=list)
