"""Sentence models on ONNX Runtime, where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmjobs.contracts.base import digest
from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadConfig
from llmjobs.embeddings.embedders.tokens import load_tokenizer
from llmjobs.embeddings.encoder import PROCESSOR_TOKENS, sorted_batches
from llmjobs.embeddings.model import Purpose, SentenceModel, Usage, Vectors, checked

logger = logging.getLogger(__name__)

ONNX_VERSION = 1
"""Raise it when the code below gives other vectors than before."""

_QUANTISED_AS_IT_RUNS = b"DynamicQuantizeLinear"


class OnnxModel(SentenceModel):
    """A sentence model whose weights are an ONNX file; tokenizer, pooling and lengths come from its folder.

    Raises:
        BadConfig: ONNX Runtime is not installed, there is no such file, or the model needs more than pooling.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        """Find the files."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise BadConfig("embedder.backend is onnx: install onnxruntime, or set the backend to local")
        super().__init__(config)
        if not self.layout.only_pooled:
            raise BadConfig(
                f"embedder {config.name}: it has layers after pooling, which its ONNX file lacks; "
                "set the backend to local"
            )
        self.file = _file(self.path, config)

    @cached_property
    def fingerprint(self) -> str:
        """See `Model`; the file's content is the weights and the precision."""
        return digest(
            {
                "backend": "onnx",
                "weights": _digest(self.file),
                "tokenizer": self.tokens.fingerprint,
                "version": ONNX_VERSION,
                "pooling": self.layout.pooling,
                "max_tokens": self.max_tokens,
                "document_prefix": self.config.document_prefix,
                "dimensions": self.dimensions,
            }
        )

    @cached_property
    def dtype(self) -> str:
        """The file's own, whatever the config says."""
        return "float32"

    def load(self, purpose: Purpose = "document") -> OnnxEncoder:
        """See `Model`."""
        del purpose
        return OnnxEncoder(self)


class OnnxEncoder:
    """One session of ONNX Runtime."""

    def __init__(self, model: OnnxModel) -> None:
        """Load the weights."""
        import onnxruntime  # type: ignore[import-untyped,import-not-found,unused-ignore]

        self._layout = model.layout
        self._dimensions = model.dimensions
        self._session = _session(onnxruntime, model)
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._output = _output(self._session)
        self._tokenizer = load_tokenizer(str(model.path / "tokenizer.json"))
        self._tokenizer.enable_truncation(model.layout.max_tokens)
        self._batch_size = model.config.batch_size or 64
        self._batch_tokens = min(model.config.batch_tokens, PROCESSOR_TOKENS)
        if _QUANTISED_AS_IT_RUNS in model.file.read_bytes():
            # The scale of such a graph's activations is that of the whole batch, so a text's vector would depend on
            # the texts beside it; a cache by content needs the same vector every time.
            self._batch_size = 1
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """See `Encoder`."""
        return self._usage

    def encode(self, texts: list[str]) -> Vectors:
        """See `Encoder`."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        batches = list(sorted_batches([len(one) for one in ids], self._batch_size, self._batch_tokens))
        started = time.perf_counter()
        for batch in batches:
            vectors[batch] = self._forward([ids[position] for position in batch])[:, : self._dimensions]
        seconds = time.perf_counter() - started
        self._usage = self._usage.plus(len(batches), sum(len(one) for one in ids), 0.0, seconds)
        return checked(vectors)

    def _forward(self, ids: list[list[int]]) -> npt.NDArray[np.float32]:
        """Return vectors, (texts, dimensions), of token ids whose first text is the longest."""
        tokens = np.zeros((len(ids), len(ids[0])), dtype=np.int64)
        mask = np.zeros_like(tokens)
        for row, one in enumerate(ids):
            tokens[row, : len(one)], mask[row, : len(one)] = one, 1
        known = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        fed = {name: known[name] for name in self._inputs}
        hidden = np.asarray(self._session.run([self._output], fed)[0], dtype=np.float32)
        if hidden.ndim == 2:
            return hidden
        if self._layout.pooling == "cls":
            return np.asarray(hidden[:, 0])
        shown = mask[..., None].astype(np.float32)
        return np.asarray((hidden * shown).sum(1) / shown.sum(1))


def _session(onnxruntime: Any, model: OnnxModel) -> Any:
    options = onnxruntime.SessionOptions()
    # Its own count would be that of the machine, whatever share of it this process was given.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    there = onnxruntime.get_available_providers()
    if model.config.device == "cuda" and "CUDAExecutionProvider" not in there:
        raise BadConfig(
            "embedder.device is cuda, but this ONNX Runtime has no CUDA: install onnxruntime-gpu, or set cpu"
        )
    wanted = ["CPUExecutionProvider"]
    if model.config.device != "cpu" and "CUDAExecutionProvider" in there:
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        return onnxruntime.InferenceSession(str(model.file), options, providers=wanted)
    except Exception as error:
        raise BadConfig(f"{model.file}: ONNX Runtime cannot load it ({type(error).__name__})") from error


def _output(session: Any) -> str:
    """Return the output that holds vectors: of sentences where there are such, else of tokens."""
    names = [one.name for one in session.get_outputs()]
    return str(next((name for name in ("sentence_embedding", "last_hidden_state") if name in names), names[0]))


def _file(folder: Path, config: EmbedderConfig) -> Path:
    """Return the ONNX file that a config means."""
    if not config.onnx_file:
        found = sorted(folder.rglob("*.onnx"))
        if len(found) != 1:
            names = ", ".join(str(one.relative_to(folder)) for one in found) or "none"
            raise BadConfig(f"embedder.onnx_file: name one of the files in {folder}: {names}; or a path")
        return found[0]
    for path in (folder / config.onnx_file, Path(config.onnx_file).expanduser()):
        if path.is_file():
            return path
    raise BadConfig(f"embedder.onnx_file {config.onnx_file}: no such file, neither in {folder} nor as a path")


def _digest(file: Path) -> str:
    """Return a digest of an ONNX file and of the weights beside it that large models have."""
    total = hashlib.sha256()
    for path in (file, Path(f"{file}_data"), Path(f"{file}.data")):
        if path.is_file():
            with path.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
