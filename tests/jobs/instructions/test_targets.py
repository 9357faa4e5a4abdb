"""Rendered text and token counts: those of the template itself, whatever the row, and every row is accounted for."""

from __future__ import annotations

import json
import logging
from copy import copy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.errors import BadData
from llmjobs.contracts.instructions import PrepareConfig, Target
from llmjobs.instructions.rendered.frame_rendering import FrameRenderer, _looked_for
from llmjobs.instructions.rendered.targets import KIND, publish_targets, rendered_version, write_target
from llmjobs.instructions.rendered.tokens import token_counter, token_counts
from llmjobs.instructions.tables import MESSAGE
from llmjobs.lake import Lake
from llmjobs.rendering import CannotRender, ChatRenderer, ChatRow
from llmjobs.training.data.tokenisation import tokenise

PLAIN = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = PLAIN.replace("m.content +", "(m.content | trim) +")
# Qwen3's way: an answer's own thoughts vanish, and the last answer gets an empty block of them.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set said = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in said %}{% set said = said.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ said + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No fixed text at all: it depends on the length of what is said.
COUNTING = PLAIN.replace("m.role + '\n'", "m.role + (m.content | length | string) + '\n'")
HALF_TRIMMED = PLAIN.replace("+ m.content +", "+ m.content.lstrip('\n') +")
TOOLING = PLAIN.replace("m.content +", "m.content + (m.tool_calls | string if m.tool_calls else '') +")
TEMPLATES = {
    "plain": PLAIN, "trimmed": TRIMMED, "thinking": THINKING, "counting": COUNTING, "half": HALF_TRIMMED,
    "tooling": TOOLING,
}  # fmt: skip

CALL = '[{"name":"add","arguments":{"a":1}}]'


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Bytes, the special tokens of ChatML, and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>", extra_special_tokens=["<|im_start|>", "<|im_end|>"], name_or_path="tiny"
    )
    made.chat_template = PLAIN
    return made


@pytest.fixture(scope="session")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model's folder as far as its tokenizer goes."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def turn(role: str, content: str | None, tool_calls: str | None = None) -> dict[str, str | None]:
    return {"role": role, "content": content, "tool_calls": tool_calls}


def asked(question: str, answer: str) -> list[dict[str, str | None]]:
    return [turn("user", question), turn("assistant", answer)]


def frame(rows: list[Any], **columns: Any) -> pl.DataFrame:
    made = pl.DataFrame({"messages": rows}, schema={"messages": pl.List(MESSAGE)})
    ids = pl.Series("row_id", [f"r{n}" for n in range(len(rows))], dtype=pl.String)
    empty = pl.Series("tools", [None] * len(rows), dtype=pl.String)
    return made.with_columns(ids, empty).with_columns(
        pl.Series(name, of, dtype=pl.String) for name, of in columns.items()
    )


def by_template(renderer: ChatRenderer, rows: pl.DataFrame) -> list[tuple[str | None, list[tuple[int, int]] | None]]:
    """Return the text and spans of each row, each rendered by the template."""
    found: list[tuple[str | None, list[tuple[int, int]] | None]] = []
    for row_id, messages, tools in rows.select("row_id", "messages", "tools").iter_rows():
        row = ChatRow(row_id, messages, "", tools)
        try:
            text = renderer.text(row)
            found.append((text, renderer.spans(row, text)))
        except CannotRender:
            found.append((None, None))
    return found


def by_frame(renderer: ChatRenderer, rows: pl.DataFrame) -> list[tuple[str | None, list[tuple[int, int]] | None]]:
    rendered = FrameRenderer(renderer).rendered(rows, spans=True)
    spans = [None if of is None else [(one["start"], one["end"]) for one in of] for of in rendered["spans"].to_list()]
    return list(zip(rendered["text"], spans, strict=True))


def chat_rows(rows: pl.DataFrame) -> list[ChatRow]:
    return [ChatRow(row_id, messages) for row_id, messages in rows.select("row_id", "messages").iter_rows()]


