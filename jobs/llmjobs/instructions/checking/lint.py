"""Looks at a data contract without data: what it asks for that can never happen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.errors import BadData
from llmjobs.lake import Lake

_NO_TOOLS = {"alpaca", "dolly", "prompt_completion"}
_CHATS = {"messages", "sharegpt"}
_NO_TOPIC = {"alpaca", "sharegpt", "messages", "prompt_completion"}
_TYPES: dict[str, type] = {"string": str, "integer": int, "number": int}


def warnings(contract: DataContract, lake: Lake | None = None) -> list[str]:
    """Return one sentence for each thing in a valid contract that has no effect, or cannot be as it is meant.

    Only what the YAML says itself is judged: a default that cannot fire was asked for by nobody.

    Args:
        contract: The contract.
        lake: Where evaluation sets and other datasets are looked for; None leaves them out.
    """
    checks: tuple[Callable[[DataContract], Iterator[str]], ...] = (
        _idle_rules, _idle_limits, _idle_leaks, _idle_drift, _open_budgets, _impossible_answers, _missing_packages,
    )  # fmt: skip
    found = [sentence for check in checks for sentence in check(contract)]
    return found if lake is None else [*found, *_missing_sets(contract, lake), *_missing_datasets(contract, lake)]


def _idle_rules(contract: DataContract) -> Iterator[str]:
    reasons = {
        "invalid_json_answer": "answer.format is text" if contract.answer.format != "json" else "",
        "too_many_tokens": "limits.max_tokens is not set" if contract.limits.max_tokens is None else "",
        "no_input_marker": _without_input(contract),
        "url_only_input": _without_input(contract),
        "broken_tools": _without_tools(contract),
        "role_order": _without_turns(contract),
        "empty_turn": _without_turns(contract),
    }
    for rule, why in reasons.items():
        severity = getattr(contract.rules, rule)
        if why and rule in contract.rules.model_fields_set and severity != "off":
            yield f"rules.{rule}: {severity} can never fire, since {why}"


def _without_input(contract: DataContract) -> str:
    if contract.mapping is not None and contract.mapping.input is None:
        return "mapping names no `input`"
    return f"format {contract.format} has no input" if contract.format in {*_CHATS, "prompt_completion"} else ""


def _without_tools(contract: DataContract) -> str:
    if contract.mapping is not None and contract.mapping.tools is None and contract.mapping.messages is None:
        return "mapping names no `tools` and no `messages`"
    return f"format {contract.format} has no tools" if contract.format in _NO_TOOLS else ""


def _without_turns(contract: DataContract) -> str:
    single = contract.mapping is not None and contract.mapping.messages is None
    return "mapping makes one question and one answer of a row" if single else ""


def _idle_limits(contract: DataContract) -> Iterator[str]:
    rules, limits, given = contract.rules, contract.limits, contract.limits.model_fields_set
    if "max_characters" in given and rules.too_long == "off":
        yield f"limits.max_characters: {limits.max_characters} is compared with nothing, since rules.too_long is off"
    if limits.max_tokens is not None and rules.too_many_tokens == "off":
        yield f"limits.max_tokens: {limits.max_tokens} is compared with nothing, since rules.too_many_tokens is off"
    if limits.languages and rules.language_mismatch == "off":
        yield "limits.languages is compared with nothing, since rules.language_mismatch is off"
    if contract.quality.budget is not None and contract.quality.budget.tokens and limits.tokenizer is None:
        yield "quality.budget.tokens is counted from characters, roughly, since limits.tokenizer is not set"


def _idle_leaks(contract: DataContract) -> Iterator[str]:
    leaks, split = contract.leaks, contract.split
    if leaks.sets and leaks.severity == "off":
        yield f"leaks.sets names {len(leaks.sets)} sets that nothing is compared with, since leaks.severity is off"
    compared = leaks.sets or split.validation or split.test
    if "severity" in leaks.model_fields_set and leaks.severity != "off" and not compared:
        yield f"leaks.severity: {leaks.severity} can never fire, since there is no set, no validation and no test"


def _idle_drift(contract: DataContract) -> Iterator[str]:
    mapping, drift = contract.mapping, contract.drift
    topic = mapping.topic is None if mapping else contract.format in _NO_TOPIC
    label = contract.answer.label is None and mapping is not None and mapping.label is None
    label = label or (contract.answer.label is None and mapping is None and contract.format != "auto")
    for name, absent, fix in (
        ("topic", topic, "mapping.topic"),
        ("label", label, "answer.label or mapping.label"),
    ):
        limits = getattr(drift, name)
        if absent and (limits.warn is not None or limits.fail is not None):
            yield f"drift.{name} can never be exceeded, since no row has a {name}; name {fix}"


def _open_budgets(contract: DataContract) -> Iterator[str]:
    for name in ("max_quarantined_share", "max_lost_share"):
        if getattr(contract.budgets, name) == 1:
            yield f"budgets.{name}: 1 refuses nothing, whatever the data is like"


def _impossible_answers(contract: DataContract) -> Iterator[str]:
    for name, field in contract.answer.fields.items():
        allowed = _TYPES.get(field.type)
        if field.enum and allowed is None:
            yield f"answer.fields.{name}: a field of type {field.type} can be none of its enum"
        wrong = [value for value in field.enum if allowed and not isinstance(value, allowed)]
        if wrong:
            yield f"answer.fields.{name}: {wrong[0]!r} of its enum is no {field.type}, so no answer can hold it"


def _missing_packages(contract: DataContract) -> Iterator[str]:
    if contract.pii.engine == "presidio" and importlib.util.find_spec("presidio_analyzer") is None:
        yield "pii.engine: presidio needs presidio-analyzer, which is not installed here; jobs will refuse to start"


def _missing_sets(contract: DataContract, lake: Lake) -> Iterator[str]:
    for chosen in contract.leaks.sets:
        for pattern in filter(None, (line.strip() for line in chosen.source.splitlines())):
            if not _matches(pattern, lake):
                yield f"leaks.sets {chosen.name}: {pattern!r} matches no file, so a run would be refused"


def _matches(pattern: str, lake: Lake) -> bool:
    import fsspec

    if "://" not in pattern:
        return bool(lake.find(pattern))
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise BadData(f"leaks.sets: {pattern!r} cannot be opened: {error}") from None
    found: list[Any] = filesystem.glob(path)
    return bool(found)


def _missing_datasets(contract: DataContract, lake: Lake) -> Iterator[str]:
    for name in contract.dedupe.across:
        if lake.pointer("datasets", name, "current") is None:
            yield f"dedupe.across: the dataset {name} has no published version, so a run would be refused"
