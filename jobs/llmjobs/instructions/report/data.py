"""What the report of a run says, as plain values: the engine fills it in, `report_page` shows it.

Whoever fills it in need mask nothing: every text is masked and shortened when the page is written, but for those that
are made of our own words and numbers only (`PLAIN`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from llmjobs.instructions.report.diff import Diff
from llmjobs.instructions.report.distributions import Histogram

Outcome = Literal["published", "ask", "refused", "dry_run", "unchanged"]

PLAIN = {"plain": True}
"""Metadata of fields that hold no text of a row, a file or a person: they are shown as they are."""


@dataclass(frozen=True)
class Row:
    """A row that is shown.

    Attributes:
        place: Where it is from: file and line.
        parts: Pairs of name (``user``, ``instruction``, ``raw``) and text, in reading order.
        detail: What is wrong with it, where there is more to say than its class.
    """

    place: str
    parts: tuple[tuple[str, str], ...]
    detail: str = ""


@dataclass(frozen=True)
class Limit:
    """A budget, a limit on drift or a rule of severity ``fail``.

    Attributes:
        name: As in the contract: ``budgets.max_quarantined_share``, ``drift.length``.
        state: ``kept``; ``warn``: a person is asked; ``fail``: refused; ``off``: reported, not limited.
        found: What was found, in words: ``4.20%``, ``51,760 rows``.
        allowed: The limit in words: ``at most 10%``; empty without one.
        value: Where the bar ends, 0 to 1 of its length; None: no bar.
        warn_at: Where the mark of the warn limit is, 0 to 1.
        fail_at: Where the mark of the limit itself is, 0 to 1.
    """

    name: str = field(metadata=PLAIN)
    state: Literal["kept", "warn", "fail", "off"] = field(metadata=PLAIN)
    found: str = field(metadata=PLAIN)
    allowed: str = field(default="", metadata=PLAIN)
    value: float | None = None
    warn_at: float | None = None
    fail_at: float | None = None


@dataclass(frozen=True)
class Rule:
    """A rule that found something. ``severity`` and ``description`` are the contract's."""

    name: str = field(metadata=PLAIN)
    severity: str = field(metadata=PLAIN)
    count: int
    description: str = field(metadata=PLAIN)


@dataclass(frozen=True)
class File:
    """Where the rows of one file went. ``problem``: why it could not be read to its end; empty where it could."""

    name: str
    rows: int
    published: int
    quarantined: int
    duplicates: int
    left_out: int = 0
    problem: str = ""


@dataclass(frozen=True)
class SourceShare:
    """One source of a mix: its published rows, the weight that the config asks for, and the licences of its rows."""

    name: str
    rows: int
    published: int
    weight: float | None = None
    licences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """Rows by length.

    Attributes:
        unit: ``characters`` or ``tokens``.
        histogram: By side: its groups are ``train``, ``validation`` and ``test``, as far as they have rows.
        quantiles: Side -> the quantiles of `distributions.quantiles`.
    """

    unit: str = field(metadata=PLAIN)
    histogram: Histogram
    quantiles: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mix:
    """Published rows by category: languages, topics, labels or licences; ``rows`` the most frequent first, all."""

    name: str = field(metadata=PLAIN)
    rows: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """The diff with the last version, with the texts of its sample rows.

    Attributes:
        changed: Pairs of old and new row.
    """

    diff: Diff
    added: tuple[Row, ...] = ()
    removed: tuple[Row, ...] = ()
    changed: tuple[tuple[Row, Row], ...] = ()


@dataclass(frozen=True)
class Match:
    """Two rows that are alike: a dropped duplicate and the row that stays, or a leak and what it matched.

    Attributes:
        row: The row that was dropped, or put aside.
        matched: The row that it is like.
        similarity: Jaccard, 0 to 1; None: exactly the same but for white space and letter case.
        where: Of a leak: the side or the evaluation set that `matched` is in.
    """

    row: Row
    matched: Row
    similarity: float | None = None
    where: str = ""


@dataclass(frozen=True)
class EvaluationSet:
    """A set that no train row may match.

    Attributes:
        rows: That were read.
        usable: Of these, rows that can be compared with.
        matched: Rows of the dataset that match one of them.
    """

    name: str
    rows: int
    usable: int
    matched: int


@dataclass(frozen=True)
class Matches:
    """Duplicates, or leaks.

    Attributes:
        exact: Duplicates that match exactly; leaks of either kind.
        near: Duplicates that are nearly the same.
        threshold: Similarity from which rows count as nearly the same; None: nobody looked.
        by_place: Of leaks: side -> rows that match it. Of duplicates: other dataset -> rows.
        samples: A few of them.
        sets: Of leaks: the evaluation sets.
    """

    exact: int
    near: int = 0
    threshold: float | None = None
    by_place: dict[str, int] = field(default_factory=dict)
    samples: tuple[Match, ...] = ()
    sets: tuple[EvaluationSet, ...] = ()


@dataclass(frozen=True)
class PersonalData:
    """Rows that hold one kind of personal data or secrets, and what happened to them."""

    kind: str = field(metadata=PLAIN)
    policy: str = field(metadata=PLAIN)
    rows: int


@dataclass(frozen=True)
class Repair:
    """A part of a row before and after a rule repaired it."""

    place: str
    rule: str = field(metadata=PLAIN)
    part: str
    before: str
    after: str


