# ruff: noqa: RUF001 (the signs that end sentences in other scripts look like ours)
r"""Tells answers that stop in the middle from answers that merely end without a full stop.

Words, numbers, titles, lists, code, links, signatures and poems end as they please. An answer is truncated when
something that it opened stays open (a code block, a page of HTML, a bracket), when it ends on a word or sign that
promises more ("and", "of the", a comma, an empty list item), or when a paragraph of whole sentences ends on half a one.
All expressions look at the answer without white space at its ends, most only at its last characters.
"""

from __future__ import annotations

import polars as pl

_SENTENCE_END = r"[.!?。！？…][\"'”’»)\]*_」』]*$"
_LETTER_END = r"[\p{L}\p{N},、，;；:：\-–]$"
_PROMISES_MORE = (
    r"[\p{L},;.)][ \n](?:[Tt]he|an?|and|or|but|of|[Ii]n|into|[Ww]ith|[Ff]or|from|that|which|who|whose|because|although|"
    r"while|their|its|"
    r"your|our|his|my|is|are|was|were|be|been|has|have|had|will|would|can|could|should|must|may|might|as|at|by|on|"
    r"than|such|these|those|this|if|when|where|very|not|de|la|le|les|des|der|die|das|und|et|y|que|"
    r"(?:and|but|or|because|that|as|if|when|while|so) (?:i|we|you|they|he|she|it))$"
)
_EMPTY_ITEM = r"\n\s*(?:\d{1,2}[.)、]|[-*•])$"
_MORE_TO_COME = r"[^\s\d][,、，]$|[\p{L}\d][:：]$"
_OPEN_BRACKET = r"[(（][^()（）\n]{0,60}$"
_HALF_SENTENCE = (
    # A line that holds a whole sentence and then, from a capital on, words without an end: four, or three of which two
    # are small, or two of which the first opens a clause.
    r"[a-z)\]\"'”’][.!?][\"'”’)]?\s+(?:\*\*)?[\"'“‘(]?(?:[A-Z][\w'’\-]*(?:[,;:]?\s+[\"'“‘(]?[\w'’$%\-–/]+[\"'”’)]?)"
    r"{3,}[,;–-]?"
    r"|[A-Z][a-z]*(?: [a-z]+){2}|(?:While|When|If|Although|Because|Since|For|In|To|By|With|As|Then) \S+)$"
)
_HALF_SENTENCE_CHINESE = r"[。！？，、][^。！？\n]*[\p{Han}，、][^。！？\n]{0,20}$"
_LISTS_LAST = r"(?:^|\n)\s*(?:[-*•#>|]|\d{1,3}[.)、:]|[A-Za-z][.)]|[^\n]{1,40}[:：][ \t])[^\n]*$"
_NO_PROSE_LAST = r"https?://\S+$|[#@]\w+$|[{}();=<>|\\]\s*\w*$|\n[^\n]{0,60}$|[-–—~]\s*[\"“*_]*\p{Lu}\S*(?:\s\S+){0,4}$"

OPENS_HINT = "```|<(?i:html)"
"""Matches every answer that opens a code block or a page."""

_TAIL = 400
"""Characters at the end of an answer that the expressions look at; half a sentence is shorter."""


def is_truncated(answer: pl.Expr) -> pl.Expr:
    """Return whether `answer` stops in the middle; precision before recall."""
    text = answer.str.strip_chars_end()
    tail = text.str.tail(_TAIL)
    no_end = tail.str.contains(_LETTER_END) & ~tail.str.contains(_SENTENCE_END)
    long = text.str.len_chars() >= 80
    fences = answer.str.contains("```", literal=True) & (answer.str.count_matches("(?m)^[ \t]*```") % 2 == 1)
    page = answer.str.contains("(?i)<html[ >]") & ~answer.str.contains("(?i)</html>")
    promises = tail.str.contains(_PROMISES_MORE) & (text.str.count_matches(" ") >= 7)
    open_bracket = long & tail.str.contains(_OPEN_BRACKET) & tail.str.contains(r"\p{L}$")
    prose = ~tail.str.contains(_NO_PROSE_LAST)
    half = prose & (text.str.len_chars() >= 200) & tail.str.contains(_HALF_SENTENCE)
    chinese = (text.str.len_chars() >= 100) & tail.str.contains(_HALF_SENTENCE_CHINESE)
    chinese &= ~tail.str.contains(_LISTS_LAST) & tail.str.contains(r"[\p{Han}，、\d]$")
    comma = long & tail.str.contains(_MORE_TO_COME)
    return (
        fences | page | tail.str.contains(_EMPTY_ITEM) | (no_end & (promises | comma | open_bracket | half | chinese))
    )


def may_be_truncated(answer: pl.Expr) -> pl.Expr:
    """Return False only for answers that are not truncated: they end a sentence, and opened no block and no page."""
    ends = answer.str.tail(_MARGIN).str.contains(r"[.!?。！？…][\"'”’»)\]*_」』]*\s*$")
    item = answer.str.tail(_MARGIN).str.contains(r"\n\s*(?:\d{1,2}[.)、]|[-*•])\s*$|^\s*$")
    return ~ends | item | answer.str.contains(OPENS_HINT)


def ends_plainly(answer: pl.Expr) -> pl.Expr:
    """Return True only for answers that end a sentence with a word: the cheapest look at most good ones."""
    return answer.str.contains(r"[A-Za-z][.!?]$")


_MARGIN = 20
