"""The rule library: real rows for every rule, and good rows that look like them."""

# ruff: noqa: RUF001 (Chinese texts have signs that look like ours)

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import DataContract
from llmjobs.contracts.data_rules import RULES, RowRules
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.rules.examination import Examined, examine
from llmjobs.instructions.rules.library import HINT, HINTS, RULES_VERSION, flagged
from llmjobs.instructions.rules.refusals import REFUSAL_HINT, may_refuse, refuses
from llmjobs.instructions.rules.texts import plain_texts
from llmjobs.instructions.rules.truncation import OPENS_HINT, ends_plainly, is_truncated, may_be_truncated
from llmjobs.instructions.tables import READ

READ_TYPES: Any = READ

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
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}, ensure_ascii=False)


def shared(*turns: tuple[str, str], tools: Any = None) -> str:
    """Return a ShareGPT row; a text among `tools` stands as it is."""
    row: dict[str, Any] = {"conversations": [{"from": role, "value": value} for role, value in turns]}
    if tools is not None:
        row["tools"] = tools if isinstance(tools, str) else json.dumps(tools)
    return json.dumps(row, ensure_ascii=False)


AREA = [{"name": "calculate_area", "parameters": {}}]
CALL = '{"name": "calculate_area", "arguments": {"shape": "circle", "dimensions": [4]}}'
LONG = "The first thing to know is that bread needs time. " * 5


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
        row("Say hi.", "One line.\u2028Another."),
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
            "No additional input",
            "Input: none",
            "没有输入",
            "（无输入）",
            "输入：无",
            "不需要输入。",
        ]
    ],
    "role_order": [
        chat(("assistant", "Hello"), ("user", "Hi")),
        chat(("user", "Hi"), ("user", "Anyone?"), ("assistant", "Yes.")),
        chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")),
        chat(("user", "Hi"), ("system", "Be kind."), ("assistant", "Hello")),
        chat(("user", "Weather?"), ("tool", "12 °C"), ("assistant", "12 °C")),
        shared(("human", "Area?"), ("function_call", CALL), ("gpt", "50.24"), tools=AREA),
        shared(("human", "Area?"), ("function_call", CALL), ("observation", "50"), tools=AREA),
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
        row("Freeze the following sample of yogurt for 10 minutes.", "<noinput>", "Yogurt sample"),  # A
        row("Design the page.", "<web page with a header>"),
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
        row("Order the food.", "I'm sorry, but I currently don't have the capability to order food."),
        row("Draw it.", "As an AI, I am not capable of creating a painting, however, here is a description."),  # A
        row("Who is she?", "There is not enough information to tell who is meant."),
        row("Summarise the text.", "Sure! Could you please provide the text that you would like me to summarise?"),
        row("提供文档摘要。", "很抱歉，你需要提供一篇完整的文档或文章，我才可以为你生成摘要。"),
        row("总结这篇文章。", "由于您没有提供文章，我无法总结。"),
        row("查一下天气。", "作为一个人工智能助手，我无法查询实时天气。"),
    ],
    "speaks_as_ai": [
        row("Write a short description of your house", "As an AI, I don't have a physical house."),  # A
        row("Describe your favorite character.", "I am an AI and do not have personal preferences."),  # A
        row("Describe a challenge.", "One is loneliness. As an AI language model, I rely on clear words."),  # A
        row("Who are you?", "I'm Ada, a helpful assistant."),
        row("描述一次难忘的经历。", "作为一个AI助手，我没有亲身经历。"),
        row("你喜欢什么？", "由于我是一个语言模型，我没有喜好。"),
    ],
    "unrendered_template": [
        row("Greet {{ customer_name }}.", "Hello!"),
        row("Greet the customer.", "Hello {{customer.name}}, welcome."),
        row("Continue.", "Done.<|im_end|>"),
        row("[INST] Say hi [/INST]", "Hi."),
        row("Answer: {question}", "42"),
        row("List them.", "{% for item in items %} ..."),
        row("Select a section of the following song.", "Here is the chorus.", "<Song>\nCue: The chorus"),  # A
    ],
    "merged_instructions": [
        row(
            "Analyze the given legal document.",
            "The document states ...\n##\n10. Instruction: Rewrite the sentence.\n10. Input:\nThe book was read.",
        ),  # A
        row("Say hi.", "Hi.\n### Instruction:\nSay bye.\n### Response:\nBye."),
        row(
            "Should I invest in stocks?",
            "It depends on you.\n##\n18. Instruction: Identify the noun in the sentence:\n18. Input:\nThe apple.",
        ),  # A
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
        row("Given the figures, create a bar chart.", "Here it is."),
        row("You need to design a suitable logo for a cafe.", "A cup."),  # A
        row("Classify the following shape according to simple geometry.", "Triangle", "<Picture Attached>"),  # A
        row('Create a graphic or logo that visually represents the word "courage".', "A lion."),  # A
        row("制作一张海报。", "好的。"),
        row("解释这幅漫画。", "这幅漫画很有趣。"),
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
    "truncated_answer": [
        row("Write an article.", LONG + "While the bird is gone, its memory serves as a reminder of the importance of"),
        row("Find the price.", LONG + "If the model's performance degrades over time, it may need to be re"),
        row("Describe them.", LONG + "\n\n9. Calpurnia cooks.\n\n10."),
        row("Write a web page.", "<!DOCTYPE html>\n<html>\n<body>\n<p>His writing is absolutely"),
        row("Print it.", "Here is the program:\n```python\nfor i in range(10):\n    print("),
        row("Name them.", LONG + "They are apples, pears,"),
        row("Explain it.", LONG + "There are three kinds (the first of which"),
        row("讲一讲。", "音乐是一种艺术，有许多种类和风格。" * 6 + "不同的音色之间的结合是十分重要的，萨克斯、小号、"),
        row("讲一讲。", "他是一位著名的足球运动员，参加了许多比赛。" * 5 + "在2016年，他带领球队获得了亚军，并在202"),
    ],
    "language_mismatch": [
        row("安排明天上午10点的会议。", "Certainly, I will schedule a meeting for you tomorrow at 10 AM."),
        row("What should I eat for breakfast today?", "早餐可以吃鸡蛋、面包和水果，再喝一杯牛奶，这样营养均衡。"),
        row(
            "Erkläre mir, warum der Himmel am Tag blau ist und abends rot.", "The sky is blue because of the air in it."
        ),
        row("Explain why the sky is blue.", "Le ciel est bleu parce que la lumière du soleil est diffusée par l'air."),
    ],
    "broken_tools": [
        shared(("human", "Area?"), ("gpt", "50.24"), tools="calculate_area(shape)"),
        shared(("human", "Area?"), ("gpt", "50.24"), tools={"name": "calculate_area"}),
        shared(("human", "Area?"), ("gpt", "50.24"), tools=[{"description": "nameless"}]),
        shared(
            ("human", "Area?"), ("function_call", CALL), ("observation", "50"), ("gpt", "50"), tools=[{"name": "other"}]
        ),
        shared(
            ("human", "Area?"),
            ("function_call", '{"name": "calculate_area", "arguments": "circle"}'),
            ("observation", "50"),
            ("gpt", "50"),
            tools=AREA,
        ),
    ],
    "too_long": [row("Count.", "one " * 6000)],
    "too_many_tokens": [row("Count.", "one two three four five six seven eight nine ten eleven")],
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
    row("用“shimmer”构造一个句子。", "As the sun sets, the shimmer of the horizon is all that one can see."),
    row("Convert a piece of text into another language.", "Bonjour, comment vas-tu? Je suis à la maison."),
    row("Write a haiku in Japanese.", "古池や蛙飛び込む水の音、静かな水面に広がる波紋。"),
    row(
        "写一个Python函数。",
        "```python\n# add the two numbers and return the sum of them\ndef add(a, b):\n    return a + b\n```",
    ),
    row("我对结果不感兴趣。", "很抱歉听到你这么说。你可以告诉我你感兴趣的内容。"),
    row("给客户写一封邮件，道歉。", "亲爱的客户，非常抱歉我们未能按时发货。"),
    row("解释GPT-3是什么。", "GPT-3 是一个由 OpenAI 开发的自然语言处理 AI 模型。"),
    row("为非营利组织写使命宣言。", "作为一个致力于动物权益的非营利组织，我们坚守以下使命。"),
    row("将以下句子改为主动语态：艺术家创作了这幅画。", "这幅画被艺术家创作了。"),
    row("How can I create a bar chart from these figures?", "Use a spreadsheet."),
    row("Write Python code that draws a line graph of sales.", "```python\nplt.plot(x)\n```"),
    row("Sansa can draw a portrait and sell it for $5. How much does she earn with three?", "She earns 3 * 5 = $15."),
    row("Maria wants to paint a picture and buys brushes for $20. What does she pay?", "She pays $20."),
    row("Design a conversation with an agent.", "Agent: I am sorry, I cannot find your order."),
    row("Write a story about a chatbot.", "As an AI, I dreamt of rain."),
    row("Continue.", "As I walked home, I couldn't help but notice the traffic."),
    row("List books.", LONG + "\n9. Keepers by Trenton Lee Stewart\n10. Lightning Girl by Stacy McAnulty"),
    row("Tweet.", LONG + "Get yourself a puppy. #PuppyLove"),
    row("Quote.", '"' + LONG + 'I thought that no one but myself." - C.S. Lewis'),
    row("Sign.", "Best regards,\nJohn Smith\nSoftware Developer"),
    row("Find an article.", "Here it is: https://example.com/what-is-the-future-of-artificial-intelligence/"),
    row("How many?", "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips altogether.\n#### 72"),
    row("Write a poem.", "The waves are high\nThe wind is cold\nThe gulls all cry\nOf days of old"),
    row("列出城市。", "以下是五个城市：\n1. 北京\n2. 上海\n3. 广州\n4. 深圳\n5. 杭州"),
    shared(
        ("system", "Use the tools."),
        ("human", "Area?"),
        ("function_call", CALL),
        ("observation", '{"area": 50.24}'),
        ("gpt", "It is 50.24."),
        ("human", "Thanks"),
        ("gpt", "You are welcome."),
        tools=AREA,
    ),
    shared(("human", "Area?"), ("function_call", CALL), tools=[{"type": "function", "function": AREA[0]}]),
    shared(("human", "Area?"), ("function_call", CALL), ("observation", "50"), ("gpt", "50")),
]


