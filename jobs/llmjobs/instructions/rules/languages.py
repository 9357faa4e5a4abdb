"""Tells which answers are in another language than they should be."""

from __future__ import annotations

import polars as pl

from llmjobs.languages import NOT_LATIN, SAMPLE, is_english, languages_of

_ENGLISH_TASK = (
    r"^(?i-u:name|generate|create|explain|give|identify|find|make|rewrite|write|classify|summari[sz]e|suggest|define|"
    r"convert|categori[sz]e|compare|compose|construct|list|provide|add|calculate|change|edit|organi[sz]e|output|"
    r"translate|state|tell|come up|design|develop|discuss|evaluate|arrange|analy[sz]e|predict|propose|select|sort)\s"
)
"""How most English instructions begin; no text of another language does."""
_ABOUT_LANGUAGE = (
    r"(?i)translat|language|multilingual|bilingual|idiom|proverb|lyrics|\bquote|phrase in|palindrome|transliterat"
    r"|\b(?:english|french|spanish|german|italian|portuguese|dutch|polish|russian|ukrainian|turkish|arabic|hebrew|"
    r"persian|hindi|urdu|bengali|chinese|mandarin|cantonese|japanese|korean|vietnamese|thai|indonesian|malay|latin|"
    r"greek|swedish|norwegian|danish|finnish|czech|hungarian|romanian|swahili|tagalog)\b"
    r"|翻译|译成|译为|译文|语言|[英法德日韩俄中汉外]文|[英法德日韩俄汉外]语|西班牙语|普通话|引用|歌词|原文|成语|谚语|双语"
    r"|[“\"'「][A-Za-z][A-Za-z' -]*[”\"'」][^。]{0,24}句|句[^。]{0,10}[“\"'「][A-Za-z]"
)
"""Tasks in which another language is what was asked for, a sentence with a word of it among them."""

_ABOUT_CODE = (
    r"(?i)\b(?:code|coding|program|script|function|algorithm|sql|html|css|regex|regular expression|json)\b"
    r"|代码|程序|函数|编程|脚本|正则|算法|用户名|网址"
)
"""Tasks whose whole answer may be code; what stands beside a code block is compared."""

_LONG_ANSWER = 25
"""Characters of an answer from which its language is compared; of Chinese, Japanese and Korean a third."""


def answers_in_another_language(texts: pl.DataFrame, languages: tuple[str, ...]) -> pl.Series:
    """Return whether each answer is in another language than it should be.

    Args:
        texts: ``instruction`` (null or empty in a chat), ``question``, ``answer`` and ``language``, that of the answer.
        languages: Those that an answer may be in; none: that of its question.
    """
    answer, language = pl.col("answer"), pl.col("language")
    dense = language.is_in(["zh", "ja", "ko"])
    long = answer.str.len_chars() >= pl.when(dense).then(_LONG_ANSWER // 3).otherwise(_LONG_ANSWER)
    told = texts.with_row_index("position").filter(long & language.is_not_null())
    wrong = told.filter(~language.is_in(list(languages))) if languages else _unlike_question(told)
    flags = pl.Series([False]).new_from_index(0, texts.height)
    return flags.scatter(wrong["position"], values=True) if wrong.height else flags


def _unlike_question(told: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose answer's language is neither that of the instruction nor that of its input."""
    question, language = pl.col("question"), pl.col("language")
    asked = pl.coalesce(pl.when(pl.col("instruction") != "").then(pl.col("instruction")), question)
    sample = asked.str.head(SAMPLE)
    english = (language == "en") & (sample.str.contains(_ENGLISH_TASK) | is_english(sample))
    code = question.str.contains(_ABOUT_CODE) & ~pl.col("answer").str.contains("```", literal=True)
    rows = told.filter(~english).filter(~question.str.contains(_ABOUT_LANGUAGE) & ~code).with_columns(asked=asked)
    rows = rows.with_columns(
        of_instruction=languages_of(rows["asked"]),
        of_question=languages_of(rows["question"].str.tail(SAMPLE)),
    )
    latin = pl.col("asked").str.contains(r"^[\x00-\x7F]*$") & (pl.col("asked").str.count_matches("[A-Za-z]{2,}") >= 3)
    foreign = language.is_in(list(NOT_LATIN))
    few_latin = pl.col("asked").str.count_matches("[A-Za-z]{2,}") <= 2
    chinese = few_latin & (pl.col("asked").str.count_matches(r"\p{Han}") >= 2) & (language == "en")
    by_script = pl.when(latin & foreign).then(pl.lit("latin")).when(chinese).then(pl.lit("zh"))
    instruction = pl.col("of_instruction").fill_null(by_script)
    return rows.filter((instruction != language) & (pl.col("of_question").fill_null("") != language))