@dataclass(frozen=True)
class Fraction:
    """What would be kept of the train rows if only the best part of them were taken.

    Attributes:
        fraction: Of the train rows, 0 to 1.
        rows: That many rows.
        tokens: Of these rows; None where nobody counted.
        mean_score: Of the rows kept, 0 to 1.
        lowest_score: Of the rows kept.
        clusters: Share of the clusters of alike rows that still have a row, 0 to 1; None where there are none.
        random_clusters: The same of as many rows drawn at random.
        topics: Share of the topics that still have a row; None where there are none.
        random_topics: The same of as many rows drawn at random.
    """

    fraction: float
    rows: int
    mean_score: float
    lowest_score: float
    tokens: int | None = None
    clusters: float | None = None
    random_clusters: float | None = None
    topics: float | None = None
    random_topics: float | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """Return one of the mappings that `selection.fractions` makes."""
        chance = kept.get("random", {})
        own = {name: kept.get(name) for name in ("tokens", "clusters", "topics")}
        drawn = {f"random_{name}": chance.get(name) for name in ("clusters", "topics")}
        return cls(kept["fraction"], kept["rows"], kept["mean_score"], kept["lowest_score"], **own, **drawn)


@dataclass(frozen=True)
class Marks:
    """What a judge said.

    Attributes:
        judge: The model.
        rows: Mark, 5 to 1 -> good rows, published or not.
        none: Good rows without a mark: beyond the contract's `max_rows`, or the answer held none.
        unanswered: Good rows for which no answer came; the next night asks again.
    """

    judge: str
    rows: dict[int, int] = field(metadata=PLAIN)
    none: int = 0
    unanswered: int = 0


@dataclass(frozen=True)
class QualityCurve:
    """Quality against quantity.

    Attributes:
        fractions: The smallest first.
        budget: What the contract asked for: ``10,000 rows``; empty: all rows are kept.
        kept_share: The fraction that was published, 0 to 1.
        marks: What a judge said of the good rows; None: none was asked.
    """

    fractions: tuple[Fraction, ...]
    budget: str = field(default="", metadata=PLAIN)
    kept_share: float | None = None
    marks: Marks | None = None


@dataclass(frozen=True)
class RefusedClass:
    """Rows that were put aside for one reason, with a few of them."""

    rule: str = field(metadata=PLAIN)
    count: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Removal:
    """An entry of the takedown list that this run met: ``row`` is a row's id, ``reason`` who asked and why."""

    row: str = field(metadata=PLAIN)
    reason: str


@dataclass(frozen=True)
class Suite:
    """What Great Expectations said: its version, and expectations evaluated and met."""

    version: str = field(metadata=PLAIN)
    evaluated: int
    met: int


@dataclass(frozen=True)
class ReportData:
    """All that the report of a run says; sections without content do not appear.

    ``rows_in = published + quarantined + duplicates + left_out``. Of a refused run, of a dry run and of one that asks,
    `published` are the rows that would be.

    Attributes:
        name: The dataset.
        outcome: What became of it.
        sentence: The verdict in one sentence, without a full stop: why, and what to change.
        version: The dataset version that these rows are; empty of a refused run.
        base_version: The version that it is compared with; empty before the first.
        interval_end: End of the run's data interval; empty without one. No time of writing: equal runs, equal reports.
        fixed: Published rows that were repaired; `warned`: that carry a warning; `masked`: with masked personal data.
        sides: ``train``, ``validation``, ``test`` -> published rows.
        limits: See `report_limits`, which makes them.
        mixes: The one with most categories first: it has a column of its own then.
        rules: Those that found something; `quiet`: rules that found nothing; `off`: rules that are switched off.
        versions: Name -> version, for the foot: rules, contract, code, libraries.
        files_beside: Name of a file beside the report -> what it holds.
    """

    name: str = field(metadata=PLAIN)
    owner: str = field(metadata=PLAIN)
    outcome: Outcome = field(metadata=PLAIN)
    sentence: str = field(metadata=PLAIN)
    rows_in: int
    published: int
    quarantined: int
    duplicates: int
    left_out: int = 0
    description: str = ""
    version: str = field(default="", metadata=PLAIN)
    base_version: str = field(default="", metadata=PLAIN)
    interval_end: str = field(default="", metadata=PLAIN)
    fixed: int = 0
    warned: int = 0
    masked: int = 0
    sides: dict[str, int] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    rules: tuple[Rule, ...] = ()
    quiet: tuple[str, ...] = field(default=(), metadata=PLAIN)
    off: tuple[str, ...] = field(default=(), metadata=PLAIN)
    refused: tuple[RefusedClass, ...] = ()
    comparison: Comparison | None = None
    lengths: tuple[Lengths, ...] = ()
    mixes: tuple[Mix, ...] = ()
    repeated: Matches | None = None
    leaks: Matches | None = None
    personal_data: tuple[PersonalData, ...] = ()
    repairs: tuple[Repair, ...] = ()
    quality: QualityCurve | None = None
    sources: tuple[SourceShare, ...] = ()
    files: tuple[File, ...] = ()
    removals: tuple[Removal, ...] = ()
    suite: Suite | None = None
    versions: dict[str, str] = field(default_factory=dict, metadata=PLAIN)
    files_beside: dict[str, str] = field(default_factory=dict, metadata=PLAIN)
