"""Near-duplicates: what is told is exact, what is missed is rare, and what goes is near what stays."""

import itertools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.instructions.alike.bands import band_sizes
from llmjobs.instructions.alike.near import PAIRS, drop_near, near_pairs
from llmjobs.instructions.alike.shingles import TOKENS, shingles
from tests.benchmarks.near_duplicates import by_hand, changed, quality, real_texts

WORDS = tuple("".join(letters) for letters in itertools.product("bdklm", "aeiou", "rstvz"))


def sentence(chance: random.Random, words: int = 40) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def found(texts: Sequence[str], threshold: float = 0.8, rows: Sequence[int] | None = None, **more: Any) -> pl.DataFrame:
    """Look for near pairs in two batches."""
    numbers = list(range(len(texts))) if rows is None else list(rows)
    of_row = dict(zip(numbers, texts, strict=True))

    def fetch(wanted: npt.NDArray[np.int64]) -> dict[int, str]:
        assert (np.diff(wanted) > 0).all()
        return {row: of_row[row] for row in wanted.tolist()}

    half = len(texts) // 2
    batches = [(np.array(numbers[:half]), texts[:half]), (np.array(numbers[half:]), texts[half:])]
    return near_pairs(batches, fetch, threshold=threshold, **more)


def ranks(rows: Sequence[int]) -> pl.DataFrame:
    """Prefer the rows in this order."""
    return pl.DataFrame({"row": rows, "rank": range(len(rows))}, schema={"row": pl.Int64, "rank": pl.Int64})


def pairs_of(*pairs: tuple[int, int, float]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=PAIRS, orient="row")


def test_words_and_unspaced_characters_are_the_tokens() -> None:
    texts = ["", "one", "one two three", "one two  three", "三个字", "用 sql 查询", "one two", "\x1eone\x1ftwo"]
    hashes, offsets = shingles(texts)
    sets = [set(hashes[begin:end].tolist()) for begin, end in itertools.pairwise(offsets.tolist())]
    assert [len(one) for one in sets] == [0, 1, 2, 2, 2, 3, 1, 1]
    assert sets[2] == sets[3]
    assert sets[6] == sets[7]
    assert sets[6] < sets[2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab 三个字。ไ\n", max_size=12), max_size=8))
def test_shingles_are_those_of_a_plain_reading(texts: list[str]) -> None:
    hashes, offsets = shingles(texts)
    ours = [hashes[begin:end].tolist() for begin, end in itertools.pairwise(offsets.tolist())]
    plain = [by_hand(text) for text in texts]
    assert [len(one) for one in ours] == [len(one) for one in plain]
    names: dict[int, tuple[str, ...]] = {}
    for hashed, spelt in zip(itertools.chain(*ours), itertools.chain(*plain), strict=True):
        assert names.setdefault(hashed, spelt) == spelt
    assert len(set(names.values())) == len(names)


def test_shingles_are_the_same_in_every_release() -> None:
    hashes, _ = shingles(["what is up", "天空"])
    assert [hex(number) for number in hashes.tolist()] == [
        "0x355ed1a179ed816a",
        "0xf1ddba18bdd2b65e",
        "0x9472f527f691c8fc",
    ]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_few_pairs_at_the_threshold(threshold: float) -> None:
    width, count = band_sizes(threshold)
    assert width * count <= 128
    assert (1 - threshold**width) ** count <= 0.015
    if width < 128:
        assert (1 - threshold ** (width + 1)) ** (128 // (width + 1)) > 0.015


def test_similarity_is_that_of_the_sets() -> None:
    one = sentence(random.Random(1))
    other = one.replace(one.split()[20], "other", 1)
    mine, yours = set(by_hand(one)), set(by_hand(other))
    assert found([one, "something else", other]).rows() == [(0, 2, len(mine & yours) / len(mine | yours))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.7, 0.8, 0.9]))
def test_no_pair_is_invented_and_few_are_missed(seed: int, threshold: float) -> None:
    chance = random.Random(seed)
    texts = [sentence(chance, chance.randint(1, 60)) for _ in range(60)]
    texts += [changed(text, chance) for text in texts]
    recall, precision, pairs = quality(texts, threshold)
    assert precision == 1
    assert recall >= 0.85 or pairs < 20


def test_recall_on_real_rows(real: Callable[[str], Path]) -> None:
    folder = real("alpaca_en_demo.json").parent
    texts = real_texts(folder, ("alpaca_en_demo.json", "alpaca_zh_demo.json", "gsm8k_train.jsonl"), 375, 125)
    assert len(texts) == 500
    for threshold in (0.7, 0.8, 0.9):
        recall, precision, pairs = quality(texts, threshold)
        assert pairs > 40
        assert recall >= 0.95
        assert precision == 1


def test_texts_without_a_token_are_near_nothing() -> None:
    assert found(["", " ", "\n", "a", "a"]).rows() == [(3, 4, 1.0)]
    assert found(["", ""]).schema == PAIRS
    assert near_pairs([], lambda _: {}, threshold=0.8).is_empty()


