"""The rule library: real rows for every rule, and good rows that look like them."""

import json
from typing import Any

import pytest

from llmjobs.contracts.instructions import DataContract, RowRules
from llmjobs.instructions.examination import RULES, Examined, examine
from llmjobs.instructions.formats import is_row
from llmjobs.instructions.reading import read_rows
from llmjobs.instructions.rules import RULES_VERSION

TICKET = {
    "format": "json",
    "fields": {
        "team": {"type": "string", "enum": ["data", "search"]},
        "run": {"type": "integer", "nullable": True},
        "note": {"type": "string", "required": False},
    },
}


def row(instruction: str, output: str, given: str = "") -> str:
    return json.dumps({"instruction": instruction, "input": given, "output": output}, ensure_ascii=False)


def chat(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


# Rows marked A are from the Alpaca data (README of gururise/AlpacaDataCleaned, or alpaca_en_demo.json), shortened.
BAD: dict[str, list[str]] = {
    "unreadable": [
        '{"instruction": "What is SMBX?", "input": "", "output": SMBX is a marketplace}',
        '{"instruction": "What is SMBX?", "inp',
    ],
    "wrong_shape": [
        '"just a string"',
        '{"question": "How many?", "answer": "72"}',
        '{"instruction": "Count.", "output": 3}',
    ],
    "duplicate_keys": ['{"instruction": "Name a fruit.", "output": "Apple", "output": "Pear"}'],
    "broken_encoding": [
        row("Who are you?", "Iâ€™m a teacher."),
        row("Translate to French: coffee", "cafÃ©"),
        row("Spell it.", "na\ufffdve"),
        '{"instruction": "Spell it.", "output": "lone \\ud800 surrogate"}',
    ],
    "control_characters": [
        row("Say hi.", "Hi\u0008 there."),
        row("Say\u200b hi.", "Hi."),
        row("Show the log.", "\x1b[31mfailed\x1b[0m"),
    ],
    "no_input_marker": [
        row("Name five technology related companies", "Apple, Google", marker)  # A: these spellings
        for marker in [
            "No input.",
            "noinput",
            "Noinput",
            "No input",
            "No Input",
            "< noinput >",
            "`<noinput>`",
            "NoInput",
            "<no input>",
            "(no input)",
            "N/A",
            "n/a.",
            "None",
            "No input required",
            "no_input",
            "[No Input Provided]",
        ]
    ],
    "role_order": [
        chat(("assistant", "Hello"), ("user", "Hi")),
        chat(("user", "Hi"), ("user", "Anyone?"), ("assistant", "Yes.")),
        chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")),
        chat(("user", "Hi"), ("system", "Be kind."), ("assistant", "Hello")),
        chat(("user", "Weather?"), ("tool", "12 °C"), ("assistant", "12 °C")),
        chat(("system", "Be kind.")),
    ],
    "empty_turn": [
        chat(("user", "Hi"), ("assistant", ""), ("user", "Hello?"), ("assistant", "Yes.")),
        chat(("system", " "), ("user", "Hi"), ("assistant", "Hello")),
        row("", "An answer to nothing."),
    ],
    "empty_answer": [
        row("Create a chatbot that can answer basic questions about the coronavirus", ""),  # A
        row("Add two numbers.", " \n\t"),
        '{"instruction": "Say something.", "output": null}',
    ],
    "placeholder_answer": [
        row("Create an animation to represent the growth of a company.", "<No Output>"),  # A
        row("Edit the photograph", "nooutput", "[photo]"),  # A
        row("Write the code.", "N/A."),
        row("Make a picture of a sunset.", "<image>"),
        row("Go on.", "..."),
    ],
    "empty_code_block": [
        row("Write a sorting function in Python.", "Here it is:\n```python\n```"),
        row("Two programs.", "```js\nlet a = 1\n```\nand\n```python\n\n```"),
    ],
    "url_only_input": [
        row(
            "Outline the main points of this article", "The article discusses ...", "https://time.com/5798772/risk/"
        ),  # A
        row("Design a web page", "It has a header.", "www.example.com"),  # A
        row("Summarise.", "It says ...", "Link: <https://a.example/b>\nhttps://c.example"),
        chat(("user", "https://www.nytimes.com/2020/09/21/taxes.html"), ("assistant", "Taxes went up.")),
    ],
    "refusal": [
        row("Indicate the depth of a given lake.", "I'm sorry, I cannot retrieve that information.", "Lake Como"),  # A
        row("Write a weather report for tomorrow.", "I am sorry, but I am an AI language model and cannot know."),  # A
        row("Select a section of the song.", "I'm sorry, but you didn't provide the song lyrics for me."),  # A
        row("Colorize the photo.", "Unfortunately, I am not able to manipulate images."),
        row("Turn the message into a ticket.", "I\u2019m sorry, but I can\u2019t help with that request.", "Help!"),
        row("Find my keys.", "I cannot help with that."),
        row("Name the price.", "I do not have access to current prices."),
    ],
    "speaks_as_ai": [
        row("Write a short description of your house", "As an AI, I don't have a physical house."),  # A
        row("Describe your favorite character.", "I am an AI and do not have personal preferences."),  # A
        row("Describe a challenge.", "One is loneliness. As an AI language model, I rely on clear words."),  # A
    ],
    "unrendered_template": [
        row("Greet {{ customer_name }}.", "Hello!"),
        row("Greet the customer.", "Hello {{customer.name}}, welcome."),
        row("Continue.", "Done.<|im_end|>"),
        row("[INST] Say hi [/INST]", "Hi."),
        row("Answer: {question}", "42"),
        row("List them.", "{% for item in items %} ..."),
    ],
    "merged_instructions": [
        row(
            "Analyze the given legal document.",
            "The document states ...\n##\n10. Instruction: Rewrite the sentence.\n10. Input:\nThe book was read.",
        ),  # A
        row("Say hi.", "Hi.\n### Instruction:\nSay bye.\n### Response:\nBye."),
    ],
    "answer_repeats_question": [
        row("What is the capital of France?", "what is the capital of  France?"),
        row("Rewrite this.", "Rewrite this.\n\nThe cat sat.", "The cat sat."),
    ],
    "image_request": [
        row("Create a pie chart that shows the percentage of people living in each continent", "Asia 59%"),  # A
        row('Design a logo for a company called "My First Studio".', "A circle."),  # A
        row("Colorize the following black and white photo.", "Done.", "photo.jpg"),  # A
        row("Draw me a picture of a house.", "A roof and a door."),
    ],
    "invalid_json_answer": [
        row("Ticket, please.", answer, "It broke.")
        for answer in [
            "team: data",
            '{"team": "data"}',
            '{"team": "sales", "run": 1}',
            '{"team": "data", "run": "1"}',
            '{"team": "data", "run": true}',
            '{"team": null, "run": 1}',
            '{"team": "data", "run": 1, "more": 1}',
            "[]",
            '{"team": "data", "run": 1',
            '{"team": "data", "run": 1.5}',
        ]
    ],
    "too_long": [row("Count.", "one " * 6000)],
}

GOOD = [
    row("What is the capital of France?", "Paris."),
    row("Correct the grammar if needed.", "He studies hard.", "He studies hard."),  # A: repeats the input, rightly
    row("Generate an excuse for not coming to work", "I'm sorry, but I'm unable to come into work today."),  # A
    row("Write a letter of apology.", "Dear Ana, I am sorry that I did not call."),
    row("Explain what is GPT-3", "GPT-3 is an advanced artificial intelligence (AI) program developed by OpenAI."),  # A
    row("Create HTML for this.", "<a href>", "Link to page: https://example.com\nText on button: Click Here"),  # A
    row(
        "Describe how a computer processes data", "1. Input: data comes in.\n2. Process.\n3. Output: data goes out."
    ),  # A
    row("Write a Jinja template.", "Use `{{ name }}`:\n```\nHello {{ name }}, {% if x %}\n```"),
    row("Write CSS and JS.", "```css\na {}\n```\n\n```js\nlet a\n```"),
    row("Create a metaphor that compares the sky with an image of the sea.", "The sky is a quiet sea."),
    row("Write a description of a painting by Monet.", "Soft light on water."),
    row("Draw a conclusion from the text.", "Sales rose.", "Sales: 1, 2, 3."),
    row("Give the type of this value.", "It is a string.", "no inputs were lost in transit"),
    row("Use the emoji of a family.", "👩\u200d👩\u200d👧 and a tab:\tdone\nnext line"),
    row("Classify: is this true?", "No"),
    row("Who is Noel Input?", "Nobody.", "Noel Input"),
    row("Does an AI dream?", "Some say that it might, as an AI-driven process can look like one."),
    chat(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Bye!")),
    row("翻译成英文", "Hello", "你好"),
]


def examined(rows: list[str], **contract: Any) -> Examined:
    found = read_rows("\n".join(rows).encode(), is_row=is_row)
    return examine(0, [("rows.jsonl", row) for row in found], DataContract(owner="tests", **contract))


def flagged(table: Any, number: int) -> set[str]:
    return {rule for rule in RULES if table[rule][number]}


def test_every_rule_has_golden_rows() -> None:
    assert set(BAD) == set(RULES) == set(RowRules.model_fields)


@pytest.mark.parametrize("rule", sorted(BAD))
def test_each_rule_catches_its_defect(rule: str) -> None:
    contract = {"answer": TICKET} if rule == "invalid_json_answer" else {}
    table = examined(BAD[rule], **contract).rows
    assert table.height == len(BAD[rule])
    missed = [BAD[rule][number] for number in range(table.height) if rule not in flagged(table, number)]
    assert missed == []
    fixed = getattr(DataContract(owner="tests").rules, rule) == "fix"
    assert table["quarantined"].to_list() == [not fixed] * table.height


@pytest.mark.parametrize("rule", sorted(BAD))
def test_a_rule_that_is_off_catches_nothing(rule: str) -> None:
    if rule in {"unreadable", "wrong_shape"}:
        with pytest.raises(ValueError, match=rule):
            RowRules.model_validate({rule: "off"})
        return
    contract = {"answer": TICKET} if rule == "invalid_json_answer" else {}
    table = examined(BAD[rule], rules={rule: "off"}, **contract).rows
    assert not table[rule].any()


def test_good_rows_pass_every_rule() -> None:
    table = examined(GOOD).rows
    false_alarms = {GOOD[number]: flags for number in range(table.height) if (flags := flagged(table, number))}
    assert false_alarms == {}


def test_good_tickets_pass() -> None:
    answers = ['{"team": "data", "run": null}', '{"run": 3, "team": "search", "note": ""}']
    table = examined([row("Ticket, please.", answer, "It broke.") for answer in answers], answer=TICKET).rows
    assert not table["quarantined"].any()


def test_the_library_says_what_it_is() -> None:
    assert RULES_VERSION >= 1
    assert all(field.description for field in RowRules.model_fields.values())


def test_repairs_are_written_and_recorded() -> None:
    found = examined([row("Say\u200b hi.", "Hi\u0007.", "\u200b<noinput>"), row("Say bye.", "Bye.", "loudly")])
    assert [message["content"] for message in found.rows["messages"][0]] == ["Say hi.", "Hi."]
    assert [message["content"] for message in found.rows["messages"][1]] == ["Say bye.\n\nloudly", "Bye."]
    recorded = found.fixes.select("row", "rule", "part", "before", "after").rows()
    assert sorted(recorded) == [
        (0, "control_characters", "input", "\u200b<noinput>", "<noinput>"),
        (0, "control_characters", "instruction", "Say\u200b hi.", "Say hi."),
        (0, "control_characters", "output", "Hi\u0007.", "Hi."),
        (0, "no_input_marker", "input", "<noinput>", ""),
    ]


@pytest.mark.parametrize(("severity", "quarantined"), [("warn", False), ("quarantine", True), ("fail", True)])
def test_a_repair_rule_can_be_told_not_to_repair(severity: str, quarantined: bool) -> None:
    found = examined([row("Name one.", "Apple", "No input")], rules={"no_input_marker": severity})
    assert found.rows["no_input_marker"].to_list() == [True]
    assert found.rows["quarantined"].to_list() == [quarantined]
    assert found.rows["messages"][0][0]["content"] == "Name one.\n\nNo input"
    assert found.fixes.height == 0
