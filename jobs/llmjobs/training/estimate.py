"""Job: what a training will take, before it is started. Reads the lake and the base's headers only; takes a second.

    python -m llmjobs.training.estimate        (config as JSON in LLMJOBS_CONFIG)

Memory is told part by part, and the strategy is chosen by it where `dist.strategy` is ``auto``; what cannot fit is
refused, with what would. Hours and cost follow from the audited tokens and the speed of past trainings.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.contracts.training import TrainConfig
from llmjobs.contracts.training_results import EstimateResult, SplitAudit, StrategyEstimate
from llmjobs.lake import Lake
from llmjobs.models import resolve_model
from llmjobs.results import main
from llmjobs.training.audit import audit_of
from llmjobs.training.estimating.amount import Amount, amount_of, bill_of, exceeded, together
from llmjobs.training.estimating.fitting import Case, Choice, choices, choose, compared, first_fitting, peak_of
from llmjobs.training.estimating.flops import flops_per_token
from llmjobs.training.estimating.machine import GIB, machine_of
from llmjobs.training.estimating.memory import disk_of
from llmjobs.training.estimating.shapes import ModelShape, shape_of
from llmjobs.training.estimating.table import markdown
from llmjobs.training.estimating.throughput import Throughput, derived, learned, past_runs
from llmjobs.training.identity import ADAPTERS, AdapterIdentity, identify

logger = logging.getLogger(__name__)


def run(config: TrainConfig) -> EstimateResult:
    """Estimate the trainings that `config` means and the lake has not: one, or the candidates of a sweep.

    Raises:
        BadData: The dataset has no such version, or its rows were not audited.
        BadConfig: The base is not to be had, or the training cannot fit; the sentence says what would.
    """
    lake = Lake.from_environment()
    train = _audited(identify(config, lake), lake)
    adapters = [identify(one, lake) for one in config.candidates]
    left = [one for one in adapters if lake.manifest(ADAPTERS, config.name, one.version) is None]
    shape = _shape(config)
    machine = machine_of(config)
    case = Case([one.config for one in left or adapters], shape, train.longest_tokens, machine)
    # What is trained already needs no room any more.
    choice = choose(case) if left else first_fitting(case) or next(choices(case))
    throughput = _throughput(config, case, choice, lake, tokens_per_row=train.tokens // train.rows)
    amount = together([amount_of(one.config, train, share=one.config.data.fraction / config.data.fraction)
                       for one in left])  # fmt: skip
    figures = _memory(case, choice) | _bill(config, case, amount, throughput)
    result = _result(adapters[-1], len(left), figures)
    for line in [result.sentence, *result.summary.splitlines()]:
        logger.info("%s", line)
    return result


def _audited(adapter: AdapterIdentity, lake: Lake) -> SplitAudit:
    """Return the audited train rows.

    Raises:
        BadData: There is no audit yet.
    """
    audit = audit_of(adapter, lake)
    if audit is None:
        raise BadData(
            f"dataset {adapter.config.dataset}, version {adapter.config.dataset_version}: its rows were not audited "
            f"for {adapter.config.model.name} with data.max_length_tokens ({adapter.config.data.max_length_tokens}); "
            "run llmjobs.training.audit first, with the same config"
        )
    return audit.splits[0]


def _shape(config: TrainConfig) -> ModelShape | None:
    """Return the sizes of the base; None, with a warning, for a family whose sizes cannot be told."""
    try:
        return shape_of(Path(resolve_model(config.model.name, config.model.revision).path))
    except BadConfig as error:
        logger.warning("the memory is not estimated: %s", error)
        return None


def _throughput(
    config: TrainConfig, case: Case, choice: Choice, lake: Lake, *, tokens_per_row: int
) -> Throughput | None:
    if config.limits.tokens_per_second:
        return Throughput(config.limits.tokens_per_second, "given as limits.tokens_per_second")
    device, length = case.machine.device, config.data.max_length_tokens
    past = learned(past_runs(lake), base=config.model.name, device=device, strategy=choice.strategy, max_length=length)
    if past or case.shape is None:
        return past
    return derived(device, flops_per_token(case.shape, config.lora, tokens_per_row=tokens_per_row))


# --- the result


def _memory(case: Case, choice: Choice) -> dict[str, Any]:
    """Return the fields about the machine and its memory."""
    return {
        "device": case.machine.device,
        "strategy": "ddp" if choice.strategy == "single" else choice.strategy,
        "processes": case.machine.processes_per_node,
        "micro_batch_size": choice.micro_batch_size,
        "room_bytes": case.machine.room_bytes,
        "peak_bytes": peak_of(choice.memory),
        "strategies": [_told(case, one) for one in compared(case, choice)] if case.shape else [],
        "disk": disk_of(case.configs[0], case.shape) if case.shape else {},
    }


def _told(case: Case, choice: Choice) -> StrategyEstimate:
    memory = choice.memory
    return StrategyEstimate(
        strategy=choice.strategy,
        load=memory.load,
        training=memory.training,
        load_peak=memory.load_peak_bytes,
        training_peak=memory.training_peak_bytes,
        host=memory.host_bytes,
        fits=case.fits(memory),
    )


def _bill(config: TrainConfig, case: Case, amount: Amount, throughput: Throughput | None) -> dict[str, Any]:
    """Return the fields about time and money."""
    machine, limits = case.machine, config.limits
    bill = bill_of(amount, throughput, machine.processes, limits, on_gpu=machine.on_gpu, nodes=machine.nodes)
    return {
        "steps": amount.steps,
        "tokens": amount.tokens,
        "tokens_per_second": throughput.tokens_per_second if throughput else None,
        "source": throughput.source if throughput else "no training of this base on such a device is in the lake yet",
        "hours": bill.hours,
        "cost": bill.cost,
        "currency": limits.currency,
        "exceeded": exceeded(bill, limits),
    }


def _result(adapter: AdapterIdentity, count: int, figures: dict[str, Any]) -> EstimateResult:
    config = adapter.config
    result = EstimateResult(
        name=config.name,
        adapter_version=adapter.version,
        dataset=config.dataset,
        dataset_version=config.dataset_version,
        base_model=config.model.name,
        base_revision=adapter.base_revision,
        adapters=count,
        verdict="ask" if figures["exceeded"] else "within",
        sentence=_sentence(config, count, figures),
        summary="",
        **figures,
    )
    return result.model_copy(update={"summary": markdown(result)})


def _sentence(config: TrainConfig, count: int, figures: dict[str, Any]) -> str:
    if not count:
        return f"adapter {config.name}: it is trained already, so it takes nothing"
    room, peak = figures["room_bytes"], f"{figures['peak_bytes'] / GIB:.1f}"
    memory = f"{peak} of {room / GIB:.1f} GiB" if room else f"{peak} GiB"
    each = "GPU" if figures["device"] != "cpu" else "process"
    hours = "hours are not known" if figures["hours"] is None else f"{figures['hours']:.3g} h"
    cost = "" if figures["cost"] is None else f", {figures['cost']:.3g} {figures['currency']}"
    told = f"{memory} of each {each}" if figures["strategies"] else "memory is not known"
    nodes = f"{config.dist.nodes} nodes of " if config.dist.nodes > 1 else ""
    said = "".join(f"; {one}" for one in figures["exceeded"])
    return (
        f"adapter {config.name}: {count} to train on {nodes}{figures['processes']} x {figures['device']}, {told}; "
        f"{figures['steps']:,} steps, {figures['tokens']:,} tokens, {hours}{cost} ({figures['source']}){said}"
    )


if __name__ == "__main__":
    sys.exit(main(TrainConfig, run))
