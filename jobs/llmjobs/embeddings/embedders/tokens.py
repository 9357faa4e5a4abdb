"""How many tokens a model makes of a text, counted without loading it."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from llmjobs.contracts.errors import BadConfig
from llmjobs.models import PACKAGED, resolve_model

SPECIAL_TOKENS = 3
"""Most that a provider's model puts around a text: begin, end, and the space that SentencePiece sets before it."""


class Tokens(Protocol):
    """Counts tokens; part of what decides where chunks end."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal counts."""
        ...

    def count(self, texts: list[str]) -> list[int]:
        """Return the tokens of each text as the model sees it, special tokens included; nothing is cut off."""
        ...


class TokenizerTokens:
    """Counts with the model's own tokenizer.

    Args:
        tokenizer: Without truncation and padding, see `load_tokenizer`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer."""
        self.tokenizer = tokenizer

    @property
    def fingerprint(self) -> str:
        """See `Tokens`: a digest of the tokenizer."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]

    def count(self, texts: list[str]) -> list[int]:
        """See `Tokens`."""
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(texts)]


class ByteTokens:
    """Counts UTF-8 bytes: a token stands for at least one byte, so this is never too few."""

    fingerprint = "utf-8 bytes"

    def count(self, texts: list[str]) -> list[int]:
        """See `Tokens`."""
        return [_most_bytes(text) + SPECIAL_TOKENS for text in texts]


def _most_bytes(text: str) -> int:
    """Return the bytes of `text`, or of its NFKC form where that is longer (a ligature is several letters there)."""
    if text.isascii():
        return len(text)
    return max(len(text.encode()), len(unicodedata.normalize("NFKC", text).encode()))


def load_tokenizer(path: str) -> Tokenizer:
    """Read a ``tokenizer.json``, with its truncation and padding off: lengths must be true ones."""
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokens_of(name: str) -> Tokens:
    """Return the counter for `embedder.tokenizer`: a path, a hub id, or empty for bytes.

    Raises:
        BadConfig: There is no such tokenizer.
    """
    return TokenizerTokens(load_tokenizer(str(_tokenizer_file(name)))) if name else ByteTokens()


def _tokenizer_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        path /= "tokenizer.json"
    if path.is_file():
        return path
    if name in PACKAGED:
        return Path(resolve_model(name).path) / "tokenizer.json"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:
        raise BadConfig(
            f"embedder.tokenizer {name}: no tokenizer.json was found ({type(error).__name__}): name a file, a model's "
            "folder or a hub id, or leave it empty to count bytes"
        ) from None
