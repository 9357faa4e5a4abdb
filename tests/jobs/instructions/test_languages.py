"""Languages: cheap answers first, silence where nobody can tell, and mismatches only where they are clear."""
# ruff: noqa: RUF001 (Chinese texts have signs that look like ours)

import polars as pl
import pytest

from llmjobs import languages
from llmjobs.instructions.rules.languages import answers_in_another_language
from llmjobs.languages import languages_of

TEXTS = {
    "en": ["The cat sat on the mat and looked at the moon.", "Here is a list of the five largest cities in the world."],
    "de": ["Der Hund geht heute nach Hause, weil er sehr müde ist und schlafen möchte."],
    "fr": ["La capitale de la France est Paris, une ville qui compte beaucoup d'habitants."],
    "es": ["La capital de Francia es París y tiene muchos habitantes en sus barrios."],
    "zh": [
        "早餐可以吃鸡蛋、面包和水果。",
        "这是一个测试。",
        "基于给定名字 Hermione，这里是一份哈利波特系列角色的名称列表：Harry Potter",
    ],
    "ja": ["古池や蛙飛び込む水の音です。"],
    "ko": ["안녕하세요, 오늘은 날씨가 좋습니다."],
    "ru": ["Это небольшое предложение на русском языке, чтобы проверить работу."],
    "ar": ["هذه جملة قصيرة باللغة العربية للاختبار"],
    "hi": ["यह हिंदी में एक छोटा वाक्य है"],
    "el": ["Αυτή είναι μια μικρή πρόταση"],
    "th": ["นี่คือประโยคสั้น ๆ"],
}
UNTOLD = [
    "",
    "Paris",
    "42",
    "77.0°F",
    "a = b + c",
    "1. Yellow\n2. Orange\n3. Green",
    "Apple, Google, Tesla",
    "google.com",
]


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in TEXTS.items() for text in texts])
def test_language_is_told(code: str, text: str) -> None:
    assert languages_of(pl.Series([text])).to_list() == [code]


def test_nobody_guesses() -> None:
    assert languages_of(pl.Series(UNTOLD)).to_list() == [None] * len(UNTOLD)


def test_a_column_is_told_as_its_texts_are() -> None:
    pairs = [(text, code) for code, texts in TEXTS.items() for text in texts] + [(text, None) for text in UNTOLD]
    column = pl.Series([text for text, _ in pairs] * 3)
    assert languages_of(column).to_list() == [code for _, code in pairs] * 3


def test_plain_english_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_identifier", lambda among: pytest.fail("the model was asked"))
    assert languages_of(pl.Series([*TEXTS["en"], *TEXTS["zh"], *TEXTS["ko"]])).null_count() == 0


def test_code_and_links_say_nothing_about_the_language() -> None:
    answer = "```python\n# the sum of the two numbers and of this\nprint(a)\n```\n这个程序打印变量的值，然后结束运行。"
    assert languages_of(pl.Series([answer])).to_list() == ["zh"]


def mismatched(question: str, answer: str, allowed: tuple[str, ...] = (), given: str = "") -> bool:
    whole = f"{question}\n\n{given}" if given else question
    table = pl.DataFrame({"instruction": [question], "question": [whole], "answer": [answer]})
    table = table.with_columns(language=languages_of(table["answer"]))
    return answers_in_another_language(table, allowed).to_list() == [True]


def test_languages_of_question_and_answer_are_compared() -> None:
    assert mismatched("Why is the sky blue?", TEXTS["zh"][0] + TEXTS["zh"][1])
    assert mismatched("为什么天空是蓝色的？", TEXTS["en"][0])
    assert not mismatched("Why is the sky blue?", TEXTS["en"][0])
    assert not mismatched("Translate this into German.", TEXTS["de"][0])
    assert not mismatched(
        "Correct this sentence.", TEXTS["de"][0], given="Der Hund geht heute nach Haus, weil er müde ist."
    )
    assert not mismatched("为什么？", "OK, fine.")


def test_allowed_languages_replace_the_comparison() -> None:
    assert mismatched("Why is the sky blue?", TEXTS["en"][0], ("de",))
    assert not mismatched("Why is the sky blue?", TEXTS["de"][0], ("de", "fr"))
    assert not mismatched("Why?", "42", ("de",))
