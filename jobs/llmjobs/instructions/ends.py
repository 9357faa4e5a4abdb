"""Takes every row of a run to one of four ends: published, quarantined, a duplicate, or left out by a budget."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from llmjobs.contracts.instructions import PrepareConfig
from llmjobs.instructions import evaluation
from llmjobs.instructions.alike.leaks import leaking, refuse_leaks
from llmjobs.instructions.alike.near import drop_near, near_pairs
from llmjobs.instructions.alike.quarters import Shared, quarter, repeated
from llmjobs.instructions.alike.sides import SIDE, SIDES, assign_sides, remembered
from llmjobs.instructions.choice import mix, selection
from llmjobs.instructions.identity import key_of, said
from llmjobs.instructions.parts import Part

COUNTS = {"published": "published", "quarantined": "quarantined", "duplicate": "duplicates", "left_out": "left_out"}
"""End -> name of the figure that counts it."""

ENDS = pl.Enum(list(COUNTS))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What this run must agree with.

    Attributes:
        sides: ``row_key``, ``group_key``, ``side`` of the version that is published now, None where nothing is, or
            where the split has another salt.
        taken_down: ``row_id`` of rows that must never be published again.
        elsewhere: Other dataset -> ``said_key`` of its rows.
        evaluation: Rows of the evaluation sets, `evaluation.SCHEMA`.
    """

    sides: pl.DataFrame | None = None
    taken_down: frozenset[str] = frozenset()
    elsewhere: Mapping[str, pl.Series] = field(default_factory=dict)
    evaluation: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=evaluation.SCHEMA))


@dataclass
class Accounts:
    """Where every row went.

    Attributes:
        part: The rows themselves.
        read: One line for each row read, by its number: ``file``, ``source_line``, a boolean for each of `FLAGS`,
            ``quarantined``, ``end``.
        good: One line for each row that no rule refused, by its number: ``row``, ``end``, ``side`` (of published
            rows), ``rank`` (of ranked train rows). What else is known of them stays on disk: `of_good`, `published`.
        repeats: Dropped rows: ``row``, ``kept_row`` (null: kept elsewhere), ``dataset`` (where), ``similarity``.
        leaks: Train or validation rows that match: ``row``, ``matches`` (a list of names).
        mixed: What the mix did with each source; empty without weights.
        fractions: What each fraction of the train side would keep; empty without scores.
    """

    part: Part
    read: pl.DataFrame
    good: pl.DataFrame
    repeats: pl.DataFrame
    leaks: pl.DataFrame
    mixed: Sequence[mix.Share] = ()
    fractions: Sequence[Mapping[str, object]] = ()

    def of_good(self, *columns: str) -> pl.DataFrame:
        """Return `good` with some of `parts.GOOD_COLUMNS`."""
        return pl.concat(_beside(self.good, self.part, columns))

    def published(self, *columns: str, without: Sequence[str] = ()) -> pl.DataFrame:
        """Return ``row``, ``end``, ``side``, ``rank`` and some of `parts.GOOD_COLUMNS` of the published rows.

        Args:
            columns: Of the part.
            without: Columns that nobody needs: they are not held even meanwhile.
        """
        tables = _beside(self.good, self.part, columns)
        return pl.concat(table.filter(_ALIVE).drop(without) for table in tables)

    @property
    def counts(self) -> dict[str, int]:
        """Rows in, rows by where they went, and rows by side."""
        ends = dict(self.read["end"].value_counts().iter_rows())
        sides = dict(self.good.select("side", "end").filter(_ALIVE)["side"].value_counts().iter_rows())
        names = {
            "published": "published",
            "quarantined": "quarantined",
            "duplicate": "duplicates",
            "left_out": "left_out",
        }
        found = {"rows_in": self.read.height} | {name: ends.get(end, 0) for end, name in names.items()}
        return found | {f"{side}_rows": sides.get(side, 0) for side in SIDES}


