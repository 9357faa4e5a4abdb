"""Golden masks: whole conversations as families of models meet them, with «what is learnt» between marks.

The templates are the models' own: TRL carries most of them as files, Mistral's is written out. None of them has
generation marks. Every token is one byte or one special token, so the marks show the mask token by token.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmjobs.rendering import IGNORED, CannotRender, ChatRow
from llmjobs.training.data.tokenisation import audit, tokenise

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""Of Mistral-7B-Instruct-v0.2."""

CLOSED_ONCE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Ends the conversation and not the turn, as templates made by hand do."""

# Family -> template, first token, token that ends a turn.
FAMILIES = {
    "chatml": ("qwen2_5", "<|endoftext|>", "<|im_end|>"),
    "llama3": ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": ("llama3_1", "<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("gemma", "<bos>", "<end_of_turn>"),
    "mistral": (MISTRAL, "<s>", "</s>"),
    "closed once": (CLOSED_ONCE, "<s>", "</s>"),
}
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>",
    "<end_of_turn>",
]  # fmt: skip


def turn(role: str, content: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, str | None]:
    return {"role": role, "content": content, "tool_calls": json.dumps(calls) if calls else None}


CALL = [{"name": "sky", "arguments": {"city": "Köln"}}]
TOOLS = json.dumps([{"name": "sky", "description": "Of a city", "parameters": {}}])

ROWS = {
    "alpaca": ([turn("user", "Name the colour.\nThe sky"), turn("assistant", "Blue.\n\nAt noon.")], None),
    # The answer stands in both questions, and in the system turn.
    "chat": (
        [turn("user", "Ada. Who?"), turn("assistant", "Ada."), turn("user", "Ada. Or?"), turn("assistant", "Ada.")],
        None,
    ),
    "system": ([turn("system", "Ada."), turn("user", "Who?"), turn("assistant", "Ada.")], None),
    "empty system": ([turn("system", ""), turn("user", "Who?"), turn("assistant", "Ada.")], None),
    "white space": ([turn("user", " Who?\n"), turn("assistant", "\n Ada. \n")], None),
    "calls": (
        [
            turn("system", "Be brief."), turn("user", "Köln?"), turn("assistant", "", CALL), turn("tool", "grey"),
            turn("assistant", "It is grey."),
        ],
        TOOLS,
    ),
    "several parts": (
        [
            turn("user", "Köln?"), turn("assistant", "I look.", CALL), turn("tool", "grey"), turn("tool", "wet"),
            turn("assistant", "Grey.\n\nWet."), turn("user", "Thanks"), turn("assistant", "🚀"),
        ],
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def spell() -> Any:
    """Return a function that gives a family's tokenizer: bytes and special tokens; it pads with the end of a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    spec = importlib.util.find_spec("trl")
    assert spec
    assert spec.origin
    templates = Path(spec.origin).parent / "chat_templates"

    def make(family: str) -> Any:
        template, first, end = FAMILIES[family]
        made = PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token=first, eos_token=end, pad_token=end, extra_special_tokens=SPECIAL
        )
        made.chat_template = template if "{" in template else (templates / f"{template}.jinja").read_text("utf-8")
        return made

    return make


def marked(tokenizer: Any, row: ChatRow) -> str:
    """Return the text of a row's ids with « » around each unbroken run of labels; refuse labels of other ids."""
    done = tokenise([row], tokenizer, max_length_tokens=10_000)
    audit(done, [row], tokenizer)
    one = done.rows[0]
    assert all(label in {IGNORED, index} for label, index in zip(one.labels, one.input_ids, strict=True))
    text, run = "", [one.input_ids[0]]
    for n in range(1, len(one.labels) + 1):
        if n == len(one.labels) or (one.labels[n] == IGNORED) != (one.labels[n - 1] == IGNORED):
            said = tokenizer.decode(run)
            text, run = text + (said if one.labels[n - 1] == IGNORED else f"«{said}»"), []
        run += one.input_ids[n : n + 1]
    return text


def rowed(name: str) -> ChatRow:
    messages, tools = ROWS[name]
    return ChatRow("r1", messages, "rows.jsonl line 3", tools)


QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LLAMA = "<|start_header_id|>{}<|end_header_id|>\n\n"
ASKED, ANSWERED = (LLAMA.format(role) for role in ("user", "assistant"))
GOLDEN = {
    ("chatml", "alpaca"): QWEN + "<|im_start|>user\nName the colour.\nThe sky<|im_end|>\n"
    "<|im_start|>assistant\n«Blue.\n\nAt noon.<|im_end|>»\n",
    ("chatml", "chat"): QWEN + "<|im_start|>user\nAda. Who?<|im_end|>\n<|im_start|>assistant\n«Ada.<|im_end|>»\n"
    "<|im_start|>user\nAda. Or?<|im_end|>\n<|im_start|>assistant\n«Ada.<|im_end|>»\n",
    ("chatml", "empty system"): "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
    "<|im_start|>assistant\n«Ada.<|im_end|>»\n",
    ("chatml", "white space"): QWEN + "<|im_start|>user\n Who?\n<|im_end|>\n"
    "<|im_start|>assistant\n«\n Ada. \n<|im_end|>»\n",
    ("chatml", "several parts"): QWEN + "<|im_start|>user\nKöln?<|im_end|>\n<|im_start|>assistant\n"
    '«I look.\n<tool_call>\n{"name": "sky", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>»\n'
    "<|im_start|>user\n<tool_response>\ngrey\n</tool_response>\n<tool_response>\nwet\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n«Grey.\n\nWet.<|im_end|>»\n<|im_start|>user\nThanks<|im_end|>\n"
    "<|im_start|>assistant\n«🚀<|im_end|>»\n",
    ("llama3", "alpaca"): f"<|begin_of_text|>{ASKED}Name the colour.\nThe sky<|eot_id|>{ANSWERED}"
    "«Blue.\n\nAt noon.<|eot_id|>»",
    ("llama3", "chat"): f"<|begin_of_text|>{ASKED}Ada. Who?<|eot_id|>{ANSWERED}«Ada.<|eot_id|>»"
    f"{ASKED}Ada. Or?<|eot_id|>{ANSWERED}«Ada.<|eot_id|>»",
    ("llama3", "white space"): f"<|begin_of_text|>{ASKED}Who?<|eot_id|>{ANSWERED}«Ada.<|eot_id|>»",
    ("llama3.1", "system"): f"<|begin_of_text|>{LLAMA.format('system')}{DATE}Ada.<|eot_id|>{ASKED}Who?<|eot_id|>"
    f"{ANSWERED}«Ada.<|eot_id|>»",
    ("gemma", "chat"): "<bos><start_of_turn>user\nAda. Who?<end_of_turn>\n<start_of_turn>model\n«Ada.<end_of_turn>»\n"
    "<start_of_turn>user\nAda. Or?<end_of_turn>\n<start_of_turn>model\n«Ada.<end_of_turn>»\n",
    (
        "gemma",
        "white space",
    ): "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n«Ada.<end_of_turn>»\n",
    ("mistral", "chat"): "<s>[INST] Ada. Who? [/INST]«Ada.</s>»[INST] Ada. Or? [/INST]«Ada.</s>»",
    ("mistral", "white space"): "<s>[INST]  Who?\n [/INST]«\n Ada. \n</s>»",
    ("closed once", "system"): "system: Ada.\nuser: Who?\nassistant: «Ada.\n</s>»",
}
"""(family, row) -> the whole text, what is learnt between marks."""

CALLED = {
    "chatml": [
        '<tool_call>\n{"name": "sky", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>',
        "It is grey.<|im_end|>",
    ],
    "llama3.1": ['{"name": "sky", "parameters": {"city": "Köln"}}<|eot_id|>', "It is grey.<|eot_id|>"],
}

REFUSED = {
    ("llama3", "calls"): "it calls tools, which the chat template of the tokenizer cannot show",
    ("llama3.1", "several parts"): "turn 2: the chat template of the tokenizer does not render the assistant's words",
    ("gemma", "system"): "System role not supported",
    ("mistral", "system"): "Conversation roles must alternate",
    ("closed once", "chat"): "puts no end-of-turn token right after the assistant's words",
}


@pytest.mark.parametrize(("family", "name"), GOLDEN)
def test_what_is_learnt_is_the_answers_and_their_ends(spell: Any, family: str, name: str) -> None:
    assert marked(spell(family), rowed(name)) == GOLDEN[family, name]


@pytest.mark.parametrize("family", CALLED)
def test_calls_are_learnt_and_their_results_are_not(spell: Any, family: str) -> None:
    text = marked(spell(family), rowed("calls"))
    assert [run.split("»")[0] for run in text.split("«")[1:]] == CALLED[family]
    assert "grey" in text.split("»")[1].split("«")[0]


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_what_a_template_cannot_show_is_refused_with_its_line(spell: Any, family: str, name: str) -> None:
    with pytest.raises(CannotRender, match=re.escape(REFUSED[family, name])) as refusal:
        marked(spell(family), rowed(name))
    assert str(refusal.value).startswith("rows.jsonl line 3: ")
