# ruff: noqa: RUF001 (Chinese texts have signs that look like ours)
r"""The rule library: every rule of `RowRules` as a polars expression that is true for a row that breaks it.

Most rules look at one row of texts (`llmjobs.instructions.rules.examination` makes them), all without nulls:

* ``roles``: the roles of the turns, each followed by a space, an assistant turn with tool calls being ``call``:
  ``"user assistant "``
* ``instruction``, ``input``: of an Alpaca row; empty in a chat
* ``question``: the last user turn, whole (an Alpaca row's instruction, blank line, input)
* ``system``; ``asked``, ``answered``: all user turns, all assistant turns; ``answer``: the last of these
* ``empty_turns``: turns without text, the last answer aside; ``calls``: whether the last answer calls a tool
* ``characters``: of all turns

Dear rules are tried in steps, cheap ones first, each on the rows that the one before left. `HINT`, one expression for
all rules of `HINTS`, costs one pass over the texts, however many words it knows; it never misses a row (tests hold
hints and rules together). The regular expressions are those of Rust (no look-around). Defect classes:
github.com/gururise/AlpacaDataCleaned, README; each rule has golden rows in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from llmjobs.contracts.data_contract import DataContract
from llmjobs.instructions.rules.refusals import AI_NAME, AI_WORD, REFUSAL_HINT, may_refuse, refuses, speaks_for_others
from llmjobs.instructions.rules.truncation import OPENS_HINT, ends_plainly, is_truncated, may_be_truncated

RULES_VERSION = 3
"""Counted up with every change of what a rule catches or writes: part of each version's id."""

CONTROL = (
    r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F\x{AD}\x{200B}\x{2028}\x{2029}\x{202D}\x{202E}"
    r"\x{2060}-\x{2064}\x{FEFF}\x{FFF9}-\x{FFFB}]"
)
_LINE_SEPARATOR = r"[\x0B\x0C\x{85}\x{2028}\x{2029}]"


def without_control(text: pl.Expr) -> pl.Expr:
    """Return `text` without control and invisible characters; what separates lines becomes a line feed."""
    return text.str.replace_all(_LINE_SEPARATOR, "\n").str.replace_all(CONTROL, "")


_QUOTED = r"[\s<>\[\](){}`'\"*_.!。（）【】《》“”-]*"
NO_INPUT = (
    rf"(?i)^{_QUOTED}(?:(?:the\s+)?input\s*[:：]\s*)?(?:输入\s*[:：]\s*)?{_QUOTED}"
    r"(?:no[\s_-]*(?:additional[\s_-]*|further[\s_-]*)?inputs?"
    r"(?:\s+(?:is\s+|was\s+)?(?:required|needed|provided|necessary|given|available|specified))?"
    r"|(?:empty|without|blank)[\s_-]*inputs?|inputs?\s+(?:is\s+)?(?:not\s+(?:required|needed|provided|applicable)"
    r"|empty)"
    r"|n\s*/\s*a|not\s+applicable|none(?:\s+(?:required|needed|provided))?"
    rf"|(?:没有|无需?|不需要|未提供|暂无)(?:任何|额外的?)?(?:输入|内容)?|输入为?空|空(?:输入)?){_QUOTED}$"
)
URL_ONLY = (
    r"(?i)^\s*(?:(?:(?:url|link|article|website|source|page|web ?page|site|链接|网址|网站|输入)\s*[:：]\s*)*"
    r"[<(\[\"'“]?(?:https?://|www\.)[^\s，。]+\s*)+$"
)