def words(frame: pl.DataFrame) -> pl.Series:
    return frame["messages"].list.eval(pl.element().struct.field("content")).list.join(" ").str.count_matches(r"\S+")


def examined(rows: list[str], **contract: Any) -> Examined:
    content = io.BytesIO("\n".join(rows).encode())
    frame = pl.concat(read_frames(content, name="rows.jsonl"))
    return examine(frame, DataContract(owner="tests", **contract), count_tokens=words)


def needs(rule: str) -> dict[str, Any]:
    """Return what a contract must say before the rule can look."""
    if rule == "invalid_json_answer":
        return {"answer": TICKET}
    return {"limits": {"max_tokens": 10, "tokenizer": "any"}} if rule == "too_many_tokens" else {}


def flags_of(table: Any, number: int) -> set[str]:
    return {rule for rule in RULES if table[rule][number]}


def test_every_rule_has_golden_rows() -> None:
    assert set(BAD) == set(RULES) == set(RowRules.model_fields)


@pytest.mark.parametrize("rule", sorted(BAD))
def test_each_rule_catches_its_defect(rule: str) -> None:
    table = examined(BAD[rule], **needs(rule)).rows
    assert table.height == len(BAD[rule])
    missed = [BAD[rule][number] for number in range(table.height) if rule not in flags_of(table, number)]
    assert missed == []
    if getattr(DataContract(owner="tests").rules, rule) not in {"fix", "warn"}:
        assert table["quarantined"].all()


