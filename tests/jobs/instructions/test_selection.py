"""The order of a budget: every beginning is the best choice of its size, whatever the order of the rows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import TrainBudget
from llmjobs.instructions.choice import selection
from tests.benchmarks.quality import ranked_rows, read

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=8)
DIVERSITY = st.sampled_from([0.0, 0.3, 0.7, 1.0])


def table(rows: list[tuple[int, int]], first_key: int = 0) -> pl.DataFrame:
    """Return rows of a cluster and a score in twentieths; their keys fall as the rows go on."""
    keys = [first_key + len(rows) - number for number in range(len(rows))]
    return pl.DataFrame(
        {
            "row_key": pl.Series(keys, dtype=pl.Int128),
            "cluster": pl.Series([cluster for cluster, _ in rows], dtype=pl.UInt16),
            "score": pl.Series([score / 20 for _, score in rows], dtype=pl.Float32),
        }
    )


def worth(chosen: list[tuple[int, int]], diversity: float) -> float:
    """The function of the module's docstring."""
    variety = sum(math.sqrt(count) for count in Counter(cluster for cluster, _ in chosen).values())
    return (1 - diversity) * sum(score / 20 for _, score in chosen) + diversity * variety


@settings(deadline=None)
@given(ROWS, DIVERSITY)
def test_no_choice_of_so_many_rows_is_worth_more_than_the_beginning(
    rows: list[tuple[int, int]], diversity: float
) -> None:
    ranks = selection.rank(table(rows), diversity=diversity).to_list()
    assert sorted(ranks) == list(range(len(rows)))
    order = [rows[position] for position in np.argsort(ranks)]
    for count in range(1, len(rows) + 1):
        best = max(worth(list(chosen), diversity) for chosen in itertools.combinations(rows, count))
        assert worth(order[:count], diversity) == pytest.approx(best, abs=1e-6)


@settings(deadline=None)
@given(ROWS, DIVERSITY, st.randoms())
def test_the_order_of_the_rows_changes_nothing(rows: list[tuple[int, int]], diversity: float, chance: Any) -> None:
    given_rows = table(rows)
    ranked = given_rows.with_columns(selection.rank(given_rows, diversity=diversity))
    shuffled = given_rows.sample(given_rows.height, shuffle=True, seed=chance.randrange(1 << 30))
    again = shuffled.with_columns(selection.rank(shuffled, diversity=diversity))
    assert ranked.sort("row_key").equals(again.sort("row_key"))


def test_a_score_that_is_no_number_comes_last_and_stays() -> None:
    rows = table([(0, 5), (0, 0), (0, 9)]).with_columns(score=pl.Series([float("nan"), None, 0.4], dtype=pl.Float32))
    assert selection.rank(rows, diversity=0.0).to_list() == [2, 1, 0]
    assert selection.rank(rows.head(0), diversity=0.3).to_list() == []


def test_diversity_brings_the_other_cluster_forward() -> None:
    rows = table([(0, 20), (0, 19), (0, 18), (1, 10)])
    assert selection.rank(rows, diversity=0.0).to_list() == [0, 1, 2, 3]
    assert selection.rank(rows, diversity=0.5).to_list() == [0, 2, 3, 1]


def test_a_new_row_leaves_the_order_of_other_clusters() -> None:
    rows = table([(number % 5, (number * 7) % 20) for number in range(60)], first_key=1000)
    more = pl.concat([rows, table([(0, 13)])])
    before = rows.with_columns(selection.rank(rows, diversity=0.3)).filter(pl.col("cluster") != 0).sort("rank")
    after = more.with_columns(selection.rank(more, diversity=0.3)).filter(pl.col("cluster") != 0).sort("rank")
    assert before["row_key"].to_list() == after["row_key"].to_list()


# --- budgets


def ranked(*tokens: int | None, characters: int = 40) -> pl.DataFrame:
    """Return rows whose ranks are against their order."""
    count = len(tokens)
    return pl.DataFrame(
        {"rank": list(reversed(range(count))), "tokens": list(reversed(tokens)), "characters": [characters] * count},
        schema_overrides={"tokens": pl.Int64},
    )


def test_a_budget_of_rows_takes_the_first_ranks() -> None:
    assert selection.within_budget(ranked(1, 1, 1, 1), TrainBudget(rows=3)).to_list() == [False, True, True, True]
    assert selection.within_budget(ranked(1, 1), TrainBudget(rows=9)).to_list() == [True, True]


def test_a_budget_of_tokens_stops_at_the_first_row_that_does_not_fit() -> None:
    rows = ranked(5, 3, 10, 1)
    assert selection.within_budget(rows, TrainBudget(tokens=9)).to_list() == [False, False, True, True]
    assert selection.within_budget(rows, TrainBudget(tokens=18)).to_list() == [False, True, True, True]
    assert selection.within_budget(rows, TrainBudget(tokens=4)).to_list() == [False] * 4


