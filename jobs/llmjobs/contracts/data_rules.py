"""The rows of a data contract: the rule library, what its rules compare with, personal data, and what each leads to."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import Strict

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


RULES = tuple(RowRules.model_fields)
PII_KINDS = tuple(name for name in Pii.model_fields if name != "engine")
PII_FLAGS = tuple(f"pii_{kind}" for kind in PII_KINDS)
FLAGS = (*RULES, *PII_FLAGS, "leak", "taken_down")
"""Every reason that a row can have, in the order in which they are shown."""
