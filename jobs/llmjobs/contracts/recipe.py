"""The parts of an adapter's recipe: base, quantisation, adapter, rows, optimisation, processes, checkpoints."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import Strict


class Model(Strict):
    """The frozen base."""

    name: str = Field(min_length=1, title="Base model", description="Hub id, or path of a model's folder")
    revision: str | None = Field(
        default=None,
        title="Revision",
        description="Commit, tag or branch of the hub; empty takes what is installed or newest",
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16",
        title="Number format",
        description="Of everything that is not quantised, and of the computation",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(default="sdpa", description="Attention kernel")


class Quantisation(Strict):
    """How the frozen base is stored (QLoRA, arXiv:2305.14314)."""

    type: Literal["nf4", "none"] = Field(default="nf4", description="4-bit NormalFloat, or none for plain LoRA")
    double: bool = Field(
        default=True, description="Quantise the quantisation constants too: 0.37 bit less per parameter"
    )
    storage: Literal["uint8", "bfloat16", "float32"] = Field(
        default="uint8",
        title="Storage",
        description="Number format whose bytes hold the 4-bit weights: uint8, or the model's own",
    )

    @model_validator(mode="after")
    def _stores_something(self) -> Self:
        if self.type == "none" and self.storage != "uint8":
            raise ValueError(f"storage ({self.storage}) is of 4-bit weights, but type is none: leave it out")
        return self


class Lora(Strict):
    """The adapter (LoRA, arXiv:2106.09685)."""

    r: int = Field(default=16, ge=1, le=512, title="Rank", description="Rank of the adapter's matrices")
    alpha: int = Field(default=32, ge=1, title="Alpha", description="The adapter's output is scaled by alpha / rank")
    dropout: float = Field(
        default=0.05, ge=0, lt=1, title="Dropout", description="On the adapter's input, in training only"
    )
    rslora: bool = Field(
        default=False, title="rsLoRA", description="Scale by alpha / sqrt(rank) instead (arXiv:2312.03732)"
    )
    dora: bool = Field(
        default=False,
        title="DoRA",
        description="Learn each output's magnitude too (arXiv:2402.09353); vLLM does not serve such adapters",
    )
    target: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        title="Layers",
        description="Every linear layer but the output head, or a list of their names, such as q_proj and v_proj",
    )

    @model_validator(mode="after")
    def _targets_layers(self) -> Self:
        if not self.target:
            raise ValueError("target is an empty list: name layers, or give all-linear")
        if "lm_head" in self.target:
            raise ValueError(f"target holds lm_head ({', '.join(self.target)}): the output head is never adapted")
        return self


class Data(Strict):
    """How rows become tokens."""

    max_length_tokens: int = Field(
        default=2048, ge=8, title="Longest row", description="In tokens; an answer is never cut"
    )
    on_overflow: Literal["refuse", "drop", "truncate_prompt"] = Field(
        default="refuse",
        title="Longer rows",
        description="Refuse the dataset, leave the longer rows out, or cut the beginning of their first question; "
        "what is left out or cut is counted, and a row that is too long even so is refused",
    )
    max_dropped_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Refuse the dataset when more than this share of its rows would be dropped",
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Fraction",
        description="Part of the train rows, the best by the dataset's rank; below 1 the contract must score its rows",
    )
    packing: Literal["none", "bfd"] = Field(
        default="none",
        title="Packing",
        description="bfd: several rows in one sequence that do not see each other, instead of padding "
        "(best fit, the longest first); a step's rows stay the same",
    )


class Train(Strict):
    """The optimisation."""

    epochs: float | None = Field(
        default=None, gt=0, le=1000, title="Epochs", description="Passes over the rows; 1 when steps are empty"
    )
    max_steps: int | None = Field(default=None, ge=1, title="Steps", description="Optimiser steps, instead of epochs")
    global_batch_size: int = Field(
        default=16, ge=1, title="Global batch size", description="Rows per optimiser step over all devices together"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, title="Micro batch size", description="Rows that a device holds at once; empty chooses it"
    )
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, title="Learning rate", description="Highest of the schedule")
    warmup_steps: int = Field(default=0, ge=0, title="Warm-up steps", description="Steps from 0 to the learning rate")
    scheduler: Literal["constant_with_warmup", "linear", "cosine"] = Field(
        default="cosine", title="Schedule", description="Of the learning rate after the warm-up"
    )
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        default="adamw_torch", title="Optimiser", description="AdamW, or one with its state in 8 bits"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are scaled down to this norm")
    seed: int = Field(
        default=7, ge=0, le=2**31, title="Seed", description="Of the adapter's start, the dropout and the order"
    )
    activation_checkpointing: bool | None = Field(
        default=None, description="Recompute activations to save memory; empty: on a GPU yes, on a CPU no"
    )
    group_by_length: bool = Field(
        default=False,
        title="Group by length",
        description="Rows of like length share an optimiser step: less padding, a less random order",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError(f"epochs ({self.epochs:g}) and max_steps ({self.max_steps}) clash: give one of them")
        if self.max_steps is not None and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be fewer than max_steps ({self.max_steps}), "
                "or the learning rate is never reached"
            )
        return self


class Dist(Strict):
    """Processes, and what they share. It changes where a run computes, not what it computes."""

    strategy: Literal["auto", "ddp", "zero1", "zero2", "zero3"] = Field(
        default="auto",
        title="Strategy",
        description="auto: one process, or DDP over several; ZeRO-n shards more the higher n",
    )
    processes: int | None = Field(
        default=None, ge=1, le=64, title="Processes", description="Empty: one for each GPU, or one on a CPU"
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=64,
        title="Nodes",
        description="Machines that train together, each with as many processes; each is started with its NODE_RANK",
    )
    offload: Literal["none", "cpu"] = Field(
        default="none",
        title="Offload",
        description="cpu: the optimiser's state is kept, and its step computed, in main memory; needs ZeRO",
    )

    @property
    def world_size(self) -> int | None:
        """Processes of all nodes; None where their number is left to the machine."""
        return self.processes and self.processes * self.nodes

    @model_validator(mode="after")
    def _can_offload(self) -> Self:
        if self.offload != "none" and not self.strategy.startswith("zero"):
            raise ValueError(
                f"offload ({self.offload}) is a part of ZeRO, but strategy is {self.strategy}: "
                "take zero1, zero2 or zero3, or no offload"
            )
        return self

    threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="CPU threads of each process; empty: OMP_NUM_THREADS, or a share of the cores",
    )


class Checkpoint(Strict):
    """When a run leaves a state from which it can go on."""

    every_steps: int = Field(default=50, ge=1, title="Every steps", description="Steps between two checkpoints")
    keep_last: int = Field(default=2, ge=1, le=100, description="Older ones are deleted once a newer one is complete")
    keep_best: bool = Field(
        default=False,
        title="Keep the best",
        description="The checkpoint with the lowest validation loss is kept, and it is published instead of the last",
    )
