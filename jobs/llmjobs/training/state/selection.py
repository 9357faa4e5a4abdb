"""Which step of a run is its best by the validation loss, and when it falls no more. Pure.

The history is the trainer's own, which every checkpoint holds: a resumed run decides as an uninterrupted one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.training import EarlyStopping, TrainConfig


@dataclass(frozen=True)
class Selection:
    """How a run chooses its checkpoint.

    Attributes:
        wanted: Whether the best checkpoint is published, not the last.
        early_stopping: When the run ends before its last step; None: never.
    """

    wanted: bool
    early_stopping: EarlyStopping | None

    @classmethod
    def of(cls, config: TrainConfig) -> Selection:
        """Return what the config asks for."""
        return cls(config.publishes_best, config.evaluate.early_stopping)

    def best_step(self, history: list[dict[str, Any]]) -> int | None:
        """Return the step with the lowest validation loss, the first of equals; None where nothing is chosen.

        Args:
            history: What the trainer logged; validations have an ``eval_loss`` and a ``step``.
        """
        losses = _losses(history)
        return min(losses, key=lambda step: losses[step]) if self.wanted and losses else None

    def exhausted(self, history: list[dict[str, Any]]) -> bool:
        """Return whether so many validations in a row, as `early_stopping` allows, were no better than before."""
        if self.early_stopping is None:
            return False
        best, waited = float("inf"), 0
        for loss in _losses(history).values():
            better = loss < best - self.early_stopping.min_delta
            best, waited = (loss, 0) if better else (best, waited + 1)
        return waited >= self.early_stopping.patience


def _losses(history: list[dict[str, Any]]) -> dict[int, float]:
    return {line["step"]: line["eval_loss"] for line in history if "eval_loss" in line}