_MOJIBAKE = r"\x{FFFD}|â€[™œ\x{9D}“”\x{2DC}¦]|Ã[©¨¤¶¼±³¡]|Â[\x{A0}£©®°]"
_PLACEHOLDER = (
    rf"(?i)^{_QUOTED}(?:n\s*/\s*a|no[\s_-]*(?:out|in)puts?|not\s+applicable|tbd|todo|nil|null|no\s+(?:answer|response)"
    rf"|\(?\s*(?:output|answer|response|your answer|insert (?:answer|output|response))(?:\s+(?:goes\s+)?here)|无输出"
    rf"|无){_QUOTED}$"
    r"|(?i)^\s*[<\[](?:image|img|picture|photo|video|audio|output|answer|web ?page|code|file|chart|graph|drawing|link)"
    r"(?:\s[^<>\[\]\n]{0,80})?/?[>\]]\s*$|^\s*(?:\.{2,}|…+|-+|_+)\s*$"
)
_AS_AI = (
    rf"(?i)\bas an? {AI_NAME}(?: language)?(?: model| assistant| system| chatbot| program| tool| bot)?"
    r"(?:,| i\b| i['\x{2019}]m\b| my\b| it\b|\.|;| -| and )"
    rf"|(?i)\bi(?: am|['\x{{2019}}]m) (?:just |only |merely |simply )?an? {AI_NAME}"
    r"|(?i)\b(?:i am|i['\x{2019}]m|my name is|call me) \w+,? (?:and i['\x{2019}]m |and i am )?an? "
    r"(?:large |ai |helpful )*(?:language model|assistant|chatbot|ai\b)"
    r"|(?i)\b(?:i (?:am|was)|i['\x{2019}]m|me,) (?:\w+, )?(?:[^.!?\n]{0,60}\b)?(?:created|trained|developed|made"
    r"|built|designed)"
    r" by (?:researchers|a team|openai|anthropic|google|meta|microsoft|large model|lmsys)"
    r"|(?i)\b(?:ai (?:assistant|model)|language model)s?,? (?:much )?like (?:myself|me)\b"
    r"|(?i)\byour (?:friendly )?ai assistant\b"
)
_AI_CHINESE = (
    r"(?:(?:一[个名款位种台只]|个|名|款)?\s*(?:大型|虚拟|智能|文字型?|文本|聊天|对话|计算机|电脑|自然|先进的?|基于[^，。]{0,12}的?"
    r"|语言|人工智能|AI|GPT|的|\s)*(?:人工智能|AI|机器人|语言模型|助手|计算机程序|语言AI))"
)
_AS_AI_CHINESE = (
    rf"(?:^|[，。！？；：、\s,.!（(“\"])(?:由于|因为|但|我|而|那么|，"
    rf"|\s)*作为{_AI_CHINESE}[^，。,\n]{{0,10}}[，,]?\s*(?:[^，。,\n]{{0,30}}[，,])?"
    r"[^，。\n]{0,10}我"
    rf"|(?:^|[^是说：:])我(?:只|仅仅?|就)?是{_AI_CHINESE}|我作为{_AI_CHINESE}|的(?:AI|人工智能)助手[。！\s]*$"
)
_AI_ASKED = (
    r"(?i)\b(?:write|compose|create|generate|design|imagine|role-?play)\b[^.?!\n]{0,60}\b(?:dialog\w*|conversation"
    r"|script"
    r"|story|monologue|scene|poem|song|play)\b|(?:对话|脚本|剧本|故事|诗)"
)
_TEMPLATE = (
    r"\{\{\s*[A-Za-z_][\w.\[\]'\"| ]*\}\}|\{%-?\s*(?:for|if|end|set|block|include|else)\b"
    r"|<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|\{(?:instruction|input|output|question|context|prompt|response)\}"
)
_STANDS_FOR_TEXT = (
    r"(?i)^\s*(?:[<\[{](?:insert )?(?:song|text|article|paragraph|passage|document|sentence|essay|story|poem|code|email"
    r"|input|your (?:text|input)|data|content)(?: here| goes here)?[>\]}])\s*(?:\n|$)"
)
_MERGED = (
    r"(?mi)^\s*(?:#+\s*)?\d+\s*\.\s*(?:instruction|指令|指示|任务说明)\s*[:：]"
    r"|(?mi)^\s*#{2,}\s*(?:Instruction|Response)\s*:|(?m)^\s*#{2,}\s*(?:指令|指示|回答|响应)\s*[:：]"
)
_PICTURE = r"(?:image|picture|photo|photograph|drawing|painting|sketch|illustration|cartoon|comic|meme|gif|infographic)"
_ORDERED = (
    r"(?:^|[.!?:;,\n\"'\x{201D}]\s*|\b(?:please|(?:can|could|would|will) you|(?:you|we) need to|help me|let['\x{2019}]s"
    r"|(?:i|we)(?: want| need| would like|['\x{2019}]d like)(?: you)? to|your task is to|try to) )"
)
"""What comes before an order, and not before a deed that a story tells."""
_IMAGE = (
    rf"(?i){_ORDERED}(?:draw|paint|sketch|photograph)\s+(?:me\s+)?(?:an?|the|some)\s+(?:[\w-]+\s+){{0,3}}?(?:picture|image"
    r"|portrait|"
    r"landscape|diagram|chart|graph|logo|cartoon|illustration|figure)\b"
    rf"|(?i){_ORDERED}(?:create|generate|make|produce|render|design|show|edit|draw|build|construct|prepare|develop"
    r"|come up with)\s+"
    r"(?:me\s+)?(?:an?|the|some|this)\s+(?:[\w-]+\s+){0,3}?(?:image|picture|photo|photograph|drawing|painting|sketch"
    r"|graphic"
    r"|infographic|(?:pie|bar|line|column) (?:chart|graph)|logo|poster|cartoon|illustration|collage|mood ?board|flyer)"
    r"(?:\s+(?:of|or|that|which|for|to|with|showing|depicting|illustrating|based|using|called|named|representing"
    r"|from)\b"
    r"|\s*[.!?,]?\s*$|\s*\n)"
    rf"|(?i)\b(?:following|attached|given|this|above|below|provided)\s+(?:[\w-]+\s+){{0,3}}?{_PICTURE}\b"
    rf"|(?i)\b(?:edit|crop|colou?ri[sz]e|resize|retouch|enhance|rotate)\s+(?:the|this|an?"
    rf"|my)\s+(?:[\w-]+\s+){{0,3}}?{_PICTURE}\b"
    rf"|(?i)[<\[(]\s*(?:an? |the |attached )?{_PICTURE}s?(?:\s+(?:attached|of|here|goes)\b[^>\])\n]{{0,60}}"
    rf"|\s*/?)[>\])]"
)
_PICTURE_CHINESE = (
    r"(?:图片|图像|照片|海报|插图|插画|饼图|饼状图|条形图|柱状图|柱形图|折线图|直方图|曲线图|散点图|图表|标志|徽标|商标|logo|LOGO|"
    r"漫画|画作|三维图形|示意图|思维导图)"
)
_IMAGE_CHINESE = (
    rf"(?:画|绘制|制作|生成|创建|设计|创作)[^。，,\n识别]{{0,24}}{_PICTURE_CHINESE}(?:[。，,.！!？?；;：:\s]|$|来|以|用于|展示|显示|表示|说明|比较)"
    r"|(?:这[幅张个副]|给定的?|以下|下面的?|下列|上述|附[上加]的?)[^。，,\n句文]{0,6}(?:图片|照片|图像|漫画|画作|图画|拼图|gif图?|海报)"
    r"|(?:形容|描述|解释|分析|评价|批评|欣赏)[^。，,\n句]{0,6}这[幅张](?:画|图)|画(?:一[张幅个只])"
)
_HOW_TO = (
    r"(?i)\bhow (?:can|do|to|would|could|should)\b|\b(?:code|program|script|function|python|matplotlib|javascript"
    r"|html|css"
    r"|svg|latex|plugin|recognition|classifier)\b|如何|怎样|怎么|代码|程序|识别|网页"
)
_PICTURES = (
    r"(?i)image|picture|photo|drawing|painting|sketch|graphic|chart|graph|logo|poster|cartoon|illustration|collage"
    r"|mood ?board"
    r"|flyer|portrait|landscape|diagram|figure|comic|meme|gif|[图画照海插标徽商漫]"
)
"""Words of which every image request has one."""
_CODE_BLOCK = r"(?s)```.*?```"
_EMPTY_BLOCK = r"^```[\w+#-]*\s*```$"
_TURNS_IN_ORDER = r"^(?:system )?(?:user (?:call (?:tool )+)*assistant )*user (?:call (?:tool )+)*(?:assistant|call) $"
"""Tools answer the call before them; the last turn of a row may itself be a call."""

