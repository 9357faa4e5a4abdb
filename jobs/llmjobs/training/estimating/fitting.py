"""Which strategy and micro batch fit into memory, and what would where none does. Pure: no torch.

DDP is the default. ZeRO-3 shards the base, the gradients and the optimiser's state, at the price of gathering every
layer in every pass: it is taken only where DDP does not fit, and only where the whole 4-bit copy, which each process
holds while it loads, does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.training import TrainConfig
from llmjobs.training.estimating.gpus import GPUS
from llmjobs.training.estimating.machine import GIB, Machine
from llmjobs.training.estimating.memory import MemoryEstimate, memory_of
from llmjobs.training.estimating.shapes import ModelShape
from llmjobs.training.sharding import Strategy

_MORE_PROCESSES = (2, 4, 8, 16)
_ROW_GRANULE = 64


@dataclass(frozen=True)
class Case:
    """Trainings of one base on one kind of machine.

    Attributes:
        configs: One, or the candidates of a sweep; what fits must fit all.
        shape: Of the base; None where it is not known, and then nothing is refused.
        longest_tokens: Of a row.
        machine: What they run on.
    """

    configs: Sequence[TrainConfig]
    shape: ModelShape | None
    longest_tokens: int
    machine: Machine

    def memory(self, strategy: Strategy, micro_batch_size: int) -> MemoryEstimate:
        """Return the estimate of the config that takes most; an empty one where the base's sizes are not known."""
        if self.shape is None:
            return MemoryEstimate()
        found = [
            memory_of(config, self.shape, strategy=strategy, processes=self.machine.processes,
                      on_gpu=self.machine.on_gpu, micro_batch_size=micro_batch_size,
                      longest_tokens=self.longest_tokens)
            for config in self.configs
        ]  # fmt: skip
        return max(found, key=peak_of)

    def fits(self, memory: MemoryEstimate) -> bool | None:
        """Return whether there is room for it, at load and in training; None where that is not known."""
        if self.machine.room_bytes is None or self.shape is None:
            return None
        return peak_of(memory) <= self.machine.room_bytes

    def changed(self, section: str, **fields: Any) -> Case:
        """Return the case with other fields in one section of its configs."""
        configs = [one.model_copy(update={section: getattr(one, section).model_copy(update=fields)})
                   for one in self.configs]  # fmt: skip
        return replace(self, configs=configs)

    def on(self, **fields: Any) -> Case:
        """Return the case on another machine."""
        return replace(self, machine=replace(self.machine, **fields))


@dataclass(frozen=True)
class Choice:
    """How a training is laid out, and the memory that it takes so."""

    strategy: Strategy
    micro_batch_size: int
    memory: MemoryEstimate


def peak_of(memory: MemoryEstimate) -> int:
    """Return the most that a process holds at once, at load or in training, in bytes."""
    return max(memory.load_peak_bytes, memory.training_peak_bytes)


def choose(case: Case) -> Choice:
    """Return the first of the allowed strategies, and the largest of its micro batches, that fits.

    Raises:
        BadConfig: None does; the sentence has the numbers and names what would.
    """
    choice = first_fitting(case)
    if choice is None:
        raise BadConfig(_refusal(case))
    return choice


def first_fitting(case: Case) -> Choice | None:
    """Return what `choose` does, None where nothing fits; where the room is not known, the first of all."""
    for choice in choices(case):
        if case.fits(choice.memory) is not False:
            return choice
    return None


def compared(case: Case, choice: Choice) -> list[Choice]:
    """Return what the chosen strategy is shown beside: the others that so many processes could take, in one order."""
    if choice.strategy == "single":
        return [choice]
    shown: tuple[Strategy, ...] = ("ddp", "zero1", "zero2", "zero3")
    micro = choice.micro_batch_size
    return [Choice(strategy, micro, case.memory(strategy, micro)) for strategy in shown]


def choices(case: Case) -> Iterator[Choice]:
    """Yield what may be taken, the best first."""
    for strategy in strategies(case):
        for micro in micro_batches(case):
            yield Choice(strategy, micro, case.memory(strategy, micro))


def strategies(case: Case) -> list[Strategy]:
    """Return the strategies that the configs allow on so many processes, the default first."""
    wanted = case.configs[0].dist.strategy
    if wanted not in {"auto", "ddp"}:
        return [wanted]  # type: ignore[list-item]  # neither auto nor ddp: a stage of ZeRO
    if case.machine.processes == 1:
        return ["single"]
    return ["ddp"] if wanted == "ddp" or clash(case, "zero3") else ["ddp", "zero3"]


def clash(case: Case, strategy: Strategy) -> str:
    """Return why the configs cannot be trained so, as the contract says it; empty where they can."""
    for config in case.configs:
        values = config.model_dump(mode="json")
        values["dist"]["strategy"] = strategy
        try:
            TrainConfig.model_validate(values)
        except ValidationError as error:
            return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return ""


