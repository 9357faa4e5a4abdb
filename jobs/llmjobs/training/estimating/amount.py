"""How much a training computes, how long that takes and what it costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmjobs.contracts.training import Limits, TrainConfig
from llmjobs.contracts.training_results import SplitAudit
from llmjobs.training.estimating.throughput import Throughput

_HOUR = 3600


@dataclass(frozen=True)
class Amount:
    """What one or several trainings take in.

    Attributes:
        steps: Optimiser steps, at most: early stopping may end before.
        tokens: Of these steps, padding not counted.
    """

    steps: int
    tokens: int


@dataclass(frozen=True)
class Bill:
    """What that comes to; None where it is not known.

    Attributes:
        hours: Of the steps, one training after the other.
        cost: Of the devices, in the currency of the limits.
    """

    hours: float | None
    cost: float | None


def amount_of(config: TrainConfig, train: SplitAudit, *, share: float) -> Amount:
    """Return the steps and tokens of one training.

    Args:
        config: Its recipe.
        train: The audited train rows.
        share: Part of these rows that it is trained on.
    """
    rows, tokens = max(1, round(train.rows * share)), train.tokens * share
    steps_per_epoch = math.ceil(rows / config.train.global_batch_size)
    steps = config.train.max_steps or math.ceil(steps_per_epoch * (config.train.epochs or 1.0))
    return Amount(steps, round(tokens * steps / steps_per_epoch))


def together(amounts: Sequence[Amount]) -> Amount:
    """Return the sum."""
    return Amount(sum(one.steps for one in amounts), sum(one.tokens for one in amounts))


def bill_of(
    amount: Amount, throughput: Throughput | None, processes: int, limits: Limits, *, on_gpu: bool, nodes: int = 1
) -> Bill:
    """Return what an amount comes to.

    Args:
        amount: Steps and tokens.
        throughput: Of one process; None where it is not known.
        processes: How many compute at once.
        limits: Hold the price.
        on_gpu: Whether each process has a GPU, which has the price; else the machine has it.
        nodes: Machines.
    """
    price = limits.price_per_hour
    if not amount.tokens:
        return Bill(0.0, 0.0 if price else None)
    if throughput is None:
        return Bill(None, None)
    hours = amount.tokens / (throughput.tokens_per_second * processes) / _HOUR
    return Bill(hours, hours * price * (processes if on_gpu else nodes) if price else None)


def exceeded(bill: Bill, limits: Limits) -> list[str]:
    """Return each limit that the bill exceeds, or cannot be held against, as a phrase with the numbers."""
    found = []
    for limit, value, field, unit in (
        (limits.max_hours, bill.hours, "max_hours", "h"),
        (limits.max_cost, bill.cost, "max_cost", limits.currency),
    ):
        if limit and value is None:
            found.append(f"limits.{field} is {limit:g} {unit}, and what it takes is not known")
        elif limit and value is not None and value > limit:
            found.append(f"{value:.3g} {unit} is more than limits.{field} ({limit:g} {unit})")
    return found