HINTS = {
    "control_characters": CONTROL,
    "broken_encoding": _MOJIBAKE,
    "empty_code_block": "```",
    "unrendered_template": (
        r"\{\{|\{%|<\||INST\]|SYS>>|_of_turn>|\{(?:instruction|input|output|question|context|prompt|response)\}"
        r"|[<\[{](?i:insert |your )?(?i:song|text|article|paragraph|passage|document|sentence|essay|story|poem|code"
        r"|email|input|data|content)[ >\]}]"
    ),
    "merged_instructions": r"(?i:instruction|response)\s*[:：]|(?:指令|指示|任务说明|回答|响应)\s*[:：]",
    "speaks_as_ai": (
        rf"{AI_WORD}|(?i:assistant)"
        r"|(?i: by (?:researchers|a team|openai|anthropic|google|meta|microsoft|large model|lmsys))"
        r"|作为|我(?:只|仅仅?|就)?是|的(?:AI|人工智能)助手"
    ),
    "refusal": REFUSAL_HINT,
    "truncated_answer": OPENS_HINT,
}
"""Rule -> what a part of every row has that breaks it; `refusals` and `truncation` say what theirs leave out."""

HINT = "|".join(HINTS.values())
"""Matches what one of `HINTS` matches."""


def _prose(name: str) -> pl.Expr:
    """Return a text without its code blocks and code spans, where templates are no accident."""
    return pl.col(name).str.replace_all(_CODE_BLOCK, "").str.replace_all(r"`[^`\n]+`", "")


