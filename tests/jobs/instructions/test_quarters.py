"""Narrow keys: what is there is always found, and little else."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.instructions.alike.quarters import Shared, quarter, repeated

KEYS = st.lists(st.integers(-(2**127), 2**127 - 1), max_size=20)


@settings(max_examples=50, deadline=None)
@given(keys=KEYS, others=KEYS)
def test_what_shares_a_key_is_found(keys: list[int], others: list[int]) -> None:
    table = pl.DataFrame({"key": pl.Series([*keys, *others], dtype=pl.Int128)})
    narrow = table.select(quarter("key"))["key"]
    assert narrow.to_list() == [key % 2**32 for key in [*keys, *others]]
    assert Shared([narrow.head(len(keys)), narrow.clear()]).has(narrow).tolist()[: len(keys)] == [True] * len(keys)
    counted = narrow.to_list()
    assert repeated(narrow).to_list() == sorted({number for number in counted if counted.count(number) > 1})


def test_few_numbers_that_are_not_there_are_taken_for_one() -> None:
    numbers = pl.Series(np.random.default_rng(3).integers(0, 2**32, 300_000), dtype=pl.UInt32)
    claimed = Shared([numbers.head(200_000)]).has(numbers.tail(100_000))
    assert 0 < claimed.mean() < 0.02
