"""A Llama or a Qwen as one GGUF file, written with the `gguf` package in the layout of llama.cpp's own converter.

A job reads the file back with transformers, which undoes the same order of rows that llama.cpp takes. By hand,
llama.cpp itself (xllamacpp 2026.10) cut texts, rendered chats and answered greedily as the merged model in each type.
Random models of each family, one with stretched positions, said the same 24 tokens there as here.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmjobs.contracts.errors import BadConfig, JobError
from llmjobs.rendering import load_tokenizer

GGUF_FILE = "model.gguf"

_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # noqa: E501

_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")

FAMILIES = ("llama", "qwen2", "qwen3")
"""``model_type`` of transformers; llama.cpp calls them the same."""

_ROPE = {"llama": {"default", "llama3"}}

_SUPPORTED = (
    "supported are models of type llama (SmolLM, SmolLM2, Llama 3 to 3.3), qwen2 and qwen3, with a byte-level BPE "
    "tokenizer cut as in GPT-2, SmolLM, Llama 3 or Qwen 2"
)


def refuse_unsupported(config: Any, tokenizer_folder: Path) -> None:
    """Refuse a model that cannot be written, before anything is loaded.

    Args:
        config: The base's config, as transformers reads it.
        tokenizer_folder: Holds ``tokenizer.json``.

    Raises:
        BadConfig: With what is missing, and what is supported.
    """
    family, rope = config.model_type, rope_type(config)
    wrong = {
        f"a model of type {family}": family not in FAMILIES,
        # Those of Qwen 2 are no setting: its queries, keys and values always have them.
        "biases": getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False),
        "sliding windows": getattr(config, "use_sliding_window", False),
        f"rotary positions scaled as {rope} in a {family}": rope not in _ROPE.get(family, {"default"}),
    }
    found = next((what for what, is_so in wrong.items() if is_so), "")
    if found:
        raise BadConfig(f"export.formats: gguf cannot hold {found}; {_SUPPORTED}. Leave gguf out")
    pre_tokenizer(_tokenizer_json(tokenizer_folder))


def rope_type(config: Any) -> str:
    """Return how a model stretches its rotary positions; ``default`` is not at all."""
    return str((config.to_dict().get("rope_parameters") or {}).get("rope_type", "default"))


def _tokenizer_json(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """Return llama.cpp's name of the way in which a tokenizer cuts text before it merges.

    Args:
        tokenizer: The content of ``tokenizer.json``.

    Raises:
        BadConfig: It is another one: llama.cpp would cut otherwise, and nothing would say so.
    """
    model, cut = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", [cut])
    kinds = [step.get("type") for step in steps]
    plain = kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space", True)
    normalised = (tokenizer.get("normalizer") or {}).get("type")
    by_regex = steps[-1].get("use_regex", True)
    if model.get("type") == "BPE" and plain and kinds == ["Split", "ByteLevel"] and not by_regex:
        pattern = steps[0]["pattern"].get("Regex")
        if pattern == _LLAMA_3 and not normalised:
            return "llama-bpe"
        # llama.cpp composes no characters either way; neither does its own converter mind.
        if pattern == _QWEN_2 and normalised in {None, "NFC"}:
            return "qwen2"
    if model.get("type") == "BPE" and plain and not normalised:
        if kinds == ["ByteLevel"] and by_regex:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and by_regex and steps[0].get("individual_digits"):
            return "smollm"
    told = " and ".join(str(kind) for kind in kinds)
    raise BadConfig(
        f"export.formats: gguf cannot hold a tokenizer of type {model.get('type')} cut by {told}; {_SUPPORTED}. "
        "Leave gguf out"
    )


def write_gguf(model: Any, tokenizer_folder: Path, path: Path, *, gguf_type: str, name: str) -> None:
    """Write a merged model; one matrix at a time is copied.

    Args:
        model: One that `refuse_unsupported` lets through.
        tokenizer_folder: Of the tokenizer to put in.
        path: The file.
        gguf_type: ``f16``, ``bf16`` or ``q8_0``.
        name: For people.

    Raises:
        JobError: A tensor has no place in a GGUF file.
        BadConfig: A number is too large for ``f16``.
    """
    from gguf import GGUFWriter

    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells of scratch files
    writer = GGUFWriter(path, model.config.model_type)
    _add_settings(writer, model.config, gguf_type, name)
    _add_tokenizer(writer, tokenizer_folder, model.config.vocab_size)
    tensors = list(_tensors(model, gguf_type))
    for gguf_name, tensor, kind in tensors:
        writer.add_tensor_info(gguf_name, *_stored(tuple(tensor.shape), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for gguf_name, tensor, kind in tensors:
        writer.write_tensor_data(_numbers(gguf_name, tensor, kind, model.config))
    writer.close()


def _add_settings(writer: Any, config: Any, gguf_type: str, name: str) -> None:
    import gguf

    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{gguf_type.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head = _head_size(config)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_tokenizer(writer: Any, folder: Path, size: int) -> None:
    """Add words, merges, special tokens and chat template.

    Args:
        writer: Of the file.
        folder: Of the tokenizer.
        size: Rows of the embedding; ids without a word are padding, as in llama.cpp's converter.
    """
    from gguf import TokenType

    tokenizer, content = load_tokenizer(str(folder)), _tokenizer_json(folder)
    added = {one["id"]: one["special"] for one in content["added_tokens"]}
    words = {id_: word for word, id_ in tokenizer.get_vocab().items()}
    kinds = [TokenType.NORMAL if one in words else TokenType.UNUSED for one in range(size)]
    for id_, special in added.items():
        kinds[id_] = TokenType.CONTROL if special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(content))
    writer.add_token_list([words.get(one, f"[PAD{one}]") for one in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in content["model"]["merges"]])
    for special_name in ("bos", "eos", "unk", "pad"):
        id_ = getattr(tokenizer, f"{special_name}_token_id")
        if id_ is not None:
            getattr(writer, f"add_{special_name}_token_id")(id_)
    writer.add_add_space_prefix(False)
    begun = tokenizer("a").input_ids[0]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begun == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any, gguf_type: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each tensor with its name and number format in the file; a head that is the embedding is left out.

    Norms and biases stay in 32 bits, as llama.cpp leaves them; a row that is not made of whole blocks is ``f16``.
    """
    from gguf import GGML_QUANT_SIZES, MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map

    family = model.config.model_type
    names = get_tensor_name_map(MODEL_ARCH[family.upper()], model.config.num_hidden_layers)
    wanted = GGMLQuantizationType[gguf_type.upper()]
    block, _ = GGML_QUANT_SIZES[wanted]
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise JobError(f"export gguf: the tensor {name} has no place in a GGUF file of the type {family}")
        kind = wanted if tensor.shape[-1] % block == 0 else GGMLQuantizationType.F16
        yield gguf_name, tensor, kind if tensor.ndim > 1 else GGMLQuantizationType.F32
    if rope_type(model.config) == "llama3":
        yield "rope_freqs.weight", rope_divisors(model.config), GGMLQuantizationType.F32


