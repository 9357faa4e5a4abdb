"""The embedding model that compares a question with its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from llmjobs.models import resolve_model

Embed = Callable[[list[str]], npt.NDArray[np.float32]]
"""Texts to unit vectors, (texts, dimensions)."""

BATCH_TEXTS = 16
MOST_TOKENS = 128
"""Of a text: what it is about stands in its first sentences, and twice as many take twice the time."""


def embedder(name: str) -> Embed:
    """Return the model as a function; its files are found now, its weights are loaded with the first text.

    It computes in float32 also where a processor has bfloat16, which would be faster there: the vectors decide which
    rows a budget takes, and a dataset must not depend on the machine on which it was prepared.

    Args:
        name: Hub id or folder of a sentence-transformers model.

    Raises:
        BadConfig: There is no such model.
        JobError: The model is not on this machine and the hub did not answer.
    """
    path = resolve_model(name).path
    loaded: list[Any] = []

    def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        if not loaded:
            loaded.append(_load(path))
        # The library sorts by length itself. A text that comes twice is computed once.
        distinct = {text: position for position, text in enumerate(dict.fromkeys(texts))}
        vectors: npt.NDArray[np.float32] = loaded[0].encode(
            list(distinct), batch_size=BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors[[distinct[text] for text in texts]]

    return embed


def _load(path: str) -> Any:
    """Load the weights; importing sentence-transformers alone takes about 20 CPU seconds."""
    import torch
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"torch_dtype": torch.float32}
    model = SentenceTransformer(path, device="cpu", trust_remote_code=False, model_kwargs=options)
    model.max_seq_length = min(model.max_seq_length or MOST_TOKENS, MOST_TOKENS)
    return model
