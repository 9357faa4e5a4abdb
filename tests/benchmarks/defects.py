r"""Known defects of real rows, side by side: which are found by us, by Great Expectations alone, by data-juicer.

The rows are those of LLaMA-Factory's ``alpaca_en_demo.json`` beside the repository: the repeated rows, and all that
``tests/jobs/instructions/labels`` says of it. A peer is credited with a row that any of its checks names, drops or
changes; we only with one that the rule of that very defect names. What each does to good rows is measured too, on the
labelled rows that were drawn at random: a filter that drops everything finds everything.

* Great Expectations gets the suite that a team would write with its own expectations from the README of
  AlpacaDataCleaned, before it has seen the data: see `_suite`.
* data-juicer gets its own recipe for this kind of data (``alpaca-cot-en-refine.yaml``), and before it the operator
  that removes links. The recipe's flagged words are left out, for their list must be downloaded from its authors.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from llmjobs.instructions.identity import identify
from tests.benchmarks.figures import Figure, Skipped, report
from tests.benchmarks.peers import PeerMissingError, environment, output_of
from tests.benchmarks.rules_against_gx import expectation_classes, unexpected_rows
from tests.jobs.instructions.labels.labelled_rows import CLASSES, DATA, examined, labels, rows_of

FILE = "alpaca_en_demo.json"
DUPLICATE = "exact duplicate"
REFUSALS = 14
"""How many the facts about this file speak of; the labels have more, for they count those without "sorry" too."""

JUICER = ("py-data-juicer==1.6.1", "aiohttp", "ray", "simhash-pybind")
"""Its base installation cannot be imported without aiohttp and ray (1.6.1); the recipe needs simhash-pybind.

After each operator it would install torch (2.9 GB) to empty the cache of a GPU; it is kept from that.
"""

JUICER_PROGRAM = r"""
import json, sys
import data_juicer.ops.base_op
from loguru import logger
from data_juicer.core.data import NestedDataset
from data_juicer.ops import load_ops
logger.remove()
data_juicer.ops.base_op.free_models = lambda *_: None
steps = [
    {"clean_links_mapper": {}},
    {"document_deduplicator": {"lowercase": True, "ignore_non_character": True}},
    {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.1}},
    {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.6}},
    {"maximum_line_length_filter": {"min_len": 20}},
    {"text_length_filter": {"min_len": 30}},
    {"document_simhash_deduplicator": {"tokenization": "space", "window_size": 3, "lowercase": True,
                                       "ignore_pattern": r"\p{P}", "num_blocks": 9, "hamming_distance": 7}},
]
rows = json.load(open(sys.argv[1]))
texts = ["\n".join(filter(None, (row["instruction"], row["input"], row["output"]))) for row in rows]
data = NestedDataset.from_list([{"text": text, "row": number} for number, text in enumerate(texts)])
for operator in load_ops(steps):
    data = operator.run(data)
