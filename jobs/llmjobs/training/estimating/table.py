"""The figures of an estimate as Markdown tables: for the log and for the person who is asked."""

from __future__ import annotations

from collections.abc import Iterable

from llmjobs.contracts.training_results import EstimateResult, StrategyEstimate
from llmjobs.training.estimating.machine import GIB

_FITS = {True: "yes", False: "no", None: "not known"}


def markdown(result: EstimateResult) -> str:
    """Return the tables: the bill, memory part by part under each strategy, and disk."""
    return "\n\n".join([_bill(result), _memory(result), _disk(result)])


def _memory(result: EstimateResult) -> str:
    shown = result.strategies
    head = [f"GiB per {'process' if result.device == 'cpu' else 'GPU'}", *(one.strategy for one in shown)]
    lines = [_row(head), _row(["---"] * len(head))]
    for title, part in (("at load", "load"), ("training", "training")):
        names = dict.fromkeys(name for one in shown for name in getattr(one, part))
        lines += [
            _row([f"{title}: {name}", *(_gib(getattr(one, part).get(name, 0)) for one in shown)]) for name in names
        ]
    lines += [
        _row(["**most at load**", *(_gib(one.load_peak) for one in shown)]),
        _row(["**most in training**", *(_gib(one.training_peak) for one in shown)]),
    ]
    if any(one.host for one in shown):
        lines.append(_row(["main memory of what is offloaded", *(_gib(one.host) for one in shown)]))
    room = "" if result.room_bytes is None else f" into {result.room_bytes / GIB:.1f} GiB"
    lines.append(_row([f"fits{room}", *(_fits(one) for one in shown)]))
    return "\n".join(lines)


def _fits(one: StrategyEstimate) -> str:
    return _FITS[one.fits]


def _disk(result: EstimateResult) -> str:
    return "\n".join([_row(["Disk", "GiB"]), _row(["---", "---"]), *_rows(result.disk.items())])


def _rows(parts: Iterable[tuple[str, int]]) -> list[str]:
    return [_row([name, _gib(size)]) for name, size in parts]


def _bill(result: EstimateResult) -> str:
    rate = "not known" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f} ({result.source})"
    lines = [
        ("adapters to train", f"{result.adapters}"),
        ("steps", f"{result.steps:,}"),
        ("tokens", f"{result.tokens:,}"),
        ("tokens/s of a device", rate),
        ("hours", "not known" if result.hours is None else f"{result.hours:.3g}"),
        ("cost", "not known" if result.cost is None else f"{result.cost:.3g} {result.currency}"),
    ]
    return "\n".join([_row(["Bill", ""]), _row(["---", "---"]), *(_row(list(line)) for line in lines)])


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
