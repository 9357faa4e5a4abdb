"""A trainer whose checkpoints are published whole and fit any number of processes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from trl import SFTTrainer  # noqa: TID253  (only the training processes import this module)

from llmjobs.training.data.ordering import Ordering
from llmjobs.training.publication.witness import WITNESS, Witness, loss_on
from llmjobs.training.state import training_state
from llmjobs.training.state.checkpoints import CheckpointStore
from llmjobs.training.state.selection import Selection
from llmjobs.training.stopping import ValidationStopped


class ResumableTrainer(SFTTrainer):
    """SFTTrainer that saves through our checkpoints and goes on from them.

    Args:
        store: Where checkpoints go.
        keep_last: How many of them stay.
        selection: Which of them is published, and when the run ends early.
        witness: The rows whose loss goes into each checkpoint that may be published.
        options: As `SFTTrainer`.

    Attributes:
        ordering: The order of the train rows.
    """

    ordering: Ordering

    def __init__(
        self, *, store: CheckpointStore, keep_last: int, selection: Selection, witness: Witness, **options: Any
    ) -> None:
        """Build the trainer; the adapter's weights are drawn here, from the configured seed."""
        super().__init__(**options)
        self._store = store
        self._keep_last = keep_last
        self._selection = selection
        self._witness = witness
        self._saving = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do but to publish."""
        done = 0 < self.state.max_steps <= self.state.global_step
        return done or self._selection.exhausted(self.state.log_history)

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
        loss = self._witnessed()
        self.accelerator.wait_for_everyone()
        if first:
            self._publish(loss)
        self.accelerator.wait_for_everyone()

    def _witnessed(self) -> float | None:
        """Return the loss that the adapter of this step must reproduce, None where it will not be published."""
        best = self._selection.best_step(self.state.log_history)
        if not self.finished and best != self.state.global_step:
            return None
        return loss_on(self.model, self._witness.rows, str(self.args.device))

    def _publish(self, loss: float | None) -> None:
        step = self.state.global_step
        written = self._store.saving / f"checkpoint-{step}"
        # The trainer pickles its arguments; nothing of ours reads them and nobody should have to trust them.
        (written / "training_args.bin").unlink(missing_ok=True)
        if loss is not None:
            told = self._witness.model_copy(update={"loss": loss})
            (written / WITNESS).write_text(told.model_dump_json(), encoding="utf-8")
        best = self._selection.best_step(self.state.log_history)
        self._store.publish(
            written,
            step=step,
            total_steps=self.state.max_steps,
            finished=self.finished,
            best_step=best,
            cursor=asdict(self.ordering.cursor(step)),
        )
        self._store.keep(self._keep_last, best_step=best)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, unless a signal breaks it off: then the state is saved, and a resumed run begins with it."""
        try:
            return dict(super().evaluate(*args, **kwargs))
        except ValidationStopped:
            # Else the end of an epoch would begin another validation, which draws random numbers, and save after it.
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
            return {}

    def _validation_missing(self) -> bool:
        """Whether the step that a run goes on from should have been validated and was not."""
        step, every = self.state.global_step, int(self.args.eval_steps or 0)
        done = {line["step"] for line in self.state.log_history if "eval_loss" in line}
        return bool(every) and self.eval_dataset is not None and step % every == 0 and step not in done

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        tensors = training_state.gather(self.model, self.optimizer)
        if self.args.should_save:
            save_file(tensors, Path(output_dir) / training_state.OPTIMIZER)

    def _save_rng_state(self, output_dir: str) -> None:
        # The first process makes the folder; under DDP another one may be here before it.
        self.accelerator.wait_for_everyone()
        training_state.save_random(training_state.random_file(Path(output_dir), self.args.process_index))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load nothing: the weights come with the optimiser's state, in float32."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Wrap model and optimiser as ever; put the state of a checkpoint into them our way."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint:
            self.args.eval_on_start = self._validation_missing()
            folder = Path(resume_from_checkpoint)
            training_state.restore(self.model, self.optimizer, load_file(folder / training_state.OPTIMIZER))
            training_state.set_schedule(self.lr_scheduler, self.optimizer, self.state.global_step)
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on with this process' random numbers, or with new ones where there were fewer or more processes."""
        if checkpoint is None:
            return
        folder, process = Path(checkpoint), self.args.process_index
        if len(list(folder.glob("random-*"))) == self.args.world_size:
            training_state.load_random(training_state.random_file(folder, process))
        else:
            training_state.draw_anew(self.args.seed, step=self.state.global_step, process=process)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: ours is made once, from the manifest."""