def test_tokens_that_nobody_counted_are_estimated_from_the_characters() -> None:
    rows = ranked(None, None, None, characters=41)  # 11 tokens each
    assert selection.within_budget(rows, TrainBudget(tokens=22)).sum() == 2
    chinese = rows.with_columns(language=pl.Series(["zh", None, "en"]))
    assert chinese.select(selection.tokens(chinese))["tokens"].to_list() == [28, 11, 11]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 200), st.integers(0, 100))
def test_a_larger_budget_holds_the_smaller(tokens: list[int], budget: int, more: int) -> None:
    small, large = (
        selection.within_budget(ranked(*tokens), TrainBudget(tokens=size)) for size in (budget, budget + more)
    )
    assert (small & ~large).sum() == 0
    assert sum(ranked(*tokens).filter(small)["tokens"]) <= budget


# --- clusters


def prompts(*texts: str) -> pl.DataFrame:
    keys = pl.Series("row_key", range(len(texts)), dtype=pl.Int128)
    return pl.DataFrame([keys, selection.features(pl.Series(texts))])


def test_features_follow_from_the_prompt_alone() -> None:
    texts = [f"Explain the number {number} to a {number % 7} year old" for number in range(3000)] + ["", None, "是什么"]
    whole = selection.features(pl.Series(texts))
    parts = [
        selection.features(pl.Series(texts[start : start + 700], dtype=pl.String)) for start in range(0, 3003, 700)
    ]
    assert whole.equals(pl.concat(parts))
    assert whole.dtype == pl.Array(pl.UInt16, selection.FEATURES)


def test_like_prompts_share_a_cluster_and_unlike_ones_do_not() -> None:
    topics = [f"animal{number} habitat{number} feeding{number}" for number in range(20)]
    texts = [f"Describe {topic}, please, version {number}" for number in range(15) for topic in topics]
    found = selection.clusters(prompts(*texts)).to_list()
    topics_of = {cluster: {topic % 20 for topic, one in enumerate(found) if one == cluster} for cluster in set(found)}
    assert max(len(topics) for topics in topics_of.values()) == 1
    assert len(topics_of) < 60


def test_clusters_follow_from_the_rows_as_a_set() -> None:
    rows = prompts(*(f"Write {verb} about {noun}" for verb in "abcdefgh" for noun in ("houses", "rivers", "mountains")))
    other = rows.sample(rows.height, shuffle=True, seed=3)
    one = rows.with_columns(selection.clusters(rows)).sort("row_key")
    assert one.equals(other.with_columns(selection.clusters(other)).sort("row_key"))


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["the"], ["same words here"] * 50])
def test_prompts_that_say_nothing_have_a_cluster_too(texts: list[str]) -> None:
    assert len(selection.clusters(prompts(*texts) if texts else prompts("x").head(0))) == len(texts)


def test_one_percent_more_rows_move_few() -> None:
    chance = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(3000)])
    rows = prompts(*(" ".join(words[np.minimum(chance.zipf(1.3, 9), 3000) - 1]) for _ in range(5050)))
    rows = rows.with_columns(row_key=pl.Series(chance.permutation(5050), dtype=pl.Int128), score=chance.random(5050))
    taken = []
    for some in (rows.head(5000), rows):
        ranks = selection.rank(some.with_columns(selection.clusters(some)), diversity=0.3)
        taken.append(set(some.filter(ranks < some.height // 4)["row_key"]))
    assert len(taken[0] & taken[1]) / len(taken[0]) > 0.97


# --- fractions


def test_fractions_say_what_each_keeps_beside_chance() -> None:
    rows = pl.DataFrame(
        {
            "rank": [0, 1, 2, 3],
            "score": [0.8, 0.6, 0.4, 0.2],
            "cluster": [1, 2, 1, 1],
            "characters": [40, 20, 20, 20],
            "topic": ["a", None, "b", "b"],
            "language": ["en", "zh", None, "en"],
        }
    )
    half, whole = selection.fractions(rows, (0.5, 1.0))
    assert half == {
        "fraction": 0.5,
        "rows": 2,
        "tokens": 10 + 14,
        "mean_score": pytest.approx(0.7),
        "lowest_score": 0.6,
        "mean_characters": 30,
        "clusters": 1.0,
        "topics": 0.5,
        "languages": 2,
        # Of the 6 pairs all meet cluster 1, 3 meet cluster 2; 3 meet topic a, 5 topic b.
        "random": {
            "tokens": 17,
            "mean_score": pytest.approx(0.5),
            "clusters": pytest.approx(0.75),
            "topics": pytest.approx((3 / 6 + 5 / 6) / 2),
        },
    }
    assert whole["random"]["clusters"] == whole["clusters"] == 1
    assert selection.fractions(rows.head(0)) == []
    assert selection.fractions(rows.drop("topic", "language"), (0.1,))[0]["topics"] is None


def test_a_quarter_of_real_rows_scores_higher_and_meets_more_clusters_than_chance(real: Callable[[str], Path]) -> None:
    (kept,) = selection.fractions(ranked_rows(read(real("alpaca_en_demo.json")), 0.3), (0.25,))
    assert kept["mean_score"] > kept["random"]["mean_score"] + 0.05
    assert kept["clusters"] > kept["random"]["clusters"] + 0.2