MANY = [asked(f"Number {n}?", f"It is {n}.") for n in range(40)]
ODD = [
    asked("  led by blanks\n", "\n ends in them \t"), asked("x", "<think>\nhm\n</think>\n\nyes"), asked("q", ""),
    asked("q", " \n"), asked("\x1cq", "a\x1f"), [turn("user", "q"), turn("assistant", "", CALL)],
    asked("\n\nq", "\n\na"),
    [turn("system", "Be kind."), *asked("q", "a")], [*asked("q", "a"), *asked("ä😀", "中")], [turn("user", "q")],
    asked("{{ q }} {% raw %}", "<|im_end|>"),
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_frame_is_what_the_template_makes_of_each_row(template: str, tokenizer: Any) -> None:
    renderer = ChatRenderer(tokenizer, template=TEMPLATES[template])
    rows = frame([*MANY, *ODD, *MANY, *(turns for turns in ODD for _ in range(20))])
    assert by_frame(renderer, rows) == by_template(renderer, rows)


@pytest.mark.parametrize("template", ["trimmed", "thinking"])
def test_real_rows_are_what_the_template_makes_of_them(template: str, tokenizer: Any, real: Any) -> None:
    loaded = json.loads(real("alpaca_en_demo.json").read_text(encoding="utf-8"))
    rows = frame([asked(f"{row['instruction']}\n\n{row['input']}", row["output"]) for row in loaded])
    renderer = ChatRenderer(tokenizer, template=TEMPLATES[template])
    assert by_frame(renderer, rows) == by_template(renderer, rows)


TEXTS = st.text(st.one_of(st.sampled_from(" \n\t<>/\x1cthink"), st.characters(codec="utf-8")))


@settings(max_examples=40, deadline=None)
@given(
    template=st.sampled_from(sorted(TEMPLATES)),
    words=st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=6),
)
def test_no_text_makes_a_difference(tokenizer: Any, template: str, words: list[list[str]]) -> None:
    renderer = ChatRenderer(tokenizer, template=TEMPLATES[template])
    rows = frame([*MANY[:17], *(asked(*pair) for pair in words)])
    rendered = FrameRenderer(renderer).rendered(rows)["text"].to_list()
    assert rendered == [renderer.text(ChatRow("r", messages)) for messages in rows["messages"].to_list()]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (
            "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}",
            ["</think>"],
        ),
        ("{% if m.content.startswith(\"it's\") and 'a\\'b' not in x %}", ["a'b", "it's"]),
        ("{{ m.content | replace('a', 'b') }}", ["a", "b"]),
        ("{% if m.role in ('user', 'tool') %}{{ messages | selectattr('role') | join(', ') }}{% endif %}", []),
        ("{{ '<|im_start|>' + m['role'] + '\n' }}{{ raise_exception('no') }}", []),
    ],
)
def test_what_a_template_looks_for_is_seen(source: str, texts: list[str]) -> None:
    assert _looked_for(source) == texts


def test_most_rows_do_not_reach_the_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[ChatRow] = []
    honest = ChatRenderer.text

    def counted(self: ChatRenderer, row: ChatRow) -> str:
        calls.append(row)
        return honest(self, row)

    monkeypatch.setattr(ChatRenderer, "text", counted)
    frames = FrameRenderer(ChatRenderer(tokenizer))
    frames.rendered(frame(MANY * 50))
    frames.rendered(frame(MANY * 50))
    assert len(calls) < 50


def test_counts_are_those_of_training(tokenizer: Any, model: str) -> None:
    rows = frame([*MANY, *ODD, None])
    counted = token_counter(model)(rows)
    renderer = ChatRenderer(tokenizer)
    texts = FrameRenderer(renderer).rendered(rows)["text"].to_list()
    assert counted.dtype == pl.Int64
    assert counted.name == "tokens"
    assert counted.to_list() == [None if text is None else len(renderer.encode([text])[0].ids) for text in texts]
    assert [n for n, text in enumerate(texts) if text is None] == [45, 51], "the tool call and the row without messages"
    assert token_counts(pl.Series([], dtype=pl.String), tokenizer).to_list() == []


