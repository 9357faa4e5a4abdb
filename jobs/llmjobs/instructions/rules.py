r"""The rule library: every rule of `RowRules` as a polars expression that is true for a row that breaks it.

Most rules look at one row of texts (`llmjobs.instructions.examination` makes them):

* ``roles``: the roles of the turns, each followed by a space: ``"user assistant "``
* ``instruction``, ``input``: of an Alpaca row; empty in a chat
* ``question``: the last user turn, whole (an Alpaca row's instruction, blank line, input)
* ``asked``, ``answered``: all user turns, all assistant turns; ``answer``: the last of these
* ``empty_turns``: turns without text, the last answer and question aside; ``characters``: of all turns

Repair rules look at single parts instead and know what to write in their place. The regular expressions are those of
Rust (no look-around). Defect classes: github.com/gururise/AlpacaDataCleaned, README; each rule has golden rows in the
tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from llmjobs.contracts.instructions import DataContract

RULES_VERSION = 1
"""Counted up with every change of what a rule catches or writes: part of each version's id."""


@dataclass(frozen=True)
class Repair:
    """How a rule repairs one part of a row.

    Attributes:
        concerns: True for the parts that the rule looks at; over the columns ``part`` and ``text``.
        repaired: From the text as it is to the text as it should be.
    """

    concerns: pl.Expr
    repaired: Callable[[pl.Expr], pl.Expr]


_CONTROL = r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\x{200B}\x{2060}\x{FEFF}]"
_QUOTED = r"[\s<>\[\](){}`'\"*_.!-]*"
_NO_INPUT = (
    rf"(?i)^{_QUOTED}(?:no[\s_-]*inputs?(?:\s+(?:is\s+|was\s+)?(?:required|needed|provided|necessary|given|available))?"
    rf"|n\s*/\s*a|not\s+applicable|none(?:\s+(?:required|needed|provided))?|无输入|无需输入){_QUOTED}$"
)

REPAIRS: dict[str, Repair] = {
    "control_characters": Repair(pl.lit(value=True), lambda text: text.str.replace_all(_CONTROL, "")),
    "no_input_marker": Repair(pl.col("part") == "input", lambda text: text.str.replace(_NO_INPUT, "")),
}
"""In the order in which they are applied: a marker may hide behind an invisible character."""

_MOJIBAKE = r"\x{FFFD}|â€[™œ\x{9D}“”\x{2DC}¦]|Ã[©¨¤¶¼±³¡]|Â[\x{A0}£©®°]"
_PLACEHOLDER = (
    rf"(?i)^{_QUOTED}(?:n\s*/\s*a|no[\s_-]*outputs?|not\s+applicable|tbd|todo|nil|null){_QUOTED}$"
    r"|(?i)^\s*<\s*(?:image|img|picture|video|audio)\s*/?\s*>\s*$|^\s*(?:\.{2,}|…)\s*$"
)
_URL_ONLY = r"(?i)^\s*(?:(?:url|link|article|website|source|page)\s*:\s*)?(?:[<(\[\"']?(?:https?://|www\.)\S+\s*)+$"
_APOLOGY = (
    r"(?:i['\x{2019}]?m (?:very |so |really )?sorry|i am (?:very |so )?sorry|sorry|i apologi[sz]e|my apologies"
    r"|unfortunately)"
)
_UNABLE = (
    r"(?:i (?:can ?not|can['\x{2019}]?t|could ?n[o'\x{2019}]t|do(?: not|n['\x{2019}]t)|am (?:not|unable|an ai)"
    r"|was unable|need more)"
    r"|i['\x{2019}]m (?:not|unable|an ai)|you (?:did(?: not|n['\x{2019}]t)|have(?: not|n['\x{2019}]t)|need to)"
    r"|(?:the|your) [^.!?\n]{0,60}(?:is(?: not|n['\x{2019}]t)|are(?: not|n['\x{2019}]t)))"
)
_REFUSAL = (
    rf"(?i)^\W*{_APOLOGY}\b[^.!?\n]{{0,60}}?\b{_UNABLE}"
    r"|(?i)^\W*i(?: am|['\x{2019}]m)? (?:can ?not|can['\x{2019}]?t|unable to|not able to|won['\x{2019}]?t|will not) "
    r"(?:help|assist|fulfil|comply|provide|answer|create|generate|draw|display|access|complete|do that|do this)"
    r"|(?i)^\W*i do(?: not|n['\x{2019}]t) have (?:the ability|the capability|access|enough information)"
)
_SPOKEN_FOR = (
    r"(?i)\b(?:write|compose|draft|generate|create|make|give|provide|suggest|design)\b[^.?!\n]{0,60}\b"
    r"(?:excuse|apolog\w*|letter|e-?mail|dialog\w*|conversation|script|story|tweet|message|reply|response|speech|note)\b"
    r"|(?i)\b(?:apologi[sz]e|decline|turn(?:ing)? down|reject|role-?play)"
)
"""Prompts that ask for words which somebody else says: there an apology is the task, no refusal."""