class _Settling:
    """The good rows of a run on their way; each step takes some of them to their end.

    In memory are a row's number, end and side only. Each step reads the columns that it needs from the part, chunk by
    chunk: all of them together are some 150 bytes a row, and each copy of the table would be as many again.
    """

    def __init__(self, part: Part, config: PrepareConfig, past: Past) -> None:
        self.part, self.contract, self.config, self.past = part, config.contract, config, past
        self.good = part.table("good", "row").with_columns(
            end=pl.lit("published", dtype=ENDS), side=pl.lit(None, dtype=SIDE), rank=pl.lit(None, dtype=pl.UInt32)
        )
        self.repeats: list[pl.DataFrame] = []
        self.pairs: pl.DataFrame | None = None
        self.taken_down = pl.Series("row", [], dtype=pl.UInt32)
        self.leaks = pl.DataFrame(schema={"row": pl.UInt32, "matches": pl.List(pl.String)})

    def alive(self, *columns: str) -> pl.DataFrame:
        """Return `good` with some columns of the part: the rows that have come to no other end yet."""
        return pl.concat(self._chunks(*columns))

    def _chunks(self, *columns: str) -> Iterator[pl.DataFrame]:
        """Yield the same, chunk by chunk."""
        return (table.filter(_ALIVE) for table in _beside(self.good, self.part, columns))

    def settle(self, rows: pl.Series, end: str) -> None:
        """Take rows, by their numbers, to an end."""
        there = pl.col("row").is_in(rows.cast(pl.UInt32).implode())
        self.good = self.good.with_columns(end=pl.when(there).then(pl.lit(end, dtype=ENDS)).otherwise(pl.col("end")))

    def take_down(self) -> None:
        keys = key_of(pl.Series(sorted(self.past.taken_down), dtype=pl.String))
        refused = pl.concat(
            table.select("row", "row_key", without_text=pl.col("raw").is_null())
            for table in self.part.tables("refused", "row", "row_key", "raw")
        )
        self.taken_down = refused.filter("without_text")["row"].cast(pl.UInt32)  # by the hash of their raw text
        if keys.is_empty():
            return
        listed = pl.col("row_key").is_in(keys.implode())
        good = pl.concat(table.filter(listed)["row"] for table in self.part.tables("good", "row", "row_key"))
        self.settle(good, "quarantined")
        # What a rule refused too must not lie about as raw text in the audit either.
        refused_too = refused.filter(listed)["row"].cast(pl.UInt32)
        self.taken_down = pl.concat([good, refused_too, self.taken_down]).unique()

    def drop_equal(self) -> None:
        """Drop rows that say the same; of these the smallest ``row_id`` stays, of identical rows the first."""
        if not self.contract.dedupe.exact:
            return
        # 32 bits of each key tell nearly all rows that say what no other says, without a table of all keys.
        narrow = quarter("said_key").alias("quarter")
        quarters = pl.concat(table.select("row", narrow) for table in self._chunks("said_key"))
        perhaps = quarters.filter(pl.col("quarter").is_in(repeated(quarters["quarter"]).implode()))["row"]
        among = pl.col("row").is_in(perhaps.implode())
        rows = pl.concat(table.filter(among) for table in self._chunks("said_key", "row_key"))
        equal = rows.filter(pl.col("said_key").is_duplicated())
        kept = pl.col("row").sort_by(*_by_id(), "row").first().over("said_key")
        table = equal.with_columns(kept_row=kept).filter(pl.col("row") != pl.col("kept_row"))
        self._drop(table.select("row", "kept_row", similarity=pl.lit(1.0)))

    def drop_elsewhere(self) -> None:
        for name, keys in self.past.elsewhere.items():
            table = self.alive("said_key").filter(pl.col("said_key").is_in(keys.implode()))
            self._drop(table.select("row", dataset=pl.lit(name), similarity=pl.lit(1.0)))

    def find_near(self) -> None:
        """Find the rows that are nearly the same, those of the evaluation sets among them."""
        wanted = [self.contract.dedupe.near_threshold]
        wanted += [self.contract.leaks.near_threshold] if self.contract.leaks.severity != "off" else []
        thresholds = [threshold for threshold in wanted if threshold is not None]
        if thresholds:
            texts = _Texts(self.part, self.alive("chunk"), self.past.evaluation)
            order = self._preferred()
            self.pairs = near_pairs(texts.batches(), texts.fetch, threshold=min(thresholds), preference=order)
            logger.info("%d pairs of rows are nearly the same", self.pairs.height)

    def drop_nearly_equal(self) -> None:
        """Drop rows that are nearly one that stays: the longest answer is preferred, then the smallest ``row_id``."""
        threshold = self.contract.dedupe.near_threshold
        if threshold is None or self.pairs is None:
            return
        pairs = self.pairs.filter(pl.col("similarity") >= threshold)
        ways = (("row", "other"), ("other", "row"))
        both = pl.concat([pairs.select(row=one, kept_row=other, similarity="similarity") for one, other in ways])
        table = drop_near(pairs, self._preferred()).join(both, on=["row", "kept_row"], how="left")
        # Rows with the same shingles are paired through one of them only.
        self._drop(table.with_columns(pl.col("similarity").fill_null(1.0)))

    def _preferred(self) -> pl.DataFrame:
        """Return ``row`` and ``rank`` of the rows that are alive: the longest answer first, then the smallest id."""
        rows = self.alive("answer_characters", "row_key")
        order = rows.sort(-pl.col("answer_characters").cast(pl.Int64), *_by_id(), "row")
        return order.select("row").with_row_index("rank")

    def take_sides(self) -> None:
        """Give each row its side; near-duplicates that go take part, so that what replaces a row inherits its side."""
        keys = ["group_key", "prompt_key", "first_key"] + ["row_key"] * (self.past.sides is not None)
        tables = _beside(self.good, self.part, keys)
        rows = pl.concat(table.filter(pl.col("end") != "quarantined").select("row", *keys) for table in tables)
        known = None if self.past.sides is None else remembered(rows, self.past.sides)
        sides = assign_sides(rows, self.contract.split, known=known, pairs=self.pairs)
        self._add("side", rows["row"], sides)

    def refuse_leaking(self) -> None:
        leaks = self.contract.leaks
        if leaks.severity == "off":
            return
        sets, threshold = self.past.evaluation.drop("text"), leaks.near_threshold
        found = [leaking(rows, self.pairs, sets=sets, near_threshold=threshold) for rows in self._facing()]
        self.leaks = pl.concat(found).unique("row").sort("row")  # a held-out row is in each
        if leaks.severity != "warn":
            self.settle(self.leaks["row"], "quarantined")
            for rows in self._facing():
                refuse_leaks(rows, self.pairs, sets=sets, near_threshold=threshold)

    def _facing(self) -> Iterator[pl.DataFrame]:
        """Yield rows that may leak: all that are held out, each time with train rows that may match one of them.

        Whether a train row leaks depends on no other train row. It cannot match where `Shared` has none of its keys,
        and no pair names it.
        """
        keys = ("first_key", "prompt_key", "group_key")
        train = pl.col("side") == "train"
        held = pl.concat(rows.filter(~train) for rows in self._chunks(*keys))
        known = [held.select(quarter(key))[key] for key in keys]
        known.append(self.past.evaluation.select(quarter("prompt_key"))["prompt_key"])
        shared = Shared(known)
        paired = pl.Series("row", [], dtype=pl.Int64)
        if self.pairs is not None:
            paired = pl.concat([self.pairs["row"], self.pairs["other"]]).unique()
        waiting = [held]
        for rows in self._chunks(*keys):
            near = pl.Series(np.logical_or.reduce([shared.has(rows.select(quarter(key))[key]) for key in keys]))
            if not paired.is_empty():
                near |= rows["row"].cast(pl.Int64).is_in(paired.implode())
            waiting.append(rows.filter(near & (rows["side"] == "train")))
            if sum(table.height for table in waiting[1:]) >= _ROWS_AT_ONCE:
                yield pl.concat(waiting)
                waiting = [held]
        yield pl.concat(waiting)

    def choose(self) -> tuple[Sequence[mix.Share], Sequence[Mapping[str, object]]]:
        """Rank the train rows, and leave out those that a mix or a budget has no room for."""
        quality = self.contract.quality
        fractions: Sequence[Mapping[str, object]] = ()
        if quality.score:
            train = self._train("row_key", "features", "score", "characters", "tokens", "language", "topic")
            train = train.with_columns(selection.clusters(train), pl.col("language", "topic").cast(pl.String))
            train = train.with_columns(selection.rank(train, diversity=quality.diversity))
            self._add("rank", train["row"], train["rank"])
            fractions = selection.fractions(train)
        shares: Sequence[mix.Share] = ()
        if any(source.weight for source in self.config.inputs):
            train = self._train("source", "row_key")
            shares = mix.shares(train, self.config.inputs)
            self.settle(train.filter(mix.left_out(train, self.config.inputs))["row"], "left_out")
            if quality.score:
                train = self._train("source")
                self._add("rank", train["row"], mix.interleaved(train))
        if quality.budget is not None:
            train = self._train("tokens", "characters", "language").with_columns(pl.col("language").cast(pl.String))
            self.settle(train.filter(~selection.within_budget(train, quality.budget))["row"], "left_out")
        return shares, fractions

    def accounts(self, shares: Sequence[mix.Share], fractions: Sequence[Mapping[str, object]]) -> Accounts:
        read = self.part.table("read")
        ends = pl.Series("end", ["quarantined"], dtype=ENDS).new_from_index(0, read.height)
        row = pl.int_range(pl.len(), dtype=pl.UInt32)
        read = read.with_columns(
            ends.scatter(self.good["row"], self.good["end"]),
            leak=row.is_in(self.leaks["row"].cast(pl.UInt32).implode()),
            taken_down=row.is_in(self.taken_down.implode()),
        ).with_columns(quarantined=pl.col("end") == "quarantined")
        good = self.good.with_columns(side=pl.when(_ALIVE).then("side"), rank=pl.when(_ALIVE).then("rank"))
        repeats = _resolved(pl.concat([pl.DataFrame(schema=_REPEATS), *self.repeats])).sort("row")
        return Accounts(self.part, read, good, repeats, self.leaks, shares, fractions)

    def _drop(self, table: pl.DataFrame) -> None:
        columns = [
            (pl.col(name) if name in table.columns else pl.lit(None)).cast(kind).alias(name)
            for name, kind in _REPEATS.items()
        ]
        self.repeats.append(table.select(columns))
        self.settle(table["row"], "duplicate")

    def _train(self, *columns: str) -> pl.DataFrame:
        return pl.concat(table.filter(pl.col("side") == "train") for table in self._chunks(*columns))

    def _add(self, column: str, rows: pl.Series, values: pl.Series) -> None:
        """Set a column for some rows; the others keep what they have."""
        places = self.good["row"].search_sorted(rows)
        self.good = self.good.with_columns(self.good[column].clone().scatter(places, values))