def test_rows_of_early_versions_are_counted_too(model: str) -> None:
    early = pl.DataFrame({"messages": [[{"role": one["role"], "content": one["content"]} for one in MANY[0]]] * 20})
    count = token_counter(model)
    assert count(early).to_list() == count(frame([MANY[0]] * 20)).to_list()


# --- targets

ALPACA_PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\nSum up.\n\n### Input:\nA long text.\n\n"
    "### Response:"
)
ALPACA_ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nNumber 3?\n\n### Response:"
)


def written(folder: Path, name: str = "t.train") -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def target(template: str, model: str = "tiny") -> Target:
    return Target.model_validate({"name": "t", "template": template, "model": model})


def test_alpaca_has_its_two_prompts(tmp_path: Path, tokenizer: Any) -> None:
    rows = [MANY[3], asked("Sum up.\n\nA long text.", "Short."), asked("Two\n\nparts", "No input.")]
    frames = [frame(rows, input=["", "A long text.", None])]
    found = write_target(frames, target("alpaca"), tmp_path, "train", tokenizer=tokenizer)
    texts = written(tmp_path)["text"].to_list()
    assert texts[0] == f"{ALPACA_ALONE}It is 3.</s>"
    assert texts[1] == f"{ALPACA_PAIRED}Short.</s>"
    assert "### Instruction:\nTwo\n\nparts\n\n### Response:No input.</s>" in texts[2]
    learnt = [len(answer) + 1 for answer in ("It is 3.", "Short.", "No input.")]
    assert written(tmp_path)["trainable_tokens"].to_list() == learnt
    assert (found.rows, found.not_rendered) == (3, 0)


def test_alpaca_cannot_say_everything_and_says_so(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*MANY, [turn("system", "s"), *MANY[0]], [*MANY[0], *MANY[1]], ODD[5]]
    found = write_target([frame(rows), frame(rows)], target("alpaca"), tmp_path, "test", tokenizer=tokenizer)
    assert (found.rows, found.not_rendered) == (80, 6)
    assert found.reasons == {
        "Alpaca's text cannot show it: it has a system turn": 2,
        "Alpaca's text cannot show it: it has several questions": 2,
        "it calls tools, which Alpaca's text cannot show": 2,
    }
    missing = written(tmp_path, "t.test.not_rendered")
    assert missing["row_id"].to_list() == ["r40", "r41", "r42"] * 2
    assert written(tmp_path, "t.test").height == 80


def test_chatml_is_fixed_text_whatever_the_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    write_target([frame(ODD[7:9])], target("chatml"), tmp_path, "train", tokenizer=tokenizer)
    pair = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    assert written(tmp_path)["text"].to_list() == [
        "<|im_start|>system\nBe kind.<|im_end|>\n" + pair.format("q", "a"),
        pair.format("q", "a") + pair.format("ä😀", "中"),
    ]