@pytest.mark.parametrize("rule", sorted(BAD))
def test_a_rule_that_is_off_catches_nothing(rule: str) -> None:
    if rule in {"unreadable", "wrong_shape"}:
        with pytest.raises(ValueError, match=rule):
            RowRules.model_validate({rule: "off"})
        return
    table = examined(BAD[rule], rules={rule: "off"}, **needs(rule)).rows
    assert not table[rule].any()


def test_good_rows_pass_every_rule() -> None:
    table = examined(GOOD).rows
    false_alarms = {GOOD[number]: flags for number in range(table.height) if (flags := flags_of(table, number))}
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


PIECES = [
    *"aZ9 .,:;?!-_'\"`#<>{}[]()|/@\n\t\u200b\x08",
    "```", "{{ name }}", "{% if", "<|im_end|>", "[INST]", "{input}", "18. Instruction:", "### Response:",
    "cafÃ©",
    "\ufffd", "As an AI, I", "I am a language model", "作为一个AI助手，我", "我是人工智能", "my ai assistant",
    "<Song>", "the",
    "of the", "Paris", "\n\n10.", "created by OpenAI", " chatbot, like me", "指令：", "e\u0301", "é", "<html>",
    "a picture of", "Draw the", "image", "画一张", "海报", "，", "。", "I'm an assistant",
]  # fmt: skip
ANY = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ANY, ANY, ANY), min_size=1, max_size=8))
def test_hints_change_no_flag(rows: list[tuple[str, str, str]]) -> None:
    """The cheap expressions that pick rows miss none that the dear ones would catch."""
    again = [(question, given, question.upper()) for question, given, _ in rows]
    contract = DataContract.model_validate({"owner": "tests", "rules": {"control_characters": "warn"}})
    columns = {"instruction": 0, "input": 1, "output": 2}
    frame = pl.DataFrame(
        {
            name: [parts[columns[name]] for parts in rows + again] if name in columns else [None] * 2 * len(rows)
            for name in READ
        },
        schema=READ_TYPES,
    )
    texts = plain_texts(frame.with_row_index("row"), contract).table
    texts = texts.with_columns(json_problem=pl.lit(None, dtype=pl.String))
    assert flagged(texts, contract).equals(flagged(texts, contract, hints=False))