_ALIVE = pl.col("end") == "published"
_ROWS_AT_ONCE = 500_000
_REPEATS = {"row": pl.UInt32, "kept_row": pl.UInt32, "dataset": pl.String, "similarity": pl.Float64}


def _resolved(repeats: pl.DataFrame) -> pl.DataFrame:
    """Return repeats with the row that stays, where the row that an equal one was dropped for went too."""
    went = repeats.select(kept_row="row", last_row="kept_row", last_dataset="dataset", last_similarity="similarity")
    found = repeats.join(went, on="kept_row", how="left", maintain_order="left")
    gone = pl.col("last_similarity").is_not_null()
    return found.select(
        "row",
        kept_row=pl.when(gone).then("last_row").otherwise("kept_row"),
        dataset=pl.when(gone).then("last_dataset").otherwise("dataset"),
        similarity=pl.when(gone).then("last_similarity").otherwise("similarity"),
    )


def account_for(part: Part, config: PrepareConfig, past: Past) -> Accounts:
    """Take the rows of a part to their ends.

    Raises:
        RuntimeError: A row has no end, or a prompt is on two sides: an error of this program, so nothing may be
            published.
    """
    settling = _Settling(part, config, past)
    settling.take_down()
    settling.drop_equal()
    settling.drop_elsewhere()
    settling.find_near()
    settling.drop_nearly_equal()
    settling.take_sides()
    settling.refuse_leaking()
    accounts = settling.accounts(*settling.choose())
    refuse_lost_rows(accounts)
    return accounts