@pytest.mark.parametrize("template", ["model", "chatml", "alpaca"])
def test_spans_and_tokens_are_the_answers(template: str, tmp_path: Path, tokenizer: Any) -> None:
    found = write_target([frame(MANY[:30]), frame(MANY[30:])], target(template), tmp_path, "train", tokenizer=tokenizer)
    table = written(tmp_path)
    for text, spans, (_, answer) in zip(table["text"], table["assistant_spans"].to_list(), MANY, strict=True):
        assert [text[one["start"] : one["end"]] for one in spans] == [answer["content"]]
    assert table["trainable_tokens"].to_list() == [len(str(answer["content"])) + 1 for _, answer in MANY]
    counts = table["tokens"].to_list()
    assert counts == token_counts(table["text"], tokenizer).to_list()
    assert (found.tokens, found.tokens_max, found.rows) == (sum(counts), max(counts), 40)
    assert found.tokens_p50 in counts
    assert found.tokens_p50 <= found.tokens_p95 <= found.tokens_max


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_published_is_what_training_takes(template: str, tmp_path: Path, tokenizer: Any) -> None:
    rows = frame([*MANY, *ODD])
    trained = copy(tokenizer)
    trained.chat_template = TEMPLATES[template]
    write_target([rows], target("model"), tmp_path, "train", tokenizer=trained)
    table = written(tmp_path)
    good = rows.filter(pl.col("row_id").is_in(table["row_id"].to_list()))
    taken = tokenise(chat_rows(good), trained, max_length_tokens=10_000).rows
    assert (len(taken) >= 40) is (template != "counting"), "whose answers do not stand where they are generated"
    assert table.select("row_id", "tokens", "trainable_tokens").rows() == [
        (row.row_id, len(row.input_ids), row.trainable) for row in taken
    ]
    for refused in chat_rows(rows.join(good, on="row_id", how="anti")):
        with pytest.raises(BadData):
            tokenise([refused], trained, max_length_tokens=10_000)


def test_tools_that_a_form_does_not_show_are_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = frame(MANY, tools=['[{"name": "add"}]'] * 3 + [None] * 37)
    found = write_target([rows], target("chatml"), tmp_path, "train", tokenizer=tokenizer)
    assert (found.rows, found.tools_left_out) == (40, 3)


def test_a_side_without_rows_is_an_empty_file(tmp_path: Path, tokenizer: Any) -> None:
    found = write_target([], target("model"), tmp_path, "test", tokenizer=tokenizer)
    assert (found.rows, found.tokens_p50, found.tokens_max) == (0, 0, 0)
    assert written(tmp_path, "t.test").columns == ["row_id", "text", "tokens", "trainable_tokens", "assistant_spans"]


# --- versions


@pytest.fixture
def published(lake: Lake, tmp_path: Path, model: str) -> PrepareConfig:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for side, rows in {"train": MANY[:30], "validation": MANY[30:35], "test": MANY[35:]}.items():
        frame(rows).write_parquet(folder / f"{side}.parquet")
    lake.publish(folder, kind="datasets", name="rows", version="v1")
    values = {
        "name": "rows", "source": "x", "contract": {"owner": "tests"},
        "targets": [{"name": "own", "model": model}, {"name": "alpaca", "template": "alpaca", "model": model}],
    }  # fmt: skip
    return PrepareConfig.from_mapping(values, origin="test")


def test_each_target_is_published_once(
    lake: Lake, published: PrepareConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        first = publish_targets(lake, published, "v1")
    assert "target own, train: 30 rows" in caplog.text
    assert [first[name][side]["rows"] for name in ("own", "alpaca") for side in ("train", "validation", "test")] == [
        30, 5, 5, 30, 5, 5,
    ]  # fmt: skip
    for name, found in first.items():
        manifest = lake.manifest(KIND, "rows", found["version"])
        assert manifest is not None
        assert manifest.inputs["dataset_version"] == "v1"
        sides = ("test", "train", "validation")
        assert [file.path for file in manifest.files] == [f"{name}.{side}.parquet" for side in sides]
    monkeypatch.setattr("llmjobs.instructions.rendered.targets.write_target", None)
    assert publish_targets(lake, published, "v1") == first


def test_the_version_follows_rows_form_and_tokenizer() -> None:
    base = rendered_version("v1", target("model"), "f1")
    assert rendered_version("v1", target("model", "/elsewhere"), "f1") == base, "the same tokenizer lies elsewhere"
    others = [
        rendered_version("v2", target("model"), "f1"), rendered_version("v1", target("alpaca"), "f1"),
        rendered_version("v1", target("model"), "f2"), rendered_version("v1", target("model"), "f1", schema=2),
    ]  # fmt: skip
    assert len({base, *others}) == 5