_AS_AI = (
    r"(?i)\bas an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant| system| chatbot)?"
    r"(?:,| i\b| i['\x{2019}]m\b| my\b| it\b)"
    r"|(?i)\bi(?: am|['\x{2019}]m) (?:just |only |merely )?an? "
    r"(?:ai\b|artificial intelligence|(?:large )?language model)"
)
_TEMPLATE = (
    r"\{\{\s*[A-Za-z_][\w.\[\]'\"| ]*\}\}|\{%-?\s*(?:for|if|end|set|block|include|else)\b"
    r"|<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|\{(?:instruction|input|output|question|context|prompt|response)\}"
)
_MERGED = (
    r"(?mi)^\s*(?:#+\s*)?\d+\s*\.\s*instruction\s*:"
    r"|(?m)^\s*#{2,}\s*(?:Instruction|Response)\s*:"
)
_IMAGE = (
    r"(?i)\b(?:draw|paint|sketch|photograph)\s+(?:me\s+)?(?:an?|the|some)\s+(?:\w+\s+){0,3}?(?:picture|image|portrait|"
    r"landscape|diagram|chart|graph|logo|cartoon|illustration|figure)\b"
    r"|(?i)\b(?:create|generate|make|produce|render|design|show)\s+(?:me\s+)?(?:an?|the|some)\s+(?:\w+\s+){0,3}?"
    r"(?:image|picture|photo|photograph|drawing|painting|sketch|(?:pie|bar|line) (?:chart|graph)|logo|poster)"
    r"(?:\s+(?:of|that|which|for|to|with|showing|depicting|illustrating|based|using|called|named)\b|\s*[.!?]?\s*$)"
    r"|(?i)\b(?:following|attached|given|this|above|below)\s+(?:[\w-]+\s+){0,3}?(?:image|picture|photo|photograph)\b"
    r"|(?i)<\s*image\s*>"
)
_TURNS_IN_ORDER = r"^(?:system )?(?:user assistant )+$"
_CODE_BLOCK = r"(?s)```.*?```"
_EMPTY_BLOCK = r"^```[\w+#-]*\s*```$"


def _column(name: str) -> pl.Expr:
    return pl.col(name).fill_null("")


def _prose(name: str) -> pl.Expr:
    """Return a text without its code blocks and code spans, where templates are no accident."""
    return _column(name).str.replace_all(_CODE_BLOCK, "").str.replace_all(r"`[^`\n]+`", "")


def normalised(text: pl.Expr) -> pl.Expr:
    """Return `text` in NFC, lower case, each run of white space one space: what duplicates and groups compare."""
    return text.str.normalize("NFC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def flags(contract: DataContract) -> list[pl.Expr]:
    """Return the rules that look at whole rows, one boolean expression each, named after its rule."""
    answer, question, instruction = _column("answer"), _column("question"), _column("instruction")
    found = {
        "broken_encoding": _any_text(_MOJIBAKE),
        "role_order": ~_column("roles").str.contains(_TURNS_IN_ORDER),
        "empty_turn": (pl.col("empty_turns") > 0) | (question.str.strip_chars() == ""),
        "empty_answer": answer.str.strip_chars() == "",
        "placeholder_answer": answer.str.contains(_PLACEHOLDER),
        "empty_code_block": answer.str.extract_all(_CODE_BLOCK)
        .list.eval(pl.element().str.contains(_EMPTY_BLOCK))
        .list.any(),
        "url_only_input": _column("input").str.contains(_URL_ONLY) | question.str.contains(_URL_ONLY),
        "refusal": answer.str.contains(_REFUSAL) & ~question.str.contains(_SPOKEN_FOR),
        "speaks_as_ai": _column("answered").str.contains(_AS_AI),
        "unrendered_template": _any_prose(_TEMPLATE),
        "merged_instructions": _any_text(_MERGED),
        "answer_repeats_question": (answer.str.strip_chars() != "")
        & ((normalised(answer) == normalised(question)) | (normalised(answer) == normalised(instruction))),
        "image_request": question.str.contains(_IMAGE),
        "invalid_json_answer": pl.col("json_problem").is_not_null(),
        "truncated_answer": pl.lit(value=False),
        "language_mismatch": pl.lit(value=False),
        "broken_tools": pl.lit(value=False),
        "too_many_tokens": pl.lit(value=False),
        "too_long": pl.col("characters") > contract.limits.max_characters,
    }
    return [expression.fill_null(value=False).alias(name) for name, expression in found.items()]


def _any_text(pattern: str) -> pl.Expr:
    return pl.any_horizontal(_column(name).str.contains(pattern) for name in ("system", "asked", "answered"))


def _any_prose(pattern: str) -> pl.Expr:
    return pl.any_horizontal(_prose(name).str.contains(pattern) for name in ("system", "asked", "answered"))