def refuse_lost_rows(accounts: Accounts) -> None:
    """Return when rows in = published + quarantined + duplicates + left out, and each published row has a side.

    Raises:
        RuntimeError: They are not.
    """
    counts = accounts.counts
    ends = sum(counts[end] for end in ("published", "quarantined", "duplicates", "left_out"))
    sides = sum(counts[f"{side}_rows"] for side in SIDES)
    nowhere = accounts.read["end"].null_count()
    if nowhere or ends != accounts.part.rows or sides != counts["published"]:
        raise RuntimeError(
            f"of {accounts.part.rows} rows {nowhere} have no end, {ends} are accounted for, and {sides} of "
            f"{counts['published']} published ones have a side; nothing is published"
        )


def _beside(good: pl.DataFrame, part: Part, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows that no rule refused, chunk by chunk, with columns of the part beside those of `good`."""
    begin = 0
    for table in part.tables("good", "row", *columns):
        yield good.slice(begin, table.height).hstack(table.drop("row"))
        begin += table.height


class _Texts:
    """What rows say, read from the part again whenever it is asked for: texts of a million rows are half a GB."""

    def __init__(self, part: Part, rows: pl.DataFrame, outside: pl.DataFrame) -> None:
        self._part = part
        self._chunks = rows.select("row", "chunk")
        self._outside = outside

    def batches(self) -> Iterator[tuple[np.ndarray, Sequence[str]]]:
        """Yield row numbers and texts, chunk by chunk; the rows from outside first."""
        if self._outside.height:
            yield self._outside["row"].to_numpy(), self._outside["text"].to_list()
        for chunk in self._chunks["chunk"].unique().sort():
            rows, texts = self._of(chunk, self._chunks.filter(pl.col("chunk") == chunk)["row"])
            yield rows.cast(pl.Int64).to_numpy(), texts.to_list()

    def fetch(self, numbers: np.ndarray) -> dict[int, str]:
        """Return the texts of some rows by their numbers."""
        wanted = pl.Series("row", numbers, dtype=pl.Int64)
        outside = self._outside.filter(pl.col("row").is_in(wanted.implode()))
        found = dict(outside.select("row", "text").iter_rows())
        inside = self._chunks.filter(pl.col("row").cast(pl.Int64).is_in(wanted.implode()))
        for (chunk,), table in inside.group_by("chunk"):
            rows, texts = self._of(int(str(chunk)), table["row"])
            found |= dict(zip(rows.to_list(), texts.to_list(), strict=True))
        return found

    def _of(self, chunk: int, rows: pl.Series) -> tuple[pl.Series, pl.Series]:
        table = self._part.chunk_rows(chunk).filter(pl.col("row").is_in(rows.implode()))
        return table["row"], said(table)


def _by_id() -> tuple[pl.Expr, pl.Expr]:
    """Return what sorts by ``row_id``: the upper half of all ids is negative as an Int128."""
    return pl.col("row_key") < 0, pl.col("row_key")
