"""What a model says on held-out rows, and whether an export says the same as the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.contracts.exporting import Export, Format
from llmjobs.rendering import IGNORED
from llmjobs.training.data.batches import padded
from llmjobs.training.data.tokenisation import TokenRow

TOLERANCE_NATS = {"bfloat16": 0.01, "float16": 0.01, "bf16": 0.01, "f16": 0.01, "q8_0": 0.02}
RELATIVE_TOLERANCE = 0.01
"""The loss may differ from that of the adapter on the same base, not merged, by the greater of both. Merging rounds
each sum to 16 bits, and q8_0 each number to 1/127 of the largest of 32: 0.002 nats and less on the small model."""

LEAST_AGREEMENT = 0.9
"""Of the likeliest tokens. Files with a layer's rows in another order say something else, but on answers that neither
model knows they may be as surprised on average: such a pair had losses 0.5% apart and 3% of the tokens in common."""


@dataclass(frozen=True)
class Said:
    """What a model said of some rows' answers.

    Attributes:
        nats: Sum of the negative log-likelihoods of the answers' tokens.
        likeliest: The likeliest token at each of them, in the order of the rows.
    """

    nats: float
    likeliest: list[int]

    @property
    def loss(self) -> float:
        """Mean per answer token, in nats."""
        return self.nats / len(self.likeliest)

    def agreement(self, other: Said) -> float:
        """Return the share of tokens where both have the same likeliest one."""
        return sum(a == b for a, b in zip(self.likeliest, other.likeliest, strict=True)) / len(self.likeliest)


def ask(model: Any, rows: list[TokenRow]) -> Said:
    """Return what `model` says of the rows' answers, one row at a time, so that no padding differs.

    Args:
        model: A causal language model, or one with an adapter.
        rows: Tokenised rows.
    """
    import torch

    from llmjobs.training.measuring.scoring import answer_logits, same_precision_as_training

    model.eval()
    device, nats, likeliest = str(model.device), 0.0, list[int]()
    for row in rows:
        with torch.inference_mode(), same_precision_as_training(model, device):
            logits, targets = answer_logits(model, padded([row], pad_token_id=0, device=device))
        nats += float(torch.nn.functional.cross_entropy(logits[0], targets[0], ignore_index=IGNORED, reduction="sum"))
        likeliest += logits[0].argmax(-1).tolist()
    return Said(nats, likeliest)


def refuse_other(form: Format, export: Export, *, files: Said, unmerged: Said, adapter: Said) -> None:
    """Refuse files that are not the adapter on its base, or that are worse than the config allows.

    Args:
        form: Which form the files are.
        export: The settings.
        files: What they say, loaded back.
        unmerged: What the adapter on the 16-bit base says of the same rows.
        adapter: What the adapter on the base as trained says.

    Raises:
        JobError: The files do not hold what was merged.
        BadConfig: They do, and are worse than `export.max_loss_increase` allows.
    """
    kind = export.number_type(form)
    allowed = max(TOLERANCE_NATS[kind], RELATIVE_TOLERANCE * abs(unmerged.loss))
    apart, agreement = abs(files.loss - unmerged.loss), files.agreement(unmerged)
    said = f"export {form} ({kind}): loss {files.loss:.4f} on the held-out rows"
    if not (apart <= allowed and agreement >= LEAST_AGREEMENT):  # also where the loss is no number
        raise JobError(
            f"{said}, the adapter on the same base, not merged, has {unmerged.loss:.4f}; {apart:.4f} apart, allowed "
            f"are {allowed:.4f}; {agreement:.1%} of the likeliest tokens are the same, at least {LEAST_AGREEMENT:.0%} "
            "must be. The files are not that model; nothing is published"
        )
    worse = files.loss - adapter.loss
    if worse > export.max_loss_increase:
        by_base = unmerged.loss - adapter.loss
        other = ", or take another export.gguf_type" if kind == "q8_0" else ""
        raise BadConfig(
            f"{said}, the adapter on the base as trained has {adapter.loss:.4f}; {worse:.4f} worse, "
            f"{by_base:.4f} of it for the 16-bit base alone; export.max_loss_increase allows "
            f"{export.max_loss_increase:g}. Nothing is published; raise it{other}"
        )