def micro_batches(case: Case) -> list[int]:
    """Return the micro batches that may be taken, the largest first: one, where it is configured.

    Raises:
        BadConfig: The global batch cannot be cut for so many processes.
    """
    config = case.configs[0]
    try:
        batching = config.batching(case.machine.processes)
    except ValueError as error:
        raise BadConfig(str(error)) from None
    if config.train.micro_batch_size:
        return [batching.micro_batch_size]
    rows = batching.micro_batch_size * batching.accumulation
    return [size for size in range(batching.micro_batch_size, 0, -1) if rows % size == 0]


# --- what would fit


def _refusal(case: Case) -> str:
    config = case.configs[0]
    least = min(choices(case), key=lambda one: peak_of(one.memory))
    load, training, room = least.memory.load_peak_bytes, least.memory.training_peak_bytes, case.machine.room_bytes or 0
    when = "while it is loaded" if load > training else f"in a step of {least.micro_batch_size} rows a process"
    sentence = (
        f"adapter {config.name}: {config.model.name} under {least.strategy} takes {max(load, training) / GIB:.1f} GiB "
        f"{when}, and {_room_named(case)} is {room / GIB:.1f} GiB"
    )
    remedies = list(_remedies(case))
    return f"{sentence}; what would fit: {', or '.join(remedies)}" if remedies else f"{sentence}; nothing known fits"


def _room_named(case: Case) -> str:
    if case.machine.on_gpu:
        return f"a GPU of type {case.machine.device}"
    sharing = case.machine.processes_per_node
    share = f" over {sharing} processes" if sharing > 1 else ""
    return f"resources.memory_gib ({case.configs[0].resources.memory_gib:g}){share}"


def _remedies(case: Case) -> Iterator[str]:
    """Yield each single change that makes it fit, as a field and its value; the cheapest first."""
    config = case.configs[0]
    for micro in _smaller_micro_batches(case):
        if first_fitting(case.changed("train", micro_batch_size=micro)):
            yield f"train.micro_batch_size: {micro}"
            break
    recomputing = case.changed("train", activation_checkpointing=True)
    if first_fitting(recomputing):
        yield "train.activation_checkpointing: true"
    elif first_fitting(recomputing.changed("train", micro_batch_size=1)):
        yield "train.activation_checkpointing: true with train.micro_batch_size: 1"
    if config.quantisation.type == "none" and first_fitting(case.changed("quantisation", type="nf4")):
        yield "quantisation.type: nf4"
    tokens = _longest_that_fits(case)
    if tokens:
        yield f"data.max_length_tokens: {tokens}"
    if not case.machine.on_gpu:
        yield f"resources.memory_gib: {_memory_gib(case)}"
        return
    reason = clash(case, "zero3") if case.machine.processes > 1 else ""
    sharded = case.changed("dist", strategy="zero3")
    if config.dist.strategy != "zero3" and case.machine.processes > 1 and first_fitting(sharded):
        yield f"ZeRO-3, but {reason}" if reason else "dist.strategy: zero3"
    yield from _more_gpus(case)
    yield from _another_gpu(case)


def _smaller_micro_batches(case: Case) -> list[int]:
    batching = case.configs[0].batching(case.machine.processes)
    rows = batching.micro_batch_size * batching.accumulation
    return [size for size in range(batching.micro_batch_size - 1, 0, -1) if rows % size == 0]


def _longest_that_fits(case: Case) -> int:
    """Return the longest row, in steps of 64 tokens, that would fit; 0 where none does."""
    fitting = 0
    low, high = 1, (case.longest_tokens - 1) // _ROW_GRANULE
    while low <= high:
        middle = (low + high) // 2
        tokens = middle * _ROW_GRANULE
        if first_fitting(replace(case.changed("data", max_length_tokens=tokens), longest_tokens=tokens)):
            fitting, low = tokens, middle + 1
        else:
            high = middle - 1
    return fitting


def _memory_gib(case: Case) -> int:
    """Return the memory of the machine, in whole GiB, that the configured layout takes."""
    least = min(peak_of(one.memory) for one in choices(case))
    return math.ceil(least * case.machine.processes_per_node / GIB)


def _more_gpus(case: Case) -> Iterator[str]:
    if case.configs[0].dist.strategy == "ddp" or case.configs[0].dist.processes:
        return  # more of them hold no less each, or are asked not to be taken
    for processes in _MORE_PROCESSES:
        more = case.on(processes=processes * case.machine.nodes)
        if processes > case.machine.processes_per_node and _can_be_cut(more):
            choice = first_fitting(more)
            if choice:
                yield f"resources.gpus: {processes} (under {choice.strategy})"
                return


def _can_be_cut(case: Case) -> bool:
    try:
        return bool(micro_batches(case))
    except BadConfig:
        return False


def _another_gpu(case: Case) -> Iterator[str]:
    for gpu in sorted(GPUS, key=lambda one: (one.memory_bytes, -one.bf16_flops)):
        if first_fitting(case.on(room_bytes=gpu.memory_bytes, device=gpu.name)):
            yield f"resources.gpu: {gpu.name}"
            return
