"""Labels: the assistant's words and the end of its turns, and nothing else; under four families of templates."""

from __future__ import annotations

from typing import Any

import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.rendering import IGNORED, ChatRow
from llmjobs.training.data.tokenisation import Tokenised, TokenRow, audit, tokenise

TURNS = [
    {"role": "user", "content": "Which run?"},
    {"role": "assistant", "content": "Run 42."},
    {"role": "user", "content": "And the team? Run 42."},
    {"role": "assistant", "content": '{"team": "data"}\n'},
]

# Mistral's way: no role names, the turn ends with </s>.
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
# Qwen3's way: the last answer carries a thinking block, which vanishes once another turn follows.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Trains on everything or nothing if it is not read with care: the answer has no end of turn.
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Renders the answer before its prompt.
BACKWARDS = "{% for m in messages[::-1] %}{{ m['content'] }}<|im_end|>{% endfor %}"


def row(*messages: dict[str, str]) -> ChatRow:
    return ChatRow("r1", list(messages), "tickets.jsonl line 7")


def learnt(one: TokenRow, tokenizer: Any) -> list[str]:
    """Return each unbroken run of labels as text."""
    runs: list[list[int]] = [[]]
    for label in one.labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.fixture
def with_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def change(template: str | None) -> Any:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        return tokenizer

    return change


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("own", ["Run 42.<|im_end|>", '{"team": "data"}\n<|im_end|>']),
        (INST, [" Run 42.</s>", ' {"team": "data"}\n</s>']),
        (THINKING, ["Run 42.<|im_end|>", '<think>\n\n</think>\n\n{"team": "data"}<|im_end|>']),
    ],
    ids=["chatml", "inst", "thinking"],
)
def test_golden_masks_of_two_turns(with_template: Any, tokenizer: Any, template: str, expected: list[str]) -> None:
    template = tokenizer.chat_template if template == "own" else template
    changed = with_template(template)
    done = tokenise([row(*TURNS)], changed, max_length_tokens=500)
    assert learnt(done.rows[0], changed) == expected
    audit(done, [row(*TURNS)], changed)


def test_ids_are_those_of_the_whole_text(tokenizer: Any) -> None:
    """In use the prompt is tokenised alone; training must have seen the same ids."""
    one = tokenise([row(*TURNS[:2])], tokenizer, max_length_tokens=500).rows[0]
    prompt = tokenizer.apply_chat_template(TURNS[:1], tokenize=True, add_generation_prompt=True, return_dict=True)
    ids = prompt["input_ids"]
    assert one.input_ids[: len(ids)] == ids
    assert one.labels[: len(ids)] == [IGNORED] * len(ids)
    assert one.labels[len(ids)] == one.input_ids[len(ids)]
    assert one.labels[-2:] == [tokenizer.eos_token_id, IGNORED]


def test_a_system_turn_is_not_learnt(tokenizer: Any) -> None:
    system = {"role": "system", "content": "Run 42."}
    one = tokenise([row(system, *TURNS[:2])], tokenizer, max_length_tokens=500).rows[0]
    assert learnt(one, tokenizer) == ["Run 42.<|im_end|>"]


def test_words_of_many_bytes_are_learnt_whole(tokenizer: Any) -> None:
    answer = "Größe: 3 µm 🚀, 完了"
    turns = [TURNS[0], {"role": "assistant", "content": answer}]
    done = tokenise([row(*turns)], tokenizer, max_length_tokens=500)
    assert learnt(done.rows[0], tokenizer) == [f"{answer}<|im_end|>"]
    audit(done, [row(*turns)], tokenizer)


def test_every_row_is_accounted_for(tokenizer: Any) -> None:
    rows = [
        ChatRow("short", TURNS[:2]),
        ChatRow("long", [{"role": "user", "content": "run " * 200}, TURNS[1]]),
        ChatRow("short too", TURNS),
    ]
    done = tokenise(rows, tokenizer, max_length_tokens=100)
    assert [one.row_id for one in done.rows] == ["short", "short too"]
    assert done.over_long.keys() == {"long"}
    assert done.over_long["long"] > 200
    assert done.tokens == sum(len(one.input_ids) for one in done.rows)
    assert done.trainable_tokens == sum(one.trainable for one in done.rows)
    # Nothing was cut: each row ends the way the template ends it.
    assert all(one.labels[-2] == tokenizer.eos_token_id for one in done.rows)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (TURNS[:1], "tickets.jsonl line 7: no assistant turn"),
        (
            [TURNS[0], {"role": "assistant", "content": "  "}],
            "line 7: turn 2: the chat template of the tokenizer does not render",
        ),
    ],
)
def test_rows_without_an_answer_are_named(tokenizer: Any, messages: list[dict[str, str]], says: str) -> None:
    with pytest.raises(BadData, match=says):
        tokenise([row(*messages)], tokenizer, max_length_tokens=100)


@pytest.mark.parametrize(
    ("template", "error", "says"),
    [
        (ENDLESS, BadData, "no end-of-turn token right after"),
        (BACKWARDS, BadData, "does not render the assistant's words after its prompt"),
        (None, BadConfig, "no chat template"),
    ],
)
def test_templates_that_cannot_be_masked_are_refused(
    with_template: Any, template: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tokenise([row(*TURNS[:2])], with_template(template), max_length_tokens=100)


def test_audit_refuses_labels_that_do_not_read_as_the_answer(tokenizer: Any) -> None:
    rows = [row(*TURNS[:2])]
    good = tokenise(rows, tokenizer, max_length_tokens=100).rows[0]
    none = Tokenised([TokenRow("r1", good.input_ids, [IGNORED] * len(good.labels))], {})
    with pytest.raises(BadData, match="line 7: no trainable token"):
        audit(none, rows, tokenizer)
    shifted = Tokenised([TokenRow("r1", good.input_ids, [IGNORED, *good.input_ids[:6]])], {})
    with pytest.raises(BadData, match=r"lack the assistant's 'Run 42\.'"):
        audit(shifted, rows, tokenizer)
    endless = Tokenised([TokenRow("r1", good.input_ids, [*good.labels[:-2], IGNORED, IGNORED])], {})
    with pytest.raises(BadData, match="line 7: an answer without the token that ends it"):
        audit(endless, rows, tokenizer)