def test_equal_texts_give_a_pair_each_and_are_not_fetched() -> None:
    texts = ["the same text"] * 10_000
    pairs = found(texts)
    assert len(pairs) == 9_999
    assert pairs["similarity"].unique().to_list() == [1.0]
    gone = drop_near(pairs, ranks(list(range(9_999, -1, -1))))
    assert gone["kept_row"].unique().to_list() == [9_999]
    assert len(gone) == 9_999


def test_candidates_are_verified_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for seed in range(40) for text in [sentence(random.Random(seed))] * 2]
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    whole = found(texts)
    calls: list[int] = []

    def fetch(rows: npt.NDArray[np.int64]) -> dict[int, str]:
        calls.append(len(rows))
        return {row: texts[row] for row in rows.tolist()}

    monkeypatch.setattr("llmjobs.instructions.alike.similarity._CHARACTERS", 2_000)
    monkeypatch.setattr("llmjobs.instructions.alike.shingles._CHARACTERS", 500)
    assert near_pairs([(np.arange(len(texts)), texts)], fetch, threshold=0.8).equals(whole)
    assert len(whole) == 40
    assert len(calls) > 5


def test_rows_of_one_template_give_no_square_of_pairs_and_one_stays() -> None:
    template = sentence(random.Random(2), 80)
    texts = [f"{template} {number} {number}" for number in range(3_000)]
    order = list(range(3_000))
    random.Random(3).shuffle(order)
    pairs = found(texts, preference=ranks(order))
    assert len(pairs) < 3_000 * 32
    gone = drop_near(pairs, ranks(order))
    assert len(gone) == 2_999
    assert gone["kept_row"].unique().to_list() == [order[0]]


def test_rows_that_share_phrases_only_are_not_read_again() -> None:
    texts = [f"add one to {number}. the sum is {number + 1}." for number in range(2_000)]
    texts += [f"{text} so" for text in texts[:100]]
    fetched: list[int] = []

    def fetch(rows: npt.NDArray[np.int64]) -> dict[int, str]:
        fetched.extend(rows.tolist())
        return {row: texts[row] for row in rows.tolist()}

    pairs = near_pairs([(np.arange(len(texts)), texts)], fetch, threshold=0.8)
    assert {(row, row + 2_000) for row in range(100)} >= set(pairs.select("row", "other").rows())
    assert len(pairs) >= 95
    assert len(fetched) < 300


def test_evaluation_rows_meet_every_row_of_a_template() -> None:
    template = sentence(random.Random(2), 80)
    rows = [*range(-3, 0), *range(400)]
    pairs = found([f"{template} {row} {row}" for row in rows], rows=rows)
    for row in (-3, -2, -1):
        assert set(pairs.filter(pl.col("row") == row)["other"]) == set(range(400))
    assert not len(pairs.filter(pl.col("other") < 0))


def test_equal_rows_are_tied_to_a_row_of_the_data() -> None:
    pairs = found(["one and the same", "one and the same", "one and the same"], rows=[-1, 4, 9])
    assert pairs.rows() == [(-1, 4, 1.0), (4, 9, 1.0)]


def test_a_row_goes_only_for_one_that_stays() -> None:
    chain = pairs_of((0, 1, 0.9), (1, 2, 0.9), (2, 3, 0.9))
    assert drop_near(chain, ranks([0, 1, 2, 3])).rows() == [(1, 0), (3, 2)]
    assert drop_near(chain, ranks([1, 0, 2, 3])).rows() == [(0, 1), (2, 1)]
    assert drop_near(chain, ranks([0, 3, 1, 2])).rows() == [(1, 0), (2, 3)]


def test_rows_without_a_rank_take_no_part() -> None:
    pairs = pairs_of((-1, 0, 0.9), (-1, 1, 0.9), (-2, 5, 1.0), (5, 6, 1.0))
    assert drop_near(pairs, ranks([6, 5, 1, 0])).rows() == [(5, 6)]


def test_what_is_near_one_is_near_its_equals() -> None:
    pairs = pairs_of((0, 1, 1.0), (0, 2, 1.0), (0, 3, 0.9))
    assert drop_near(pairs, ranks([3, 2, 1, 0])).rows() == [(0, 3), (1, 3), (2, 3)]
    assert drop_near(pairs, ranks([2, 3, 1, 0])).rows() == [(0, 2), (1, 2), (3, 2)]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 14), st.integers(0, 14))), st.permutations(range(15)))
def test_every_dropped_row_is_near_one_that_stays_and_no_two_near_stay(
    links: set[tuple[int, int]], order: list[int]
) -> None:
    near = {(min(link), max(link)) for link in links if link[0] != link[1]}
    gone = dict(drop_near(pairs_of(*((*pair, 0.9) for pair in sorted(near))), ranks(order)).rows())
    for row, kept in gone.items():
        assert (min(row, kept), max(row, kept)) in near
        assert kept not in gone
        assert order.index(kept) < order.index(row)
    assert not [pair for pair in near if not set(pair) & gone.keys()]


def test_by_hand_reads_the_documented_tokens() -> None:
    assert TOKENS == 2
    assert by_hand("a b c") == [("a", "b"), ("b", "c")]
    assert re.search("三", "".join(by_hand("a三")[0]))
