"""TRL's SFTTrainer, fed with rows that are tokens already, saving through our checkpoints."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  (only the training processes import this module)
from torch.utils.data import DataLoader  # noqa: TID253
from transformers import Trainer, TrainerCallback  # noqa: TID253
from trl import SFTConfig  # noqa: TID253

from llmjobs.contracts.training import TrainConfig
from llmjobs.rendering import IGNORED
from llmjobs.training.base_model import NOT_SERVED, adapter_config
from llmjobs.training.data.batches import Step, StepBatches, StepSampler, answer_columns
from llmjobs.training.data.ordering import Ordering
from llmjobs.training.data.packing import Cutter
from llmjobs.training.data.tokenisation import TokenRow, TrainingRows
from llmjobs.training.probe import LongestBatchFirst
from llmjobs.training.publication.witness import witness_of
from llmjobs.training.rates import STEP_ANSWERS, STEP_SQUARES, STEP_TOKENS
from llmjobs.training.sharding import Layout, deepspeed_settings, recomputes
from llmjobs.training.state.checkpoints import CheckpointStore
from llmjobs.training.state.resumable import ResumableTrainer
from llmjobs.training.state.selection import Selection

logger = logging.getLogger(__name__)


def training_arguments(config: TrainConfig, layout: Layout, scratch: Path) -> Any:
    """Return TRL's arguments. What its own defaults would change behind our back is set here in so many words.

    Args:
        config: The recipe.
        layout: Processes and devices.
        scratch: Folder for what the trainer wants to write besides checkpoints.
    """
    train, bf16 = config.train, config.model.dtype == "bfloat16"
    return SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=layout.batching.micro_batch_size,
        # To the trainer a step is one batch: it is cut and accumulated in `AdapterTrainer.training_step`.
        gradient_accumulation_steps=1,
        max_steps=train.max_steps or -1,
        num_train_epochs=train.epochs or 1,
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup_steps,
        lr_scheduler_type=train.scheduler,
        optim=train.optimizer,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        seed=train.seed,
        data_seed=train.seed,
        bf16=bf16,
        fp16=False,
        use_cpu=not layout.on_gpu,
        activation_checkpointing=recomputes(config, layout),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint.every_steps,
        eval_strategy="steps" if config.evaluate.validate_every_steps else "no",
        eval_steps=config.evaluate.validate_every_steps or None,
        per_device_eval_batch_size=config.evaluate.micro_batch_size,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=layout.on_gpu,
        ddp_backend="gloo" if layout.distributed and not layout.on_gpu else None,
        ddp_find_unused_parameters=False,
        deepspeed=deepspeed_settings(layout, bf16=bf16),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
    )


class AdapterTrainer(ResumableTrainer):
    """SFTTrainer whose steps are ours, in order and cut, and whose checkpoints are published whole.

    Args:
        rows: The train rows.
        ordering: Their order.
        cutter: How each step is cut.
        options: As `ResumableTrainer`.

    Attributes:
        batches: Makes the tensors of a step; its cutter may be replaced between two steps.
        notes: What the run had to do otherwise than configured.
    """

    _total_train_tokens: int

    def __init__(
        self,
        *,
        rows: list[TokenRow],
        ordering: Ordering,
        cutter: Cutter,
        **options: Any,
    ) -> None:
        """Build the trainer; the adapter's weights are drawn here, from the configured seed."""
        # TRL looks at the names of the first row's columns; the rows themselves come from `get_train_dataloader`.
        super().__init__(train_dataset=_dataset(rows[:1]), **options)
        self.rows = rows
        self.ordering = ordering
        self.notes: list[str] = []
        tokenizer = self.processing_class
        filler = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.batches = StepBatches(cutter, process=self.args.process_index, pad_token_id=filler)

    @property
    def zero_stage(self) -> int:
        """Stage of ZeRO; 0 without DeepSpeed."""
        return int(self.accelerator.state.deepspeed_plugin.zero_stage) if self.is_deepspeed_enabled else 0

    def note(self, sentence: str) -> None:
        """Tell the first process' log and, through `notes`, the result."""
        if self.is_world_process_zero():
            logger.warning("%s", sentence)
        self.notes.append(sentence)

    def get_train_dataloader(self) -> Any:
        """Return the steps of an epoch; accelerate neither shuffles nor shares them out, for they are shared already.

        The generator is its own, so that beginning an epoch draws nothing from torch's.
        """
        return DataLoader(
            self.rows,
            batch_sampler=StepSampler(self.ordering),
            collate_fn=self.batches,
            generator=torch.Generator(),
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Add up the gradients of one optimiser step; return its loss.

        Args:
            model: The wrapped model.
            inputs: A `Step`.
            num_items_in_batch: Answer tokens of the whole step, over all processes.
        """
        micro_batches, tokens_before = inputs.micro_batches, self._total_train_tokens
        self.current_gradient_accumulation_steps = len(micro_batches)
        if self.is_deepspeed_enabled:
            # With offload ZeRO looks here whether there is a sum in the CPU's memory (0.19.8, stage_1_and_2.py).
            self.deepspeed.optimizer.gradient_accumulation_steps = len(micro_batches)
        losses = []
        for place, batch in enumerate(micro_batches, start=1):
            last = place == len(micro_batches)
            self.accelerator.gradient_state._set_sync_gradients(last)  # noqa: SLF001 (as transformers' Trainer does)
            with nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model=model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
        self._total_train_tokens = tokens_before + inputs.tokens
        done = {"num_tokens": self._total_train_tokens, STEP_TOKENS: inputs.tokens, STEP_ANSWERS: inputs.answers}
        for name, value in {**done, STEP_SQUARES: inputs.squares}.items():
            self._metrics["train"][name] = [value]
        return torch.stack(losses).sum()

    def _get_num_items_in_batch(self, batch_samples: list[Step], device: Any) -> Any:
        """Return the answer tokens of the whole step, which every process knows without asking the others."""
        return torch.tensor(sum(step.answers for step in batch_samples), device=device)

    def floating_point_ops(self, inputs: Any) -> int:
        """Count none: the trainer's own estimate knows neither frozen weights nor packs."""
        del inputs
        return 0

    def trial(self, batch: dict[str, Any]) -> None:
        """Compute a micro batch forward and backward and throw the gradients away; no other process is asked.

        Gradients are returned instead of kept, so that neither DDP nor ZeRO hears of them.

        Raises:
            torch.OutOfMemoryError: It does not fit.
        """
        self.model.train()
        inputs = {**self._prepare_inputs(batch), "use_cache": False}
        with self.compute_loss_context_manager(), self.maybe_activation_offload_context:
            loss = self._unreduced(inputs)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)

    def _unreduced(self, inputs: dict[str, Any]) -> Any:
        if inputs["input_ids"].device.type != "cpu":
            return -self.model(**inputs, fused_lm_head=True).log_probs.sum()
        return self.model(**_narrowed(inputs)).loss

    def logits(self, batch: dict[str, Any]) -> Any:
        """Return the logits of a batch, without dropout and gradients: ``(sequences, tokens, vocabulary)``."""
        self.model.eval()
        inputs = {key: value for key, value in self._prepare_inputs(batch).items() if key != "labels"}
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.model(**inputs, use_cache=False).logits

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one micro batch, normalised over the global batch's answer tokens.

        On a GPU this is TRL's fused head. On a CPU its tiles are eager tensor operations that cost as much as
        the rest of the step (TRL 1.16, kernels/chunked_logprob.py), so there the model's own loss is taken, over the
        columns of the batch that hold an answer. Both are the same number (tests/jobs/training).
        """
        if return_outputs or inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        narrow = _narrowed(inputs)
        loss, outputs = Trainer.compute_loss(
            self, model, narrow, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._count(narrow["labels"], outputs.logits)
        return loss

    def _count(self, targets: Any, logits: Any) -> None:
        """Keep what TRL's own loss would keep for the log: how many answers were the likeliest."""
        answers = targets != IGNORED
        right = (logits.detach().argmax(-1) == targets) & answers
        counts = torch.stack([right.sum(), answers.sum()])
        correct, total = self.accelerator.gather(counts[None]).sum(0).tolist()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(correct / max(total, 1))
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def build_trainer(
    config: TrainConfig,
    layout: Layout,
    *,
    rows: TrainingRows,
    arguments: Any,
    base: Any,
    store: CheckpointStore,
    callbacks: list[TrainerCallback],
) -> AdapterTrainer:
    """Return the trainer of one run with a fresh adapter on `base`."""
    from transformers import PrinterCallback

    first = LongestBatchFirst()
    trainer = AdapterTrainer(
        store=store,
        keep_last=config.checkpoint.keep_last,
        selection=Selection.of(config),
        witness=witness_of(rows),
        rows=rows.train.rows,
        ordering=ordering_of(config, rows.train.rows),
        cutter=cutter_of(config, layout),
        model=base,
        args=arguments,
        processing_class=rows.tokenizer,
        eval_dataset=_dataset(rows.validation) if rows.validation else None,
        peft_config=adapter_config(config.lora, base),
        # The clock of the progress starts after the trial.
        callbacks=[first, *callbacks],
    )
    first.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    if config.lora.dora:
        trainer.note(NOT_SERVED)
    _keep_full_precision(trainer, layout)
    return trainer


