"""The order of the rows: a function of seed, epoch and lengths, and of nothing else."""

from __future__ import annotations

import pytest

from llmjobs.training.data.ordering import Cursor, Ordering

LENGTHS = [10 + (7 * row) % 90 for row in range(203)]


def made(*, seed: int = 7, size: int = 8, grouped: bool = False) -> Ordering:
    return Ordering(LENGTHS, seed=seed, global_batch_size=size, grouped=grouped)


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_comes_once_an_epoch(grouped: bool) -> None:
    steps = made(grouped=grouped).steps(3)
    assert sorted(row for step in steps for row in step) == list(range(203))
    assert [len(step) for step in steps] == [8] * 25 + [3]
    assert len(steps) == made().steps_per_epoch == 26


@pytest.mark.parametrize("grouped", [False, True])
def test_seed_and_epoch_decide(grouped: bool) -> None:
    one = made(grouped=grouped).steps(0)
    assert one == made(grouped=grouped).steps(0)
    assert one != made(grouped=grouped).steps(1)
    assert one != made(seed=8, grouped=grouped).steps(0)


def test_the_order_is_pinned() -> None:
    """A checkpoint of today must go on with the same rows tomorrow."""
    assert Ordering([1] * 8, seed=7, global_batch_size=4).steps(0) == [[2, 4, 5, 7], [1, 6, 0, 3]]


def test_a_grouped_step_holds_rows_of_like_length() -> None:
    def spread(steps: list[list[int]]) -> int:
        return sum(max(LENGTHS[row] for row in step) - min(LENGTHS[row] for row in step) for step in steps)

    plain, grouped = made().steps(0), made(grouped=True).steps(0)
    assert spread(grouped) < spread(plain) / 4
    # The steps themselves are shuffled: no run begins with the short rows.
    means = [sum(LENGTHS[row] for row in step) for step in grouped[:25]]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_the_cursor_counts_samples() -> None:
    order = made()
    assert order.cursor(0) == Cursor(0, 0)
    assert order.cursor(25) == Cursor(0, 200)
    assert order.cursor(26) == Cursor(1, 0)
    assert order.cursor(55) == Cursor(2, 24)
    assert [order.step_at(order.cursor(step)) for step in range(60)] == list(range(60))
    with pytest.raises(ValueError, match=r"sample 12, which is no multiple of train.global_batch_size \(8\)"):
        order.step_at(Cursor(0, 12))
