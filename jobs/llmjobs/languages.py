"""Tells the language of texts: by script, then by small English words, and only then by a model (py3langid)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import polars as pl

SAMPLE = 300
"""Characters of a text that are looked at: more changes hardly a verdict and costs in proportion."""

_SURE = 0.8
"""Share of the probability that the model must give its first guess; below, nobody can tell."""

_ENGLISH = (
    r"(?i-u)\b(?:the|of|and|to|with|this|that|for|you|are|your|from|it|is|in|on|as|be|can|an?|by|or|was|were|which|"
    r"what|how|why|who|when|where|have|has|had|not|their|they|will|these|some|use|using|following|given|sentence|"
    r"write|list|name|describe|explain|create|give|identify|generate|find|make|rewrite|classify|summari[sz]e|"
    r"here|he|his|she|her|i|my|we|our|more|than|then|into|about|if|but|so|one|two|three|five|all|also|there|do|does|"
    r"its|at|each|between|such|most|could|would|should|word|words|add|define|convert|suggest|following)\b"
)
_ENGLISH_ONLY = (
    r"(?i-u)\b(?:the|of|and|to|with|this|that|for|you|are|your|from|it|what|how|following|given|write|he|his|here|my|"
    r"their|they|which|could|would|should|about|explain|suggest|sentence|words?|between|each|why|when|where)\b"
)
_NO_PROSE = r"(?s)```.*?(?:```|$)|`[^`\n]*`|https?://\S+|<[^<>\n]{1,200}>"

_SCRIPTS = {
    "han": (r"\p{Han}", 2.5),
    "kana": (r"[\p{Hiragana}\p{Katakana}]", 2.0),
    "hangul": (r"\p{Hangul}", 2.5),
    "cyrillic": (r"\p{Cyrillic}", 1.0),
    "arabic": (r"\p{Arabic}", 1.0),
    "devanagari": (r"\p{Devanagari}", 1.0),
    "hebrew": (r"\p{Hebrew}", 1.0),
    "greek": (r"\p{Greek}", 1.0),
    "thai": (r"\p{Thai}", 1.0),
    "latin": (r"\p{Latin}", 1.0),
}
"""Script -> its letters, and to how many Latin letters one of them comes in a translation."""

_LANGUAGE_OF_SCRIPT = {"han": "zh", "kana": "ja", "hangul": "ko", "hebrew": "he", "greek": "el", "thai": "th"}
_LANGUAGES_OF_SCRIPT = {
    "cyrillic": ("ru", "uk", "bg", "sr", "be", "mk", "kk"),
    "arabic": ("ar", "fa", "ur", "ps", "ug"),
    "devanagari": ("hi", "mr", "ne"),
}
"""Of scripts with several languages; the first is taken where the model is in doubt."""

NOT_LATIN = {*_LANGUAGE_OF_SCRIPT.values(), *(code for codes in _LANGUAGES_OF_SCRIPT.values() for code in codes)}

_SAME_CODE = {"wuu": "zh", "yue": "zh", "nb": "no", "nn": "no"}
"""Codes of the model -> those that we use."""


def languages_of(texts: pl.Series) -> pl.Series:
    """Return the ISO 639-1 code of each text, null where it is too short, too mixed or too strange to tell."""
    sample = pl.DataFrame({"text": texts.str.head(SAMPLE)}).with_columns(
        text=pl.when(pl.col("text").str.contains(r"[`<]|://"))
        .then(pl.col("text").str.replace_all(_NO_PROSE, " "))
        .otherwise(pl.col("text"))
    )
    text = pl.col("text")
    table = sample.with_row_index("position").select(
        "position",
        "text",
        ascii=text.str.len_bytes() == text.str.len_chars(),
        english=is_english(text),
    )
    found = table.select(language=pl.when("english").then(pl.lit("en")))["language"]
    latin = table.filter(~pl.col("english") & pl.col("ascii"))
    scripts = _scripts_of(table.filter(~pl.col("ascii")))
    by_script = scripts.with_columns(language=pl.col("script").replace_strict(_LANGUAGE_OF_SCRIPT, default=None))
    settled = by_script.filter(pl.col("language").is_not_null())
    found = found.scatter(settled["position"], settled["language"])
    for script, languages in _LANGUAGES_OF_SCRIPT.items():
        several = scripts.filter(pl.col("script") == script)
        found = found.scatter(several["position"], _guessed(several["text"], languages))
    unsure = scripts.filter((pl.col("script") == "latin") & ~pl.col("english"))
    rest = pl.concat([latin.select("position", "text"), unsure.select("position", "text")])
    rest = rest.filter(pl.col("text").str.count_matches(r"\p{L}{2,}") >= 4, pl.col("text").str.len_chars() >= 20)
    found = found.scatter(rest["position"], _guessed(rest["text"]))
    # Small English words inside Chinese text do not make it English.
    other = scripts.filter(pl.col("english"), pl.col("script").is_null() | (pl.col("script") != "latin"))
    other = other.join(settled.select("position", "language"), on="position", how="left")
    return found.scatter(other["position"], other["language"])


def is_english(text: pl.Expr) -> pl.Expr:
    """Return whether a text has so many small English words that it is English."""
    words = text.str.count_matches(" ", literal=True) + 1
    return (
        (text.str.count_matches(_ENGLISH) * 5 >= words)
        & (text.str.count_matches(_ENGLISH) >= 2)
        & (text.str.contains(_ENGLISH_ONLY))
    )


def _scripts_of(table: pl.DataFrame) -> pl.DataFrame:
    """Add ``script``, the one that has three fifths of a text's letters, each weighed as `_SCRIPTS` says, or null."""
    text = pl.col("text")
    weighed = table.with_columns(
        (text.str.count_matches(letters) * weight).alias(script) for script, (letters, weight) in _SCRIPTS.items()
    )
    japanese = pl.col("kana") >= 0.1 * (pl.col("han") + pl.col("kana"))
    weighed = weighed.with_columns(total=pl.sum_horizontal(*_SCRIPTS))
    first = pl.coalesce(
        pl.when((pl.col(script) >= 0.6 * pl.col("total")) & (pl.col(script) >= 4)).then(pl.lit(script))
        for script in _SCRIPTS
    )
    written = pl.when((pl.col("kana") > 0) & japanese & (pl.col("han") + pl.col("kana") >= 0.6 * pl.col("total")))
    return weighed.select("position", "text", "english", script=written.then(pl.lit("kana")).otherwise(first))


def _guessed(texts: pl.Series, among: Collection[str] = ()) -> pl.Series:
    """Return the model's guess for each text: any language where it is sure, else the first of `among`, or null."""
    if texts.is_empty():
        return pl.Series(dtype=pl.String)
    identifier = _identifier(tuple(among))
    default = next(iter(among), None)
    once = {text: identifier.classify(text) for text in texts.unique()}
    guesses = [once[text] for text in texts]
    codes = [_SAME_CODE.get(code, code) if sure >= _SURE else default for code, sure in guesses]
    return pl.Series([code if code is not None and len(code) == 2 else default for code in codes], dtype=pl.String)


_IDENTIFIERS: dict[tuple[str, ...], Any] = {}


def _identifier(among: tuple[str, ...]) -> Any:
    """Return the model, loaded once a process (0.7 CPU s), told to choose from `among` where that is given."""
    if among not in _IDENTIFIERS:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        if among:
            identifier.set_languages([code for code in among if code in identifier.labels])
        _IDENTIFIERS[among] = identifier
    return _IDENTIFIERS[among]