def normalised(text: pl.Expr) -> pl.Expr:
    """Return `text` in NFC, lower case, each run of white space one space: what duplicates and groups compare."""
    return text.str.normalize("NFC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def _any_text(pattern: str) -> pl.Expr:
    return pl.any_horizontal(pl.col(name).str.contains(pattern) for name in ("system", "asked", "answered"))


def _any_prose(pattern: str) -> pl.Expr:
    return pl.any_horizontal(_prose(name).str.contains(pattern) for name in ("system", "asked", "answered"))


def _might_equal(text: pl.Expr, other: pl.Expr) -> pl.Expr:
    """Return False only for texts that differ once normalised: both begin plainly, and not the same."""
    first, others = text.str.head(_PLAIN), other.str.head(_PLAIN)
    plain = first.str.contains(_PLAIN_TEXT) & others.str.contains(_PLAIN_TEXT)
    same = first.str.to_lowercase().str.head(_PLAIN - 1) == others.str.to_lowercase().str.head(_PLAIN - 1)
    return ~plain | same


_PLAIN = 8
_PLAIN_TEXT = r"^(?:[!-~] ?){4,8}$"
"""ASCII, single spaces, none at the beginning: normalising changes nothing but the case of such a beginning.

The last character is not compared: a combining sign may follow it.
"""


@dataclass(frozen=True)
class Rule:
    """When a row breaks a rule: where all its steps are true.

    Attributes:
        steps: The first is cheap and tried on every row, each other on the rows for which those before it are true.
        shortcuts: How many of the first steps only save time: those after them say all.
    """

    steps: tuple[pl.Expr, ...]
    shortcuts: int = 0


def library(contract: DataContract) -> dict[str, Rule]:
    """Return the rules that look at whole rows."""
    answer, question, instruction = pl.col("answer"), pl.col("question"), pl.col("instruction")
    hinted, has_text = pl.col("hinted"), answer.str.contains(r"\S")
    repeats = (normalised(answer) == normalised(question)) | (normalised(answer) == normalised(instruction))
    words_of_refusal = may_refuse(answer, answer.str.contains(REFUSAL_HINT))
    return _hinted_rules() | {
        "role_order": Rule((~pl.col("roles").str.contains(_TURNS_IN_ORDER),)),
        "empty_turn": Rule(((pl.col("empty_turns") > 0) | ~question.str.contains(r"\S"),)),
        "empty_answer": Rule((~has_text & ~pl.col("calls"),)),
        "placeholder_answer": Rule((answer.str.contains(_PLACEHOLDER),)),
        "url_only_input": Rule((question.str.contains(URL_ONLY),)),
        "refusal": Rule(
            (may_refuse(answer, hinted), words_of_refusal, refuses(answer), ~speaks_for_others(answer, question)), 2
        ),
        # A question begins with its instruction.
        "answer_repeats_question": Rule((_might_equal(answer, question), has_text & repeats), 1),
        "image_request": Rule((question.str.contains(_PICTURES), _asks_for_picture(question)), 1),
        "invalid_json_answer": Rule((pl.col("json_problem").is_not_null(),)),
        "truncated_answer": Rule((hinted | ~ends_plainly(answer), may_be_truncated(answer), is_truncated(answer)), 2),
        "too_long": Rule((pl.col("characters") > contract.limits.max_characters,)),
    }


def _hinted_rules() -> dict[str, Rule]:
    """Return the rules that are tried only on rows of which their part of `HINT` matches a text."""
    answer = pl.col("answer")
    blocks = answer.str.extract_all(_CODE_BLOCK)
    breaks = {
        "empty_code_block": blocks.list.eval(pl.element().str.contains(_EMPTY_BLOCK)).list.any(),
        "speaks_as_ai": (answer.str.contains(_AS_AI) | answer.str.contains(_AS_AI_CHINESE))
        & ~pl.col("question").str.contains(_AI_ASKED),
        "unrendered_template": _any_prose(_TEMPLATE) | pl.col("input").str.contains(_STANDS_FOR_TEXT),
        "merged_instructions": _any_text(_MERGED),
    }
    of_answer = {"empty_code_block", "speaks_as_ai"}
    likely = {
        name: answer.str.contains(HINTS[name]) if name in of_answer else _any_text(HINTS[name]) for name in breaks
    }
    rules = {name: Rule((pl.col("hinted"), likely[name], broken), 2) for name, broken in breaks.items()}
    return rules | {"broken_encoding": Rule((pl.col("hinted"), _any_text(_MOJIBAKE)), 1)}


def _asks_for_picture(question: pl.Expr) -> pl.Expr:
    """Return whether `question` asks for a picture, or about one; not how one is made, nor for code that makes one."""
    asks = question.str.contains(f"{_IMAGE}|{_IMAGE_CHINESE}")
    return asks & ~question.str.contains(_HOW_TO)


def flagged(texts: pl.DataFrame, contract: DataContract, *, hints: bool = True) -> pl.DataFrame:
    """Return one boolean column for each rule of `library` that is not off.

    Args:
        texts: As described above, and ``hinted``: whether `HINT` matches a part of the row.
        contract: What a row must look like.
        hints: False tries every rule on every row: slow, and with the same outcome.
    """
    steps = {
        name: rule.steps if hints else (pl.all_horizontal(rule.steps[rule.shortcuts :]),)
        for name, rule in library(contract).items()
        if getattr(contract.rules, name) != "off"
    }
    # Lazily, as only that shares what the first steps have in common.
    texts = texts.drop("messages", "tools", "tool_calls", strict=False).with_row_index("position")
    firsts = texts.lazy().select(step[0].fill_null(value=False).alias(name) for name, step in steps.items()).collect()
    columns = []
    for name, (_, *others) in steps.items():
        left = texts.filter(firsts[name])
        for step in others:
            left = left.filter(step)
        columns.append(marked(texts.height, left["position"], name))
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=texts.height)


def marked(height: int, positions: pl.Series, name: str) -> pl.Series:
    """Return a column of `height` booleans that is True at `positions`."""
    flags = pl.zeros(height, dtype=pl.UInt8, eager=True) == 1
    return (flags.scatter(positions, values=True) if positions.len() else flags).alias(name)