left = dict(zip(data["row"], data["text"]))
print(json.dumps([number for number, text in enumerate(texts) if left.get(number) != text]))
"""


@dataclass(frozen=True)
class Comparison:
    """Who finds which rows.

    Attributes:
        known: Defect -> the rows that have it, in the file's order from 0.
        ours: Defect -> the rows of which we say so.
        peers: Peer -> the rows that it names, drops or changes; or why it could not be run.
        good: The good rows of the random sample; `lost` those of them that we quarantine.
    """

    known: dict[str, list[int]]
    ours: dict[str, set[int]]
    peers: dict[str, set[int] | str]
    good: set[int]
    lost: set[int]


@cache
def comparison() -> Comparison:
    """Run all three over the file; needs the real data beside the repository."""
    rows = rows_of(DATA / FILE)
    known, good = _known(rows)
    ours, lost = _found_by_us(good)
    juicer = f"data-juicer {JUICER[0].partition('==')[2]}, its recipe for Alpaca-CoT"
    peers: dict[str, set[int] | str] = {
        f"Great Expectations {version('great-expectations')} alone": _found_by_great_expectations(rows),
        juicer: _attempt(_found_by_data_juicer),
    }
    return Comparison(known, ours, peers, good, lost)


def defect_figures() -> Iterable[Figure | Skipped]:
    """Yield how many known rows of each defect are found: by us, and against each peer."""
    if not (DATA / FILE).is_file():
        yield Skipped("instructions", "known defects of real rows", f"../shared/data/instructions/{FILE} is not there")
        return
    result = comparison()
    for defect, rows in result.known.items():
        found = len(result.ours[defect].intersection(rows))
        metric = f"{FILE}, {defect}: found of {len(rows)} known rows"
        yield Figure("instructions", metric, found, "rows", target=_target(defect, len(rows)), better="higher")
        for peer, theirs in result.peers.items():
            if isinstance(theirs, str):
                yield Skipped("instructions", metric, theirs, peer)
                continue
            count = len(theirs.intersection(rows))
            ratio = round(found / count, 2) if count else None
            bound = 1.0 if count else _target(defect, len(rows))
            named = f"{metric}; the peer {count}"
            yield Figure("instructions", named, found, "rows", peer, ratio, bound, "higher")
    yield from _figures_of_good_rows(result)


def defect_table() -> str:
    """Return the table row by row, and its sums, as Markdown."""
    result = comparison()
    peers = {peer: theirs for peer, theirs in result.peers.items() if not isinstance(theirs, str)}
    head = ["defect", "row", "Nightshift", *peers]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for defect, rows in result.known.items():
        for row in rows:
            marks = [row in result.ours[defect], *(row in theirs for theirs in peers.values())]
            lines.append(f"| {defect} | {row} | {' | '.join('found' if mark else '-' for mark in marks)} |")
    lines += ["", defect_summary()]
    return "\n".join(lines)


def defect_summary() -> str:
    """Return the sums of the table as Markdown: one line for each defect, and what was done to good rows."""
    result = comparison()
    head = ["defect", "known rows", "Nightshift", *result.peers]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for defect, rows in result.known.items():
        cells = [len(result.ours[defect].intersection(rows)), *_counts(result, set(rows))]
        lines.append(f"| {defect} | {len(rows)} | {' | '.join(map(str, cells))} |")
    cells = [len(result.lost), *_counts(result, result.good)]
    lines.append(f"| good rows refused or changed | {len(result.good)} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _counts(result: Comparison, rows: set[int]) -> list[str]:
    found = result.peers.values()
    return ["skipped" if isinstance(theirs, str) else str(len(theirs & rows)) for theirs in found]


def _target(defect: str, known: int) -> float:
    """Return how many must be found: of the four that the facts count all of those, else nine in ten."""
    if defect in {DUPLICATE, "no_input_marker", "url_only_input"}:
        return known
    return max(REFUSALS, 0.9 * known) if defect == "refusal" else 0.9 * known


def _figures_of_good_rows(result: Comparison) -> Iterable[Figure | Skipped]:
    metric = f"{FILE}: good rows refused or changed, of {len(result.good)} drawn at random"
    yield Figure("instructions", metric, len(result.lost), "rows", target=0.01 * len(result.good))
    for peer, theirs in result.peers.items():
        if isinstance(theirs, str):
            yield Skipped("instructions", metric, theirs, peer)
        else:
            count = len(theirs & result.good)
            ratio = round(len(result.lost) / count, 2) if count else None
            yield Figure("instructions", f"{metric}; the peer {count}", len(result.lost), "rows", peer, ratio)


def _known(rows: list[dict[str, str]]) -> tuple[dict[str, list[int]], set[int]]:
    """Return defect -> rows, and the good rows of the random sample; a repeated row is not good."""
    first: dict[str, int] = {}
    repeated = [number for number, row in enumerate(rows) if first.setdefault(json.dumps(row), number) != number]
    ours = [label for label in labels() if label.file == FILE]
    by_class = {rule: [label.row for label in ours if rule in label.classes] for rule in CLASSES}
    good = {label.row for label in ours if label.sample == "random" and not label.classes} - set(repeated)
    return {DUPLICATE: repeated} | {rule: found for rule, found in by_class.items() if found}, good


def _found_by_us(good: set[int]) -> tuple[dict[str, set[int]], set[int]]:
    """Return defect -> rows of which a rule says so, and the good rows that are quarantined."""
    table = examined((DATA / FILE).read_bytes(), FILE)
    found = {rule: set(table[rule].arg_true()) for rule in CLASSES}
    keys = identify(table)["said_key"]
    found[DUPLICATE] = set((~keys.is_first_distinct()).arg_true())
    return found, good & set(table["quarantined"].arg_true())


def _found_by_great_expectations(rows: list[dict[str, str]]) -> set[int]:
    table = pl.DataFrame(rows).with_row_index("row").to_pandas()
    found = unexpected_rows(table, {"all": _suite(expectation_classes())})
    return set(found["all"])


def _suite(expectations: Any) -> list[Any]:
    """Return what can be said with Great Expectations' own expectations, from the list of AlpacaDataCleaned."""
    texts = ("instruction", "input", "output")
    no_match, length = expectations.ExpectColumnValuesToNotMatchRegex, expectations.ExpectColumnValueLengthsToBeBetween
    spellings = ["<no input>", "No input", "noinput", "<noinput>"]
    return [
        *(expectations.ExpectColumnValuesToNotBeNull(column=column) for column in texts),
        expectations.ExpectCompoundColumnsToBeUnique(column_list=list(texts)),
        length(column="instruction", min_value=1, max_value=20_000),
        length(column="output", min_value=1, max_value=20_000),
        expectations.ExpectColumnValuesToNotBeInSet(column="input", value_set=spellings),
        no_match(column="input", regex=r"^https?://\S+$"),
        no_match(column="output", regex=r"^(?:N/A|<[Nn]o ?[Oo]utput>|None)$"),
        no_match(column="output", regex=r"(?i)\bas an ai\b|\bai language model\b"),
        no_match(column="output", regex=r"(?i)^(?:i'm|i am) sorry"),
        no_match(column="output", regex=r"\n##\n\d+\. Instruction:"),
        no_match(column="output", regex=r"```\w*\s*```"),
        no_match(
            column="instruction", regex=r"(?i)\b(?:generate|create|draw|design) an? (?:image|picture|graphic|logo)\b"
        ),
        *(no_match(column=column, regex=r"\{\{.*?\}\}|<\|[a-z_]+\|>") for column in texts),
        *(no_match(column=column, regex=r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\ufffd") for column in texts),
    ]


def _found_by_data_juicer() -> set[int]:
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        python = environment("data-juicer", *JUICER)
        printed = output_of(python, JUICER_PROGRAM, str(DATA / FILE), folder=Path(folder))
    return set(json.loads(printed.splitlines()[-1]))


def _attempt(find: Callable[[], set[int]]) -> set[int] | str:
    try:
        return find()
    except PeerMissingError as error:
        return str(error)


if __name__ == "__main__":
    if (DATA / FILE).is_file():
        sys.stdout.write(defect_table() + "\n\n")
    raise SystemExit(report(defect_figures))
