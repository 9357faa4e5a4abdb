"""The labelled rows, what the examination says of them, and how far the two agree."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import yaml
from scipy.stats import binomtest

from llmjobs.contracts.data_contract import DataContract, Mapping
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.rules.examination import examine

FOLDER = Path(__file__).parent
DATA = Path(__file__).parents[5] / "shared" / "data" / "instructions"

CLASSES = (
    "refusal",
    "speaks_as_ai",
    "image_request",
    "truncated_answer",
    "language_mismatch",
    "url_only_input",
    "no_input_marker",
    "control_characters",
    "merged_instructions",
    "empty_turn",
    "unrendered_template",
    "placeholder_answer",
    "empty_answer",
    "empty_code_block",
    "answer_repeats_question",
    "broken_encoding",
    "role_order",
)
"""The rules that the labels are about, the frequent ones first."""

FEWEST = 5
"""Positives below which a share says too little for a target."""

_FILES = {
    "alpaca_en_demo": "json",
    "alpaca_zh_demo": "json",
    "alpaca_v2": "json",
    "chatml_messages": "jsonl",
    "gsm8k_train": "jsonl",
    "self_instruct_seed_tasks": "jsonl",
    "sharegpt_conversation": "json",
    "sharegpt_conversation_missing_turns": "json",
    "sharegpt_dummy_conversation": "json",
    "sharegpt_toolcall_demo": "json",
}


@dataclass(frozen=True)
class Label:
    """What a reader said of one row.

    Attributes:
        file: Its name.
        row: Position in the file, from 0.
        sha256: First 16 hex digits of the SHA-256 of the row's canonical JSON.
        classes: Of `CLASSES`; none where it is good.
        sample: Whether the row was drawn at random, or looked for.
        half: Rules may be tuned on ``dev``.
    """

    file: str
    row: int
    sha256: str
    classes: frozenset[str]
    sample: Literal["random", "enriched"]
    half: Literal["dev", "test"]


@dataclass(frozen=True)
class Score:
    """How a rule did on some labelled rows.

    Attributes:
        rule: Its name.
        right: Labelled rows that it found.
        wrong: Rows that it found and that are not labelled so.
        missed: Labelled rows that it did not find.
    """

    rule: str
    right: int
    wrong: int
    missed: int

    @property
    def positives(self) -> int:
        return self.right + self.missed

    @property
    def precision(self) -> float | None:
        return share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        return share(self.right, self.positives)


def labels() -> list[Label]:
    """Return every label, file by file."""
    return [label for stem in _FILES for label in _labels_of(stem)]


def _labels_of(stem: str) -> Iterator[Label]:
    for entry in yaml.safe_load((FOLDER / f"{stem}.yaml").read_text()):
        classes = frozenset(entry.pop("classes")) - {"good"}
        yield Label(file=f"{stem}.{_FILES[stem]}", classes=classes, **entry)


def rows_of(path: Path) -> list[Any]:
    """Return the rows of a real file that is whole, read by the standard library."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line]
    rows = json.loads(text)
    return rows if isinstance(rows, list) else [rows]