def ordering_of(config: TrainConfig, rows: list[TokenRow]) -> Ordering:
    """Return the order in which a run takes its train rows."""
    return Ordering(
        [len(row.input_ids) for row in rows],
        seed=config.train.seed,
        global_batch_size=config.train.global_batch_size,
        grouped=config.train.group_by_length,
    )


def cutter_of(config: TrainConfig, layout: Layout) -> Cutter:
    """Return how a run cuts its steps."""
    return Cutter(
        layout.batching.processes,
        layout.batching.micro_batch_size,
        capacity_tokens=config.data.max_length_tokens if config.data.packing == "bfd" else 0,
        flat=config.model.attention == "flash_attention_2",
    )


def _narrowed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as the model's own loss takes it, the head computing only the columns that hold an answer."""
    targets, columns = answer_columns(inputs["labels"])
    return {**inputs, "labels": targets, "shift_labels": targets, "logits_to_keep": columns, "use_cache": False}


def _keep_full_precision(trainer: AdapterTrainer, layout: Layout) -> None:
    """Train the adapter in float32.

    TRL casts it to bfloat16 on a quantised base (1.16, sft_trainer.py); with 8 bits of mantissa an update of
    2e-4 on a weight of 0.1 is rounded away. The matrices still multiply in bfloat16 (autocast). DeepSpeed in bfloat16
    keeps float32 masters of its own and wants one type for all.
    """
    if layout.zero_stage and trainer.args.bf16:
        return
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def _dataset(rows: list[TokenRow]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
