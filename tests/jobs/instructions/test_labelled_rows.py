"""Rules against labelled real rows: precision and recall of each class, and how many good rows are lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.instructions.labels.labelled_rows import (
    CLASSES,
    FEWEST,
    Label,
    Score,
    interval,
    judged,
    labelled_table,
    labels,
    lost,
    published_examples,
    rows_of,
    scores,
    sha256_of,
)

Pairs = list[tuple[Label, dict[str, Any]]]

TARGET = 0.9
MOST_LOST = 0.01
FEWEST_OF_HALF = 10
"""Of fewer, nine in ten would mean each one."""


@pytest.fixture(scope="session")
def pairs(real: Callable[[str], Path]) -> Pairs:
    return judged(real)


def score_of(pairs: Pairs, rule: str) -> Score:
    return scores(pairs)[CLASSES.index(rule)]


def disagreements(pairs: Pairs, rule: str) -> list[str]:
    """Name the rows of the dev half on which a rule and the labels differ: nobody may tune on those of the other."""
    return [
        f"{'missed' if rule in label.classes else 'wrongly flagged'}: {label.file} row {label.row}"
        for label, row in pairs
        if (rule in label.classes) != row[rule] and label.half == "dev"
    ]


def test_enough_rows_are_labelled() -> None:
    every = labels()
    assert len(every) >= 300
    assert len({(label.file, label.row) for label in every}) == len(every)
    assert all(label.classes <= set(CLASSES) for label in every)


def test_labels_are_of_the_rows_as_they_are(real: Callable[[str], Path]) -> None:
    rows = {label.file: rows_of(real(label.file)) for label in labels()}
    assert [label for label in labels() if sha256_of(rows[label.file][label.row]) != label.sha256] == []


@pytest.mark.parametrize("rule", CLASSES)
def test_precision_and_recall(pairs: Pairs, rule: str) -> None:
    """A rare class has no target of its own, but it too must leave the rows of other classes alone."""
    whole, half = score_of(pairs, rule), score_of([pair for pair in pairs if pair[0].half == "test"], rule)
    print(f"\n{rule}: precision {interval(whole.right, whole.right + whole.wrong)}")
    print(f"{rule}: recall {interval(whole.right, whole.positives)}")
    assert whole.wrong <= MOST_LOST * (len(pairs) - whole.positives), disagreements(pairs, rule)
    for score, fewest in ((whole, FEWEST), (half, FEWEST_OF_HALF)):
        if score.positives >= fewest:
            assert score.right >= TARGET * score.positives, (score, disagreements(pairs, rule))
            assert score.right >= TARGET * (score.right + score.wrong), (score, disagreements(pairs, rule))


def test_hardly_a_good_row_is_lost(pairs: Pairs) -> None:
    quarantined, good = lost(pairs)
    print(f"\ngood rows lost: {interval(quarantined, good)}")
    rows = [
        (label.file, label.row if label.half == "dev" else "of the test half", [rule for rule in CLASSES if row[rule]])
        for label, row in pairs
        if label.sample == "random" and not label.classes and row["quarantined"]
    ]
    assert good >= 150
    assert quarantined / good <= MOST_LOST, rows


def test_the_table_tells_every_class_that_is_labelled(pairs: Pairs) -> None:
    table = labelled_table(pairs)
    assert all(f"| `{score.rule}` | {score.positives} |" in table for score in scores(pairs) if score.positives)


def test_published_examples_are_found() -> None:
    """Every class that an example is published for is found; rows that only a person can tell are kept."""
    examples = published_examples()
    missed = [(source, rule) for source, classes, row in examples for rule in classes if not row[rule]]
    assert missed == []
    kept = [row["quarantined"] for _, classes, row in examples if not classes]
    assert kept == [False] * 3