def rope_divisors(config: Any) -> Any:
    """Return by what llama.cpp divides each plain rotary frequency of a Llama 3.1: ``(head size / 2,)``."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = _head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2) / size)
    return plain / scaled


def _stored(shape: tuple[int, ...], kind: Any) -> tuple[tuple[int, ...], Any, int]:
    """Return shape, type and bytes of a tensor as numpy holds it for the writer: blocks are plain bytes."""
    import numpy as np
    from gguf import quant_shape_to_byte_shape

    plain: Any = {"F32": np.dtype("float32"), "F16": np.dtype("float16")}.get(kind.name)
    if plain:
        return shape, plain, math.prod(shape) * plain.itemsize
    blocks = quant_shape_to_byte_shape(shape, kind)
    return blocks, np.dtype("uint8"), math.prod(blocks)


def _numbers(name: str, tensor: Any, kind: Any, config: Any) -> Any:
    import numpy as np
    import torch
    from gguf import quantize

    values = tensor.detach().to("cpu", torch.float32).numpy()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads and config.model_type == "llama":  # llama.cpp turns the others as transformers does
        values = interleaved(values, heads)
    with np.errstate(over="ignore"):
        stored = quantize(np.ascontiguousarray(values), kind)
    if stored.dtype == np.float16 and not np.isfinite(stored).all():
        raise BadConfig(f"export.gguf_type f16 cannot hold {name}: a number is above 65504; take bf16")
    return stored


def interleaved(values: Any, heads: int) -> Any:
    """Return the rows of a query or key matrix in llama.cpp's order.

    transformers turns row ``i`` of a head with row ``i + half``; llama.cpp turns neighbours, so they become neighbours.

    Args:
        values: ``(heads * head size, input)``.
        heads: Of the queries, or of the keys.
    """
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
