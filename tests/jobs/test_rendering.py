"""The text of a row and the assistant's share in it, under four families of templates; tool calls included."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.errors import BadConfig
from llmjobs.rendering import IGNORED, CannotRender, ChatRenderer, ChatRow

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<bos>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip

# Qwen2.5's way, shortened: tools in the system turn, each call as JSON between tags that are ordinary tokens.
CHATML = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>{% else %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "<|end_header_id|>\n\n{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('This model only supports single tool-calls at once!') }}"
    '{% endif %}{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Insists on ids of nine characters, as Mistral's own does, and has no generation prompt.
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] {% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{ call | tojson }}{% endfor %}</s>"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.tool_call_id }} {{ m.content }}[/TOOL_RESULTS]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
FAMILIES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA}
ENDS = {"chatml": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>", "gemma": "<end_of_turn>"}

TOOLS = json.dumps([{"name": "weather", "description": "Of a city", "parameters": {"city": {"type": "string"}}}])
CALL_SHOWN = '{"name": "weather", "arguments": {"city": "Köln"}}'
CALL = json.dumps([{"name": "weather", "arguments": {"city": "Köln"}}])


def turn(role: str, content: str = "", tool_calls: str | None = None) -> dict[str, str | None]:
    return {"role": role, "content": content, "tool_calls": tool_calls}


TALK = (turn("user", "Who?"), turn("assistant", "Ada."), turn("user", "Ada. Who else?"), turn("assistant", "Ada only."))
CALLING = (
    turn("user", "Weather in Köln?"), turn("assistant", "", CALL), turn("tool", '{"sky": "grey"}'),
    turn("assistant", "It is grey."),
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes, and every family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", extra_special_tokens=list(SPECIAL[1:]), name_or_path="tiny"
    )


def row(*messages: dict[str, str | None], tools: str | None = None) -> ChatRow:
    return ChatRow("r1", messages, "calls.jsonl line 3", tools)


def learnt(renderer: ChatRenderer, one: ChatRow) -> list[str]:
    """Return each unbroken run of labels as text."""
    encoded = renderer.encode([renderer.text(one)])[0]
    labels = renderer.labels(one, encoded, renderer.spans(one, encoded.text))
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [renderer.tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_ends_are_learnt(family: str, tokenizer: Any) -> None:
    renderer, end = ChatRenderer(tokenizer, template=FAMILIES[family]), ENDS[family]
    space = " " if family == "mistral" else ""
    assert learnt(renderer, row(*TALK)) == [f"{space}Ada.{end}", f"{space}Ada only.{end}"]


GOLDEN = {
    "chatml": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>',
        "It is grey.<|im_end|>",
    ),
    "llama": ('{"name": "weather", "parameters": {"city": "Köln"}}<|eot_id|>', "It is grey.<|eot_id|>"),
    "mistral": (
        f'[TOOL_CALLS] {{"type": "function", "function": {CALL_SHOWN}, "id": "call00001"}}</s>',
        " It is grey.</s>",
    ),
}


@pytest.mark.parametrize("family", GOLDEN)
def test_a_turn_that_only_calls_tools_is_learnt(family: str, tokenizer: Any) -> None:
    assert learnt(ChatRenderer(tokenizer, template=FAMILIES[family]), row(*CALLING)) == list(GOLDEN[family])


def test_words_before_a_call_are_learnt_with_it(tokenizer: Any) -> None:
    one = row(turn("user", "Weather?"), turn("assistant", "I look.", CALL))
    assert learnt(ChatRenderer(tokenizer, template=CHATML), one) == [
        'I look.<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>'
    ]


def test_a_call_and_its_answer_share_an_id(tokenizer: Any) -> None:
    text = ChatRenderer(tokenizer, template=MISTRAL).text(row(*CALLING, *CALLING))
    assert [text.count(f"call0000{n}") for n in (1, 2, 3)] == [2, 2, 0]


def test_tools_reach_the_template(tokenizer: Any) -> None:
    wrapped = json.dumps([{"type": "function", "function": json.loads(TOOLS)[0]}])
    renderer = ChatRenderer(tokenizer, template=CHATML)
    text = renderer.text(row(*TALK, tools=TOOLS))
    assert '{"type": "function", "function": {"name": "weather"' in text
    assert text == renderer.text(row(*TALK, tools=wrapped))
    assert "weather" not in ChatRenderer(tokenizer, template=GEMMA).text(row(*TALK, tools=TOOLS))


IGNORES_CALLS = (
    "{% for m in messages %}{% if m.tool_calls %}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "one", "says"),
    [
        (GEMMA, row(*CALLING), "calls.jsonl line 3: it calls tools, which the chat template of tiny cannot show"),
        (GEMMA, row(turn("system", "s"), *TALK), "template of tiny cannot show it: System role not supported"),
        (LLAMA, row(turn("user", "q"), turn("assistant", "", f"{CALL[:-1]},{CALL[1:]}")), "single tool-calls at once"),
        (IGNORES_CALLS, row(*CALLING), "turn 2: the chat template of tiny does not render the assistant's words"),
        (CHATML, row(turn("user", "q"), turn("assistant", "", "{")), "turn 2: its tool calls are not a JSON list"),
        (CHATML, row(*TALK, tools="{"), "its tools are no valid JSON"),
        (CHATML, row(*TALK, tools="[1]"), "its tools are not a list of objects"),
        (CHATML, row(TALK[0]), "no assistant turn"),
        (CHATML, row(TALK[1]), "an assistant speaks before anybody else"),
    ],
)
def test_what_a_template_cannot_show_is_named(template: str, one: ChatRow, says: str, tokenizer: Any) -> None:
    with pytest.raises(CannotRender, match=says):
        learnt(ChatRenderer(tokenizer, template=template), one)


def test_a_tokenizer_without_a_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(BadConfig, match="tiny: no chat template"):
        ChatRenderer(tokenizer)


def test_a_closing_text_need_not_be_a_token(tokenizer: Any) -> None:
    template = CHATML.replace("<|im_end|>", "<end>")
    renderer = ChatRenderer(tokenizer, template=template, closing="<end>")
    assert learnt(renderer, row(*TALK)) == ["Ada.<end>", "Ada only.<end>"]
    assert learnt(renderer, row(*CALLING))[0].endswith("</tool_call><end>")
    with pytest.raises(CannotRender, match="no end-of-turn token right after"):
        learnt(ChatRenderer(tokenizer, template=template, closing="<stop>"), row(*TALK))


def test_old_rows_know_neither_tools_nor_calls(tokenizer: Any) -> None:
    old = ChatRow("r1", [{"role": one["role"], "content": one["content"]} for one in TALK])
    for template in FAMILIES.values():
        renderer = ChatRenderer(tokenizer, template=template)
        assert renderer.text(old) == renderer.text(row(*TALK))
        assert learnt(renderer, old) == learnt(renderer, row(*TALK))


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1), min_size=2))
def test_every_label_lies_in_a_span_and_every_answer_is_in_one(tokenizer: Any, words: list[str]) -> None:
    words = [f"a{word}b" for word in words][: len(words) // 2 * 2]
    one = row(*(turn("assistant" if n % 2 else "user", word) for n, word in enumerate(words)))
    renderer = ChatRenderer(tokenizer, template=CHATML)
    text = renderer.text(one)
    spans = renderer.spans(one, text)
    assert [text[start:end] for start, end in spans] == words[1::2]
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    assert learnt(renderer, one) == [f"{word}<|im_end|>" for word in words[1::2]]
