"""Operations of a training step from sizes alone. Pure: no torch.

A multiplication and an addition are two operations. Forward through a weight takes 2 for each token; backward to its
input 2 more; to the weight itself another 2, which a frozen base does not take (Kaplan et al., arXiv:2001.08361,
section 2.1, without that term). So QLoRA takes 4 for each base weight and not 6: with 6 its utilisation would be told
half as high again as it is. What is computed a second time to save memory is not counted (PaLM, arXiv:2204.02311,
appendix B).
"""

from __future__ import annotations

from llmjobs.contracts.recipe import Lora
from llmjobs.training.estimating.memory import adapter_parameters
from llmjobs.training.estimating.shapes import ModelShape

_FROZEN, _TRAINED = 4, 6
_CAUSAL = 0.5


def flops_per_token(shape: ModelShape, lora: Lora, *, tokens_per_row: float) -> float:
    """Return the operations of forward and backward pass for one token.

    Args:
        shape: The base.
        lora: The adapter.
        tokens_per_row: Mean length; a token attends to half of its row.
    """
    return step_flops(shape, lora, tokens=1, answers=1, squares=tokens_per_row)


def step_flops(shape: ModelShape, lora: Lora, *, tokens: float, answers: float, squares: float) -> float:
    """Return the operations that an optimiser step cannot do without, over all devices.

    Args:
        shape: The base.
        lora: The adapter.
        tokens: Of the step, padding not counted.
        answers: Tokens with a loss; the others need no logits.
        squares: Sum of the squares of the rows' lengths.
    """
    layers = _FROZEN * shape.linear_parameters + _TRAINED * adapter_parameters(shape, lora)
    head = _FROZEN * shape.vocabulary * shape.hidden
    # Scores and their sum over the values: 2 products forward and 4 backward, each as long as the row.
    attention = 6 * 2 * _CAUSAL * shape.heads * shape.head_dim * shape.layers
    return layers * tokens + head * answers + attention * squares
