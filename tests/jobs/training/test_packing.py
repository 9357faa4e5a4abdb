"""A step's rows are cut for processes and micro batches: none lost, none twice, no process out of step."""

from __future__ import annotations

import random

import pytest

from llmjobs.contracts.training import TrainConfig
from llmjobs.training.data.packing import Cutter, best_fit_decreasing, padded_tokens

DRAW = random.Random(3)
LENGTHS = [DRAW.choice((30, 60, 100, 140, 200, 400)) + place for place in range(16)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("capacity", [0, 512])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_every_row_once_and_every_process_in_step(processes: int, capacity: int, rows: int) -> None:
    lengths = LENGTHS[:rows]
    for flat in (False, True):
        shares = Cutter(processes, 2, capacity, flat).cut(lengths)
        assert len(shares) == processes
        assert len({len(share) for share in shares}) == 1
        batches = [batch for share in shares for batch in share]
        assert sorted(row for batch in batches for pack in batch for row in pack) == list(range(rows))
        assert max(len(batch) for batch in batches) <= 2
        packs = [pack for batch in batches for pack in batch]
        assert all(sum(lengths[row] for row in pack) <= capacity for pack in packs if capacity)
        # A process has nothing to do only where there are fewer rows than processes.
        assert [] not in batches or rows < processes * len(shares[0])


def test_an_even_cut_is_the_configured_one() -> None:
    shares = Cutter(2, 2).cut(LENGTHS[:8])
    assert [[len(batch) for batch in share] for share in shares] == [[2, 2], [2, 2]]


def test_micro_batches_that_are_computed_together_are_alike() -> None:
    first, second = Cutter(2, 4).cut(LENGTHS)
    for mine, other in zip(first, second, strict=True):
        shortest = min(LENGTHS[row] for (row,) in mine)
        assert shortest >= max(LENGTHS[row] for (row,) in other)


def test_packs_waste_less_than_padding() -> None:
    def positions(cutter: Cutter) -> int:
        return sum(padded_tokens(batch, LENGTHS) for batch in cutter.cut(LENGTHS)[0])

    real = sum(LENGTHS)
    assert positions(Cutter(1, 16)) > 2 * real
    assert positions(Cutter(1, 16, 512)) < 1.1 * real


def test_best_fit_takes_the_tightest_place() -> None:
    assert best_fit_decreasing([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert best_fit_decreasing([7, 6, 3], 10) == [[0, 2], [1]]


def test_half_the_micro_batch_is_the_same_step() -> None:
    cutter = Cutter(1, 8)
    half = cutter.halved()
    assert half is not None
    assert len(half.cut(LENGTHS)[0]) == 2 * len(cutter.cut(LENGTHS)[0])
    assert Cutter(1, 1).halved() is None


def test_packing_is_where_and_grouping_is_what() -> None:
    """Packed or padded a step learns the same: it is the same adapter. Another order of the rows is another one."""

    def version(**sections: dict[str, object]) -> str:
        values = {"name": "a", "dataset": "d", "model": "m", **sections}
        return TrainConfig.from_mapping(values, origin="test").adapter_version("data", "revision")

    assert version(data={"packing": "bfd"}) == version()
    assert version(train={"group_by_length": True}) != version()