REFUSING = [
    "I'm sorry, but you have not given it", "unfortunately the file is missing", "I cannot actually help",
    "so can not find it", "I'm not capable of judging", "I could not locate it", "and don't have access to it",
    "I do not possess enough", "it is difficult for me to say without it", "There is not enough context",
    "The text seems to be missing", "No text was given", "You forgot to include it", "It seems the input is missing",
    "Without more context, it is hard", "I'd need to know it", "As an AI, I will not be able to tell",
    "I am a large language model and I need more context", "Could you please specify it", "kindly upload it",
    "I will need some more", "to say it, I would require it", "In order to go on I need it", "I am not able to assist",
    "I can\u2019t answer", "很抱歉，我无法回答",
]  # fmt: skip
"""One for each way in which an expression of `refusals` lets an answer refuse."""


def test_the_hint_of_a_refusal_misses_none() -> None:
    before = (
        "",
        " \n",
        "Hi, ",
        "Well, ",
        "Oh no. ",
        "Yes, it is. And ",
        "Of course! First, ",
        "A line\n",
        "x" * 200 + " ",
    )
    after = ("", ".", " now, that is all.", "\nAnd more.", LONG, LONG * 3)
    answers = [
        case(f"{begin}{refusing}{end}")
        for begin, refusing, end in itertools.product(before, REFUSING, after)
        for case in (str, str.lower, str.upper)
    ]
    answer = pl.col("answer")
    hint = may_refuse(answer, answer.str.contains(REFUSAL_HINT))
    table = pl.DataFrame({"answer": [*REFUSING, *answers]}).select("answer", refuses=refuses(answer), hint=hint)
    assert table.head(len(REFUSING)).filter(~pl.col("refuses"))["answer"].to_list() == []
    assert table.filter("refuses", ~pl.col("hint"))["answer"].to_list() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY.map(lambda end: LONG + end), min_size=1, max_size=30))
def test_the_hints_of_a_truncation_miss_none(answers: list[str]) -> None:
    answer = pl.col("answer")
    opens = answer.str.contains(OPENS_HINT)
    table = pl.DataFrame({"answer": answers}).filter(
        (is_truncated(answer) & ~may_be_truncated(answer)) | (may_be_truncated(answer) & ends_plainly(answer) & ~opens)
    )
    assert table["answer"].to_list() == []


@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
def test_hints_change_no_flag_of_real_rows(name: str, real: Callable[[str], Path]) -> None:
    contract = DataContract(owner="tests")
    with real(name).open("rb") as file:
        texts = plain_texts(pl.concat(read_frames(file, name=name)).with_row_index("row"), contract).table
    texts = texts.with_columns(json_problem=pl.lit(None, dtype=pl.String))
    quick = flagged(texts, contract)
    assert quick["refusal"].any()
    assert quick.equals(flagged(texts, contract, hints=False))


@pytest.mark.parametrize("rule", sorted({*HINTS} - {"refusal", "truncated_answer"}))
def test_hint_sees_every_golden_row(rule: str) -> None:
    frame = pl.concat(read_frames(io.BytesIO("\n".join(BAD[rule]).encode()), name="rows.jsonl"))
    texts = frame.select(pl.concat_str("instruction", "input", "output", separator="\n", ignore_nulls=True)).to_series()
    assert texts.str.contains(HINTS[rule]).all()
    assert texts.str.contains(HINT).all()


@pytest.mark.parametrize("rule", ["no_input_marker", "url_only_input"])
def test_a_field_can_be_dropped(rule: str) -> None:
    given = {"no_input_marker": "No input", "url_only_input": "https://time.com/5798772/risk/"}[rule]
    found = examined([row("Name one.", "Apple", given)], rules={rule: "drop_field"})
    assert (found.rows[rule].to_list(), found.rows["quarantined"].to_list()) == ([True], [False])
    assert found.rows["messages"][0][0]["content"] == "Name one."
    assert found.fixes.rows() == [(0, rule, "input", given, "")]


def test_broken_tools_can_be_dropped() -> None:
    found = examined(BAD["broken_tools"][:1], rules={"broken_tools": "drop_field"})
    assert (found.rows["broken_tools"].to_list(), found.rows["quarantined"].to_list()) == ([True], [False])
    assert found.rows["tools"].to_list() == [None]
    assert found.fixes.rows() == [(0, "broken_tools", "tools", "calculate_area(shape)", "")]
