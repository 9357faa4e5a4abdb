"""The table at the end of `make run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH = 78


@dataclass(frozen=True)
class Answer:
    """One question and what `make ask` printed for it: the answer and its sources."""

    question: str
    text: str


@dataclass(frozen=True)
class Figures:
    """What the jobs of one night handed back.

    Attributes:
        data: Fields of the results of `prepare_instructions`.
        training: Fields of the results of `train_adapter`, of an earlier night when `trained` is false.
        index: Fields of the results of `refresh_embeddings`.
        answer: One question, answered.
        trained: Whether this night measured an adapter.
    """

    data: dict[str, Any]
    training: dict[str, Any]
    index: dict[str, Any]
    answer: Answer
    trained: bool


def print_summary(figures: Figures, *, seconds: float) -> None:
    """Print everything that a person wants to know in the morning."""
    heading(f"The night, {seconds / 60:.1f} minutes")
    print_data(figures.data)
    print_training(figures.training, trained=figures.trained)
    print_index(figures.index)
    heading("One question")
    print(f"Q: {figures.answer.question}\n\n{figures.answer.text}\n")
    print("-" * WIDTH)


def print_data(data: dict[str, Any]) -> None:
    """Print the rows of the dataset, all accounted for."""
    state = "new version" if data.get("changed") else "unchanged"
    row("Dataset", f"{data.get('name', '?')}, version {short(data.get('version'))}, {state}")
    counts = ("rows_in", "published", "quarantined", "duplicates")
    row("  rows", columns(data, {"rows_in": "in", **{name: name for name in counts[1:]}}))
    row("  splits", columns(data, {"train_rows": "train", "validation_rows": "validation", "test_rows": "test"}))
    reasons = data.get("reasons") or {}
    if reasons:
        row("  refused for", ", ".join(f"{name} {count}" for name, count in list(reasons.items())[:6]))
    if data.get("report_url"):
        row("  report", str(data["report_url"]))


def print_training(training: dict[str, Any], *, trained: bool) -> None:
    """Print base against adapter on the held-out rows."""
    if "exact_match_base" not in training:
        row("Adapter", str(training.get("sentence") or "no adapter has been measured yet"))
        return
    state = "promoted" if training.get("promoted") else "not promoted"
    version = short(training.get("adapter_version") or training.get("version"))
    row("Adapter", f"{training.get('name', '?')}, version {version}, {state if trained else 'unchanged'}")
    print(f"{'':<18}{'base':>10}{'adapter':>12}   on {training.get('rows', '?')} held-out rows")
    for label, before, after, form in (
        ("  exact match", "exact_match_base", "exact_match", "{:.1%}"),
        ("  loss", "loss_base", "loss", "{:.4f}"),
    ):
        print(f"{label:<18}{form.format(training[before]):>10}{form.format(training[after]):>12}")
    if training.get("sentence"):
        row("  decision" if trained else "  tonight", str(training["sentence"]))


def print_index(index: dict[str, Any]) -> None:
    """Print what changed in the index."""
    state = "changed" if index.get("changed") else "unchanged"
    row("Index", f"{index.get('name', '?')}, {state}, {index.get('chunks', '?')} chunks")
    for kind in ("documents", "chunks"):
        names = {f"{kind}_{change}": change for change in ("added", "changed", "deleted", "unchanged")}
        if any(name in index for name in names):
            row(f"  {kind}", columns(index, names))


def columns(values: dict[str, Any], names: dict[str, str]) -> str:
    """Return ``in 412   published 371   ...``."""
    return "   ".join(f"{label} {values.get(name, '?')}" for name, label in names.items())


def heading(text: str) -> None:
    """Print a heading."""
    print(f"\n{f'-- {text} ':-<{WIDTH}}")


def row(label: str, text: str) -> None:
    """Print one row."""
    print(f"{label:<18}{text}")


def short(version: object) -> str:
    """Return the first twelve digits of a version."""
    return str(version or "?")[:12]