def sha256_of(row: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of a row's canonical JSON."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def contract_of(file: str) -> DataContract:
    """Return the default contract; GSM8K has columns of its own."""
    mapping = Mapping(instruction="question", output="answer") if file.startswith("gsm8k") else None
    return DataContract(owner="tests", mapping=mapping)


def examined(content: bytes, name: str, keep: list[int] | None = None) -> pl.DataFrame:
    """Read and examine the rows of a file under the default contract.

    Args:
        content: Its bytes.
        name: Its name.
        keep: Positions of the rows to examine; None takes all.
    """
    contract = contract_of(name)
    frame = pl.concat(read_frames(io.BytesIO(content), name=name, form=contract.format, mapping=contract.mapping))
    return examine(frame if keep is None else frame[keep], contract).rows


def judged(find: Callable[[str], Path]) -> list[tuple[Label, dict[str, Any]]]:
    """Return each label with the examined row.

    Args:
        find: File name -> path of the real file.
    """
    pairs: list[tuple[Label, dict[str, Any]]] = []
    for stem, suffix in _FILES.items():
        path = find(f"{stem}.{suffix}")
        wanted = list(_labels_of(stem))
        content = _self_instruct_as_alpaca(path) if stem.startswith("self_instruct") else path.read_bytes()
        rows = examined(content, path.name, [label.row for label in wanted])
        pairs += zip(wanted, rows.select("quarantined", *CLASSES).to_dicts(), strict=True)
    return pairs


def published_examples() -> list[tuple[str, frozenset[str], dict[str, Any]]]:
    """Return source, classes and the examined row of each published example."""
    entries = yaml.safe_load((FOLDER / "published_examples.yaml").read_text())
    lines = [json.dumps({name: entry[name] for name in ("instruction", "input", "output")}) for entry in entries]
    rows = examined("\n".join(lines).encode(), "published.jsonl").select("quarantined", *CLASSES).to_dicts()
    return [
        (entry["source"], frozenset(entry["classes"]) - {"good"}, row) for entry, row in zip(entries, rows, strict=True)
    ]


def scores(pairs: list[tuple[Label, dict[str, Any]]]) -> list[Score]:
    """Return how each rule did, in the order of `CLASSES`."""
    return [
        Score(
            rule,
            right=sum(rule in label.classes and row[rule] for label, row in pairs),
            wrong=sum(rule not in label.classes and row[rule] for label, row in pairs),
            missed=sum(rule in label.classes and not row[rule] for label, row in pairs),
        )
        for rule in CLASSES
    ]


def lost(pairs: list[tuple[Label, dict[str, Any]]]) -> tuple[int, int]:
    """Return how many good rows of the random sample are quarantined, and of how many."""
    good = [row for label, row in pairs if label.sample == "random" and not label.classes]
    return sum(row["quarantined"] for row in good), len(good)


def labelled_table(pairs: list[tuple[Label, dict[str, Any]]] | None = None) -> str:
    """Return the agreement of rules and labels as a Markdown table.

    Args:
        pairs: From `judged`; None judges the real files beside the repository.
    """
    pairs = judged(lambda name: DATA / name) if pairs is None else pairs
    lines = [
        "| class | labelled | precision (95%) | recall (95%) | test half: labelled | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    halves = scores([pair for pair in pairs if pair[0].half == "test"])
    for whole, half in zip(scores(pairs), halves, strict=True):
        if whole.positives or whole.wrong:
            cells = [
                f"`{whole.rule}`",
                str(whole.positives),
                interval(whole.right, whole.right + whole.wrong),
                interval(whole.right, whole.positives),
                str(half.positives),
                interval(half.right, half.right + half.wrong),
                interval(half.right, half.positives),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    quarantined, good = lost(pairs)
    lines += ["", f"Good rows of the random sample that are quarantined: {interval(quarantined, good)}."]
    return "\n".join(lines)


def share(part: int, whole: int) -> float | None:
    """Return a share, None of nothing."""
    return part / whole if whole else None


def interval(part: int, whole: int) -> str:
    """Return a share with its exact 95% interval (Clopper and Pearson, 1934), and the counts."""
    if not whole:
        return "-"
    bounds = binomtest(part, whole).proportion_ci(method="exact")
    return f"{part / whole:.2f} ({bounds.low:.2f} to {bounds.high:.2f}; {part}/{whole})"


def _self_instruct_as_alpaca(path: Path) -> bytes:
    """Return the seed tasks as Alpaca lines: their texts are in a list of instances, of which each has one."""
    lines = []
    for row in rows_of(path):
        instance = row["instances"][0]
        lines.append(
            json.dumps({"instruction": row["instruction"], "input": instance["input"], "output": instance["output"]})
        )
    return "\n".join(lines).encode()
