"""TRL's SFTTrainer, fed with rows that are tokens already, saving through our checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch  # noqa: TID253  (only the training processes import this module)
from transformers import Trainer, TrainerCallback  # noqa: TID253
from trl import SFTConfig, SFTTrainer  # noqa: TID253

from llmjobs.contracts.training import TrainConfig
from llmjobs.rendering import IGNORED
from llmjobs.training.base_model import adapter_config
from llmjobs.training.batches import answer_columns
from llmjobs.training.checkpoints import CheckpointStore
from llmjobs.training.sharding import Layout, deepspeed_settings
from llmjobs.training.tokenisation import TokenRow, TrainingRows


def training_arguments(config: TrainConfig, layout: Layout, scratch: Path) -> Any:
    """Return TRL's arguments. What its own defaults would change behind our back is set here in so many words.

    Args:
        config: The recipe.
        layout: Processes and devices.
        scratch: Folder for what the trainer wants to write besides checkpoints.
    """
    train, bf16 = config.train, config.model.dtype == "bfloat16"
    recompute = layout.on_gpu if train.activation_checkpointing is None else train.activation_checkpointing
    return SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=layout.batching.micro_batch_size,
        gradient_accumulation_steps=layout.batching.accumulation,
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
        activation_checkpointing=recompute,
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


class AdapterTrainer(SFTTrainer):
    """SFTTrainer whose checkpoints are published whole.

    Args:
        store: Where checkpoints go.
        keep_last: How many of them stay.
        options: As `SFTTrainer`.
    """

    def __init__(self, *, store: CheckpointStore, keep_last: int, **options: Any) -> None:
        """Build the trainer; the adapter's weights are drawn here, from the configured seed."""
        super().__init__(**options)
        self._store = store
        self._keep_last = keep_last
        self._saving = False

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
        targets, columns = answer_columns(inputs["labels"])
        narrow = {**inputs, "labels": targets, "shift_labels": targets, "logits_to_keep": columns, "use_cache": False}
        loss, outputs = Trainer.compute_loss(
            self, model, narrow, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._count(inputs, targets, outputs.logits)
        return loss

    def _count(self, inputs: dict[str, Any], targets: Any, logits: Any) -> None:
        """Keep what TRL's own loss would keep for the log: tokens so far, and how many answers were the likeliest."""
        answers = targets != IGNORED
        right = (logits.detach().argmax(-1) == targets) & answers
        counts = torch.stack([right.sum(), answers.sum(), inputs["attention_mask"].sum()])
        correct, total, tokens = self.accelerator.gather(counts[None]).sum(0).tolist()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(correct / max(total, 1))
        if mode == "train":
            self._total_train_tokens += tokens
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._store.saving) if self._saving else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save on all processes, then publish on the first."""
        first = self.is_world_process_zero()
        if first:
            self._store.clear_saving()
        self.accelerator.wait_for_everyone()
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if first:
            self._publish()
        self.accelerator.wait_for_everyone()

    def _publish(self) -> None:
        step = self.state.global_step
        written = self._store.saving / f"checkpoint-{step}"
        # The trainer pickles its arguments; nothing of ours reads them and nobody should have to trust them.
        (written / "training_args.bin").unlink(missing_ok=True)
        self._store.publish(written, step=step, total_steps=self.state.max_steps)
        self._store.keep(self._keep_last)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: ours is made once, from the manifest."""


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

    trainer = AdapterTrainer(
        store=store,
        keep_last=config.checkpoint.keep_last,
        model=base,
        args=arguments,
        processing_class=rows.tokenizer,
        train_dataset=_dataset(rows.train.rows),
        eval_dataset=_dataset(rows.validation) if rows.validation else None,
        peft_config=adapter_config(config.lora),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    _keep_full_precision(trainer, layout)
    return trainer


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
