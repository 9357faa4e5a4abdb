"""What happens at each step of the training besides the step: progress, curves, stopping, refusing NaN."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from transformers import TrainerCallback  # noqa: TID253  (only the training processes import this module)

from llmjobs.contracts.errors import Diverged
from llmjobs.training.curves import Curves, duration
from llmjobs.training.live import Live
from llmjobs.training.rates import STEP_ANSWERS, STEP_TOKENS, Rates
from llmjobs.training.state.selection import Selection
from llmjobs.training.stopping import StopSignal, ValidationStopped
from llmjobs.training.tracking import Tracking
from llmjobs.training.utilisation import Utilisation

logger = logging.getLogger(__name__)

_TRACKED = (
    "loss", "learning_rate", "grad_norm", "token_accuracy", "trainable_tokens", "tokens_per_second",
    "tokens_per_second_per_device", "tflops_per_device", "mfu",
)  # fmt: skip
"""What MLflow gets of each step; CPU, memory and GPU are sampled by its own monitor."""


class Progress(TrainerCallback):
    """Writes each step to the log, to ``metrics.jsonl``, to MLflow and to the task's page; on the first process only.

    Args:
        curves: Where the steps go.
        tracking: MLflow, or its absence.
        rates: Of the run.
        live: What the task's page shows.
    """

    def __init__(self, curves: Curves, tracking: Tracking, rates: Rates, live: Live) -> None:
        """Start the clocks with the training, not here."""
        self._curves = curves
        self._tracking = tracking
        self._rates = rates
        self._live = live
        self._begun = self._last = self._step_begun = 0.0
        self._first_step = 0
        self._tokens = 0.0
        self._utilisation = Utilisation()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Start the clocks."""
        self._begun = self._last = self._step_begun = time.monotonic()
        self._utilisation = Utilisation()
        self._first_step = state.global_step
        self._live.phase("training")

    def on_prediction_step(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Say that a validation is going on."""
        self._live.phase("validating")

    def on_evaluate(self, _args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        """A validation is no part of a step."""
        self._step_begun = time.monotonic()
        self._live.phase("saving" if control.should_save else "training")

    def on_save(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """A checkpoint is no part of a step."""
        self._step_begun = time.monotonic()
        self._live.phase("training")

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Take the figures of one step, or of one validation."""
        logs = logs or {}
        if "eval_loss" in logs:
            self._tracking.log(state.global_step, {"validation_loss": logs["eval_loss"]})
            logger.info("step %d validation loss %.4f", state.global_step, logs["eval_loss"])
        if "loss" in logs:
            self._step(state, logs)
            if control.should_save and not control.should_evaluate:
                self._live.phase("saving")

    def _step(self, state: Any, logs: dict[str, Any]) -> None:
        now = time.monotonic()
        line = {
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", 0.0),
            "token_accuracy": logs.get("mean_token_accuracy", 0.0),
            "tokens": logs[STEP_TOKENS],
            "trainable_tokens": logs[STEP_ANSWERS],
            "seconds": now - self._last,
            "step_seconds": now - self._step_begun,
            **self._rates.of_step(logs, now - self._step_begun),
            **self._utilisation.read(),
        }
        self._tokens += logs[STEP_TOKENS]
        self._last = self._step_begun = now
        rate = self._tokens / max(now - self._begun, 1e-9)
        line["tokens_per_second"] = rate
        self._curves.add(line)
        self._tracking.log(state.global_step, {name: line[name] for name in _TRACKED if name in line})
        seconds = (now - self._begun) / (state.global_step - self._first_step) * (state.max_steps - state.global_step)
        left = duration(seconds)
        self._live.step(state.global_step, state.max_steps, loss=logs["loss"], tokens_per_second=rate, left=left)
        logger.info(
            "step %d/%d loss %.4g tokens/s %.0f left %s", state.global_step, state.max_steps, logs["loss"], rate, left
        )


class RefuseNaN(TrainerCallback):
    """Ends the run at the first loss or gradient that is no number; on every process alike.

    The trainer logs before it saves, so no checkpoint holds such weights.
    """

    def on_log(self, args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Look at the figures of one step.

        Raises:
            Diverged: One of them is NaN or infinite.
        """
        for key in ("loss", "grad_norm"):
            value = (logs or {}).get(key)
            if value is not None and not math.isfinite(value):
                raise Diverged(
                    f"{key} is {value} at step {state.global_step} of {state.max_steps}: lower train.learning_rate "
                    f"(now {args.learning_rate:g}) or raise train.warmup_steps (now {args.warmup_steps:g})"
                )


class ChooseBest(TrainerCallback):
    """Saves what the validation loss has found to be the best so far, and ends a run that gets no better.

    Args:
        selection: What is best, and when it is enough.
    """

    def __init__(self, selection: Selection) -> None:
        """Remember the rule."""
        self._selection = selection

    def on_evaluate(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Have the best saved."""
        if self._selection.best_step(state.log_history) == state.global_step:
            control.should_save = True
        self._end(state, control)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """End a run whose last validation was made up for after a resume."""
        self._end(state, control)

    def _end(self, state: Any, control: Any) -> None:
        if self._selection.exhausted(state.log_history):
            control.should_save = control.should_training_stop = True


class StopAtStep(TrainerCallback):
    """Turns a signal on any one process into a checkpoint and an end on all of them, after the same step.

    Args:
        signal: This process' signal.
    """

    def __init__(self, signal: StopSignal) -> None:
        """Remember the signal."""
        self._signal = signal

    def on_step_end(self, args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        """Agree with the other processes, then ask the trainer to save and stop."""
        if self._agreed(args.device):
            self._signal.requested = control.should_save = control.should_training_stop = True

    def on_prediction_step(self, args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Break off a validation, which a resumed run makes up for; not the last step's, for no step comes after it.

        Raises:
            ValidationStopped: On every process, before the same batch.
        """
        if state.global_step < state.max_steps and self._agreed(args.device):
            self._signal.requested = True
            raise ValidationStopped

    def on_save(self, args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        """A signal that came while the checkpoint was written needs no further step."""
        if self._agreed(args.device):
            self._signal.requested = control.should_training_stop = True

    def _agreed(self, device: Any) -> bool:
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            return self._signal.requested
        flag = torch.tensor(float(self._signal.requested), device=device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())
