"""An adapter in other forms: the files say what the adapter says, or nothing is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.contracts.exporting import Export, ExportedForm, ExportResult
from llmjobs.contracts.training import TrainConfig
from llmjobs.lake import Lake
from llmjobs.training import export, plan
from llmjobs.training.exporting import gguf_file, making
from llmjobs.training.exporting.checking import Said, refuse_other
from llmjobs.training.exporting.versions import EXPORTS, all_there
from llmjobs.training.identity import ADAPTERS, CHAMPION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft 0.21.2
]

BOTH = Export(formats=("safetensors", "gguf"))


@pytest.fixture(scope="module")
def sharp_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with attention that looks at single tokens, so that the order of its rows matters."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("sharp") / "model")
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        tensors[name] *= 8 if "_proj" in name else 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, offline: Any) -> Iterator[Path]:
    with offline(tmp_path_factory.mktemp("export"), train=range(100, 120), test=range(118, 130)) as folder:
        yield folder


@pytest.fixture(scope="module")
def config(world: Path, sharp_model: Path, recipe: Any) -> TrainConfig:
    made: TrainConfig = recipe(
        sharp_model, quantisation={"type": "none"}, export={"formats": ["safetensors", "gguf"], "rows": 6}
    )
    return made


@pytest.fixture(scope="module")
def version(world: Path, config: TrainConfig, sharp_model: Path, random_adapter: Any) -> str:
    made: str = random_adapter(Lake.from_environment(), config, sharp_model, world / "adapter", strength=0.1)
    return made


@pytest.fixture(scope="module")
def result(config: TrainConfig, version: str) -> ExportResult:
    return export.run(config)


def folder_of(one: ExportedForm) -> Path:
    return Path(one.url.removeprefix("file://"))


def test_each_form_says_what_the_adapter_says(result: ExportResult, version: str) -> None:
    assert (result.adapter_version, [one.format for one in result.exports]) == (version, ["safetensors", "gguf"])
    for one in result.exports:
        assert one.rows == 6
        assert one.loss_adapter == one.loss_unmerged, "an unquantised base in the same format is the same model"
        assert one.loss == pytest.approx(one.loss_unmerged, abs=0.01)
        assert 0.9 < one.top1_agreement <= 1
        manifest = Lake.from_environment().manifest(EXPORTS, "tickets", one.version)
        assert manifest is not None
        assert manifest.inputs["adapter_version"] == version
        assert manifest.metrics["loss"] == one.loss
        assert one.bytes == sum(entry.bytes for entry in manifest.files if entry.path != "README.md")
        assert one.sentence in (folder_of(one) / "README.md").read_text(encoding="utf-8")


def test_the_merged_model_is_whole(result: ExportResult, config: TrainConfig) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = AutoModelForCausalLM.from_pretrained(folder_of(result.exports[0]))
    base = AutoModelForCausalLM.from_pretrained(config.model.name, dtype=torch.float32)
    ids = torch.arange(10, 50)[None]
    plain = base(ids).logits
    adapter = Path(Lake.from_environment().version_url(ADAPTERS, "tickets", result.adapter_version)[len("file://") :])
    exact = PeftModel.from_pretrained(base, adapter)(ids).logits
    assert merged.dtype == torch.bfloat16
    assert merged.config.use_cache
    off = (merged.float()(ids).logits - exact).abs().max()
    assert off < 0.05 * (plain - exact).abs().max(), "rounding to 16 bits is small beside what the adapter does"
    tokenizer = AutoTokenizer.from_pretrained(folder_of(result.exports[0]))
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(adapter).chat_template
    assert tokenizer("run 7 is wrong").input_ids == AutoTokenizer.from_pretrained(adapter)("run 7 is wrong").input_ids


def test_a_gguf_file_gives_back_every_number(result: ExportResult) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(folder_of(result.exports[0]), dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(
        folder_of(result.exports[1]), gguf_file=gguf_file.GGUF_FILE, dtype=torch.float32
    )
    back, known = read.state_dict(), merged.state_dict()
    assert back.keys() == known.keys()
    for name, tensor in known.items():
        assert torch.equal(back[name], tensor.to(torch.float16).float() if tensor.ndim > 1 else tensor), name
    same = ("head_dim", "rope_parameters", "num_key_value_heads", "intermediate_size", "vocab_size", "rms_norm_eps")
    for field in same:
        assert getattr(read.config, field) == pytest.approx(getattr(merged.config, field)), field


def test_a_gguf_file_holds_the_tokenizer(result: ExportResult, tokenizer: Any) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(folder_of(result.exports[1]) / gguf_file.GGUF_FILE)
    told = {name: field.contents() for name, field in reader.fields.items()}
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert told["tokenizer.ggml.tokens"] == words
    assert told["tokenizer.ggml.token_type"][:7] == [3] * 6 + [1]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert told["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == ("gpt2", "smollm")
    assert told["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert told["tokenizer.ggml.add_bos_token"] is False
    assert told["tokenizer.chat_template"] == tokenizer.chat_template
    assert told["llama.attention.head_count_kv"] == 2
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.0.attn_norm.weight"]) == ("F16", "F32")
    assert "output.weight" not in kinds, "the head is the embedding"


def test_rows_of_a_head_become_neighbours() -> None:
    import numpy as np

    rows = np.arange(8)[:, None]  # two heads of four rows
    assert gguf_file.interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_is_there_is_not_made_again(
    result: ExportResult, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "make", lambda *_: pytest.fail("made again"))
    again = export.run(config)
    assert "nothing to export: safetensors (bfloat16) there already" in again.sentence
    assert again.exports == [one.model_copy(update={"reused": True}) for one in result.exports]


@pytest.mark.parametrize("gguf_type", ["q8_0", "bf16"])
def test_by_hand_in_another_type(
    gguf_type: str, result: ExportResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "configure_logging", lambda: None)
    assert export.by_hand([f"tickets@{result.adapter_version}", "--format", "gguf", "--gguf-type", gguf_type]) == 0
    url, told = capsys.readouterr().out.splitlines()
    assert f"gguf ({gguf_type}) exported" in told
    size, f16 = (Path(url.removeprefix("file://")) / gguf_file.GGUF_FILE).stat().st_size, result.exports[1].bytes
    assert size < 0.7 * f16 if gguf_type == "q8_0" else size == f16


def other(config: TrainConfig, **settings: Any) -> TrainConfig:
    """Return the config with other exports, which are not there yet."""
    return config.model_copy(update={"export": config.export.model_copy(update=settings)})


def test_wrong_files_are_refused_and_nothing_is_published(
    result: ExportResult, config: TrainConfig, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "interleaved", lambda values, _: values)
    fewer = other(config, rows=5)
    with pytest.raises(
        JobError, match=r"export gguf \(f16\): loss [\d.]+ on .*%.*of the likeliest tokens .*; nothing is published"
    ):
        export.run(fewer)
    assert not any(
        Lake.from_environment().manifest(EXPORTS, "tickets", fewer.export.version(version, form))
        for form in fewer.export.formats
    )


def test_a_crash_publishes_nothing_and_the_next_run_does_it_all(
    result: ExportResult, config: TrainConfig, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    four, lake = other(config, rows=4), Lake.from_environment()

    def broken(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(making, "_loaded", broken)
        with pytest.raises(OSError, match="no space left"):
            export.run(four)
    assert len(lake.versions(EXPORTS, "tickets")) == len([one for one in lake.find("exports/*/versions/*/*.json")
                                                          if one.endswith("manifest.json")])  # fmt: skip
    assert not all_there(lake, "tickets", version, four.export)
    assert [one.reused for one in export.run(four).exports] == [False, False]
    assert all_there(lake, "tickets", version, four.export)


def said(loss: float, likeliest: tuple[int, ...] = (1,) * 10) -> Said:
    return Said(loss * len(likeliest), list(likeliest))


def test_a_worse_export_than_allowed_is_refused() -> None:
    settings = Export(formats=("gguf",), gguf_type="q8_0", max_loss_increase=0.05)
    refuse_other("gguf", settings, files=said(1.04), unmerged=said(1.03), adapter=said(1.0))
    allowed = r"0.0600 worse, 0.0500 of it for the 16-bit base alone; export.max_loss_increase allows 0.05\..*another"
    with pytest.raises(BadConfig, match=allowed):
        refuse_other("gguf", settings, files=said(1.06), unmerged=said(1.05), adapter=said(1.0))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (said(float("nan")), "nan apart, allowed are 0.0200"),
        (said(0.97), "0.0300 apart, allowed are 0.0200"),
        (said(1.0, (1,) * 8 + (2,) * 2), "80.0% of the likeliest tokens are the same, at least 90% must be"),
    ],
)
def test_files_that_are_another_model_are_refused(files: Said, told: str) -> None:
    with pytest.raises(JobError, match=told):
        refuse_other("gguf", Export(gguf_type="q8_0"), files=files, unmerged=said(1.0), adapter=said(1.0))


def test_a_gpu_that_is_too_small_for_16_bits_is_left_alone(sharp_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    size = (sharp_model / "model.safetensors").stat().st_size
    monkeypatch.setattr(making, "visible_gpus", lambda: 1)
    for free, device in ((size, "cpu"), (2 * size, "cuda:0")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10 * size))
        assert making.device_in_16_bits(str(sharp_model)) == device
    monkeypatch.setattr(making, "visible_gpus", lambda: 0)
    assert making.device_in_16_bits(str(sharp_model)) == "cpu"


STRETCHED = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def llama(**fields: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**fields)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_family_comes_back_as_it_was(family: str, tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=family != "llama",
        **({"head_dim": 128} if family == "qwen3" else {}),
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # what matters must be seen: attention that looks somewhere, biases and norms that are none
        for name, tensor in model.named_parameters():
            tensor.mul_(8 if "_proj" in name else 1).add_(torch.randn_like(tensor) * ("norm" in name or "bias" in name))
            tensor.copy_(tensor.half().float())
    gguf_file.write_gguf(model, tiny_model, tmp_path / gguf_file.GGUF_FILE, gguf_type="f16", name=family)
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf_file.GGUF_FILE, dtype=torch.float32).eval()
    assert type(back) is type(model)
    ids = torch.arange(10, 50)[None]
    assert torch.equal(back(ids).logits, model(ids).logits)


def test_a_llama_3_1_tells_how_its_positions_are_stretched(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    import math

    from gguf import GGUFReader
    from transformers import LlamaForCausalLM

    config = llama(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, rope_parameters=STRETCHED,
    )  # fmt: skip
    path = tmp_path / gguf_file.GGUF_FILE
    gguf_file.write_gguf(LlamaForCausalLM(config), tiny_model, path, gguf_type="f16", name="long")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    divisors = tensors["rope_freqs.weight"].tolist()
    assert len(divisors) == 32
    # As llama.cpp's converter reckons it, from the wavelengths.
    for place, found in enumerate(divisors):
        length = 2 * math.pi * 500_000 ** (2 * place / 64)
        smooth = (8192 / length - 1) / (4 - 1)
        between = 1 / ((1 - smooth) / 8 + smooth)
        assert found == pytest.approx(1 if length < 8192 / 4 else 8 if length > 8192 else between, rel=1e-5), place
    assert {1.0, 8.0} <= {round(one, 3) for one in divisors}


def test_what_gguf_cannot_hold_is_refused_before_anything_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen3Config, SmolLM3Config

    for config in (llama(), Qwen2Config(), Qwen3Config(), llama(rope_parameters=STRETCHED)):
        gguf_file.refuse_unsupported(config, tiny_model)
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    refused = {
        "a model of type smollm3": SmolLM3Config(),
        "biases": llama(attention_bias=True),
        "sliding windows": Qwen2Config(use_sliding_window=True),
        "rotary positions scaled as linear in a llama": llama(rope_parameters=scaled),
        "rotary positions scaled as llama3 in a qwen3": Qwen3Config(rope_parameters=STRETCHED),
    }
    for what, config in refused.items():
        with pytest.raises(BadConfig, match=f"gguf cannot hold {what}; supported are models of type llama"):
            gguf_file.refuse_unsupported(config, tiny_model)
    with pytest.raises(BadConfig, match="a tokenizer of type None cut by None"):
        gguf_file.refuse_unsupported(llama(), tmp_path)


def test_the_cut_before_the_merges_has_llama_cpps_name() -> None:
    bytes_, digits = (
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        {"type": "Digits", "individual_digits": True},
    )
    split = {"type": "Split", "pattern": {"Regex": gguf_file._LLAMA_3}}
    # As in the tokenizer.json of Qwen 2 and 3: digits one by one.
    one_by_one = gguf_file._LLAMA_3.replace("{1,3}", "")
    qwen = {"type": "Split", "pattern": {"Regex": one_by_one}}
    cuts = {
        "gpt-2": bytes_,
        "smollm": {"pretokenizers": [digits, bytes_]},
        "llama-bpe": {"pretokenizers": [split, {**bytes_, "use_regex": False}]},
        "qwen2": {"pretokenizers": [qwen, {**bytes_, "use_regex": False}]},
    }
    bpe = {"model": {"type": "BPE"}, "normalizer": None}
    for name, cut in cuts.items():
        assert gguf_file.pre_tokenizer({**bpe, "pre_tokenizer": cut}) == name
    composed = {**bpe, "normalizer": {"type": "NFC"}}
    assert gguf_file.pre_tokenizer({**composed, "pre_tokenizer": cuts["qwen2"]}) == "qwen2"
    wrong: list[dict[str, Any]] = [
        {**composed, "pre_tokenizer": cuts["llama-bpe"]},
        {**bpe, "pre_tokenizer": {"pretokenizers": [{**split, "pattern": {"Regex": "x"}}, bytes_]}},
        {**bpe, "pre_tokenizer": {**bytes_, "add_prefix_space": True}},
        {**bpe, "pre_tokenizer": bytes_, "normalizer": {"type": "NFC"}},
        {"model": {"type": "Unigram"}, "pre_tokenizer": bytes_},
    ]
    for one in wrong:
        with pytest.raises(BadConfig, match="gguf cannot hold a tokenizer"):
            gguf_file.pre_tokenizer(one)


def test_a_champion_without_its_exports_is_work_for_the_night(result: ExportResult, config: TrainConfig) -> None:
    lake = Lake.from_environment()
    lake.move_pointer(ADAPTERS, "tickets", CHAMPION, result.adapter_version, reason="test")
    assert not plan.run(config).needed
    more = plan.run(other(config, gguf_type="bf16"))
    assert more.needed
    assert more.sentence.endswith("it is the champion; to be exported")


def test_settings_belong_to_the_export_and_not_to_the_adapter(recipe: Any, tiny_model: Path) -> None:
    plain, exported = recipe(tiny_model), recipe(tiny_model, export={"formats": ["gguf"]})
    assert plain.recipe() == exported.recipe()
    settings = BOTH.model_copy(update={"gguf_type": "q8_0"})
    assert BOTH.version("v1", "safetensors") == settings.version("v1", "safetensors"), "it has no GGUF type"
    assert len({BOTH.version("v1", "gguf"), settings.version("v1", "gguf"), BOTH.version("v2", "gguf")}) == 3
    assert BOTH.version("v1", "gguf") == Export(formats=("gguf",)).version("v1", "gguf")
    with pytest.raises(BadConfig, match=r"export\.formats names a format twice: gguf, gguf"):
        recipe(tiny_model, export={"formats": ["gguf", "gguf"]})


def test_without_adapter_or_form_there_is_nothing_to_export(world: Path, config: TrainConfig) -> None:
    lake = Lake.from_environment()
    with pytest.raises(BadConfig, match=r"export\.formats names no form"):
        export.export_adapter(lake, "tickets", "", Export())
    with pytest.raises(BadData, match="there is no version absent"):
        export.export_adapter(lake, "tickets", "absent", BOTH)
