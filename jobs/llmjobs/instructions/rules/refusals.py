# ruff: noqa: RUF001 (Chinese texts have signs that look like ours)
"""Tells answers that refuse, excuse themselves, or ask for what they need, from words that somebody else says."""

from __future__ import annotations

import polars as pl

_APOLOGY = (
    r"(?:i['\x{2019}]?m (?:very |so |really |truly )?sorry|i am (?:very |so |really )?sorry|sorry|i apologi[sz]e"
    r"|my apologies|apologies|unfortunately|i regret|i['\x{2019}]m afraid)"
)
_NOT = r"(?: not|n['\x{2019}]t)"
_UNABLE = (
    rf"(?:i (?:currently |also |still |really )?(?:can ?not|can['\x{{2019}}]t|could ?n[o'\x{{2019}}]t|do{_NOT}"
    rf"|am (?:not|unable|an? |only|just)"
    r"|was unable|need (?:more|you|some|additional|further)|won['\x{2019}]t|will not)"
    rf"|i['\x{{2019}}]m (?:not|unable|an? |only|just)|you (?:did{_NOT}|have{_NOT}|need to|haven)"
    rf"|(?:the|your|there|this|that|no|it) [^.!?\n]*(?:is{_NOT}|is no|are{_NOT}|was{_NOT}|were{_NOT}|missing))"
)
_DO = (
    r"(?:help|assist|fulfil|comply|provide|answer|creat|generat|draw|display|access|complet|do (?:that|this|so)"
    r"|determin"
    r"|give|know|predict|perform|tell|retriev|search|read|open|view|perceiv|produc|mak|send|play|schedul|estimat"
    r"|describ"
    r"|shar|offer|write|brows|visit|edit|manipulat|find|say|accurately|directly|physically|summari[sz]|order|book"
    r"|purchas|recommend|show|analy[sz]|identify|modify|chang|cook|call|fetch|execut|watch|listen|hear|see (?:the"
    r"|your|an)"
    r"|use the|process|evaluat|judg|assess|choos|comment|confirm|verify|calculat|translat|rewrit|respond|suggest"
    r"|present|render|illustrat|track|set|turn|add|remov|guarantee|forecast)"
)
_CANNOT = (
    r"\b(?:i(?: am|['\x{2019}]m)?|so|and|thus|therefore) (?:currently )?(?:can ?not|can['\x{2019}]t|unable to"
    r"|not able to|not capable of|won['\x{2019}]t(?: be able to)?|will not(?: be able to)?) "
)
_COULD_NOT = r"\bi could ?n[o'\x{2019}]t "
_CANNOT_DO = (
    rf"(?:{_CANNOT}(?:actually |currently |really )?{_DO}"
    rf"|{_COULD_NOT}(?:find|access|locate|open|retrieve|determine|identify))"
)
_DO_NOT = rf"\b(?:i|and) do{_NOT} "
_LACKS = (
    rf"{_DO_NOT}(?:currently |actually )?(?:have|possess) (?:the (?:ability|capability|capacity|data"
    rf"|information"
    rf"|means)"
    r"|(?:direct |any |real[- ]time )?access|enough|sufficient|any (?:information|data|details|context)|information"
    r"|(?:real[- ]time|up[- ]to[- ]date|current) )"
)
_ASKS_FOR = (
    r"(?:(?:could|can|would) you (?:please |kindly |be able to )?(?:provide|specify|clarify|tell me|share|give"
    r"|let me know)"
    r"|(?:please|kindly) (?:provide|specify|clarify|share|tell me|let me know|give me|supply|include|enter|upload)"
    r"|i(?:['\x{2019}]ll| will| would|['\x{2019}]d)? need (?:to know |you to |some |a bit )?"
    r"(?:more|additional|further))"
)
_I_NEED = r"i (?:would |will |['\x{2019}]ll )?(?:need|require)"
_ASKS = rf"(?:{_ASKS_FOR}|(?:to|in order to) [^.!?\n]*{_I_NEED})"
AI_NAME = (
    r"(?:(?:large |virtual |digital |text-based |machine |helpful |computer )*"
    r"(?:ai|artificial intelligence|language model|chat ?bot|llm)\b)"
)
AI_WORD = r"(?-u:\b)(?i:ai|llm)(?-u:\b)|(?i:artificial intelligence|language model|chat ?bot)"
"""Matches every text that matches `AI_NAME` after a space."""
_APOLOGISES = rf"(?i)^\W*(?:hello[!,.] |hi[!,.] |oh,? |well,? )?{_APOLOGY}"
_IS_IMPOSSIBLE = r"(?i)^\W*it(?: is|['\x{2019}]s| would be) (?:not possible|impossible|difficult|hard) "
_CANNOT_HELP = (
    r"i (?:can ?not|can['\x{2019}]t|am unable to|am not able to) (?:answer|assist|help (?:you )?with|comply"
    r"|fulfil|provide|share)"
)
_REFUSAL = (
    rf"{_APOLOGISES}\b[^.!?\n]*?\b{_UNABLE}"
    rf"|(?i)^\W*(?:[^.!?\n]*?)(?:{_CANNOT_DO}|{_LACKS})"
    rf"|(?i)^[^\n]*\b{_CANNOT_HELP}\b"
    rf"|{_IS_IMPOSSIBLE}(?:for me )?to [^.!?\n]*\bwithout"
)
_SAYS_WHAT_IS_MISSING = (
    rf"(?i)^\W*(?:there (?:is|are)(?: not|n['\x{{2019}}]t)? (?:enough|sufficient|not|no|insufficient)|not enough"
    rf"|insufficient)"
    r" [^.!?\n]*(?:information|context|data|details)"
    r"|(?i)^\W*(?:the|your|this) (?:given |provided )?(?:input|question|instruction|prompt|sentence|text|request"
    r"|statement"
    r"|article|passage|information|data)[^.!?\n]* (?:is|was|are|seems|appears)(?: to be)? (?:incomplete|missing"
    r"|unclear|empty"
    r"|not (?:provided|given|clear|specified|enough|sufficient))"
    r"|(?i)^\W*no [^.!?,\n]* (?:was|were|is|are|has been|have been) (?:provided|given|specified)"
    rf"|(?i)^\W*(?:it (?:seems|looks|appears) (?:like |that )?)?you (?:have{_NOT}|did{_NOT}|forgot to) "
    r"(?:provid|specif|includ|giv|mention|attach)"
    r"|(?i)^\W*it (?:seems|looks|appears) [^.!?\n]*(?:missing|incomplete|not provided|no (?:text|input|article|image"
    r"|file))"
    r"|(?i)^\W*without (?:more|further|additional|any|knowing|access|context|the|a|specific)[^.!?\n]* (?:it(?: is"
    r"|['\x{2019}]s) "
    r"(?:not possible|impossible|difficult|hard)|i (?:can ?not|can['\x{2019}]t|am unable))"
    r"|(?i)^\W*i(?:['\x{2019}]d| would|['\x{2019}]ll| will)? need (?:to know|to see|more|some more|you to|additional"
    r"|further)\b"
)
_REFUSAL_OF_AI = (
    rf"(?i)^[^\n]*?\b(?:as an? |i am an? |i['\x{{2019}}]m an? "
    rf"|an? ){AI_NAME}[^\n]*?(?:{_CANNOT_DO}|{_LACKS}"
    r"|\bi (?:would )?need (?:more|additional|further) (?:context|information|details))"
)
_ASKS_BACK = rf"(?i)^\W*(?:[^.!?\n]*[.!,] ){{0,2}}{_ASKS}[^\n]*$"
REFUSAL_HINT = rf"(?i:{_ASKS_FOR}|{_I_NEED}|{_CANNOT_HELP})|{AI_WORD}"
"""Matches every text of ASCII that refuses otherwise than with its first words (`_BEGINS`)."""

_BEGINS = (
    rf"{_APOLOGISES}|{_IS_IMPOSSIBLE}|(?i)^\W*[^.!?\n]*?(?:{_CANNOT}|{_COULD_NOT}|{_DO_NOT})|{_SAYS_WHAT_IS_MISSING}"
)
"""What the first words of a refusal in ASCII hold; it ends with the first sentence, which makes it cheap."""

_SORRY_CHINESE = r"(?:抱歉|对不起|不好意思|遗憾)"
_UNABLE_CHINESE = (
    r"(?:无法|不能|没有(?:给|能力|提供|任何|足够|指定|说明|实时|权限|办法|访问|能力|收到|看到|可以|告诉|附上|具体)|没办法|未(?:能)?"
    r"(?:给|提供|指定|说明|收到|明确|知)|不具备|不支持|不知道|不确定|不可以|不明白|不清楚|不完整|不明确|不足|缺少|缺乏|难以|需要(?:更多|您|你|提供|知道)|请提供|并?未提供)"
)
_TASK_CHINESE = (
    r"(?:对[^，。]*)?(?:直接|准确地?|真正地?|在[^，。]*)?(?:为|给|提供|生成|创建|访问|获取|看到|看|回答|执行|评估|描述|找到|找|做出|制作|绘制|"
    r"录制|查询|预测|判断|确定|确认|读|拿|选出|选择|总结|分析|评价|评论|完成|处理|写|画|物理|打开|播放|知道|进行(?:评|判|分|总|比))"
)
_REFUSAL_CHINESE = (
    rf"^[^。！？\n]*{_SORRY_CHINESE}[^。！？\n]*{_UNABLE_CHINESE}"
    r"|^[^。！？\n]*(?:AI|人工智能|模型|机器人|程序|助手)[^。！？\n]*(?:不能|无法|没办法|没有办法|不具备|不知道)"
    rf"{_TASK_CHINESE}"
    r"|^[^。！？\n]*[您你](?:并|还|仍|尚)?(?:没有|未)(?:给出?|提供|告诉|指定|说明|明确|附)"
    rf"|^[^\n]*(?:因此|所以)[，,]?我(?:也|就)?(?:无法|不能|没办法){_TASK_CHINESE}"
    r"|^(?:好的[，。！]?)?请(?:您|你)?(?:先|再)?(?:提供|告诉我|给我|输入|发送|说明|指定|上传)[^。！？\n]*(?:才能|以便|这样|方便|我(?:就|会|将))"
    rf"|^[^。！？\n]*我(?:还)?(?:并)?(?:无法|不能|没办法|没有办法|没有能力){_TASK_CHINESE}"
)
_SYMPATHY_CHINESE = r"(?:抱歉|遗憾|难过)(?:地)?(?:听|得知|看到|知道|收到这)"
_ASKS_BACK_CHINESE = (
    r"(?:请|麻烦|能否|可否|需要|如果)(?:您|你)?(?:能够|能|可以|再|先|进一步)?(?:重新)?(?:提供|给出|补充|上传|告知|指定|给我)(?:更多|具体|详细|相关|一|所|需|要"
    r"|您|你|有关|完整|这|该|给定|文|句|信|内|数|图)"
)
_SPOKEN_FOR = (
    r"(?i)\b(?:write|compose|draft|generate|create|make|give|provide|suggest|design|craft|come up|prepare|construct"
    r"|add)\b"
    r"[^.?!\n]{0,60}\b(?:excuse|apolog\w*|letter|e-?mail|dialog\w*|conversation|script|story|tweet|message|reply"
    r"|response"
    r"|speech|note|poem|song|monologue|scene|review|sentence|comment)\b"
    r"|(?i)\b(?:apologi[sz]e|decline|turn(?:ing)? down|reject|role-?play|paraphras|rewrite|rephrase|repl(?:y|ies)\b"
    r"|respond to)"
    r"|道歉|致歉|辞职|拒绝|写[^。\n]{0,12}(?:信(?:[。，,：:；给以来并向\s]|$)|邮件|回复|对话|脚本|故事|短信|台词)|对话|改写"
)
"""Prompts that ask for words which somebody else says: there an apology is the task, no refusal."""


def refuses(answer: pl.Expr) -> pl.Expr:
    """Return whether `answer` refuses, excuses itself, or asks for what it needs instead of answering.

    Only its beginning is looked at. A counted repetition in the expressions instead would cost twenty times as much.
    """
    begins = answer.str.head(_OPENING)
    length = answer.str.len_chars()
    asks = (length <= 2 * _OPENING) & answer.str.contains(_ASKS_BACK)
    asks |= (length <= _OPENING) & answer.str.contains(_ASKS_BACK_CHINESE)
    says = begins.str.contains(_REFUSAL) | begins.str.contains(_SAYS_WHAT_IS_MISSING)
    return (
        says | asks | begins.str.contains(_REFUSAL_CHINESE) | answer.str.head(2 * _OPENING).str.contains(_REFUSAL_OF_AI)
    )


def may_refuse(answer: pl.Expr, hinted: pl.Expr) -> pl.Expr:
    """Return False only for answers that refuse nothing.

    Args:
        answer: The answers.
        hinted: Whether `REFUSAL_HINT` matches them, at least.
    """
    is_ascii = answer.str.len_bytes() == answer.str.len_chars()
    return ~is_ascii | hinted | answer.str.head(_OPENING).str.contains(_BEGINS)


def speaks_for_others(answer: pl.Expr, question: pl.Expr) -> pl.Expr:
    """Return whether an apology is the task, or sympathy: no refusal."""
    return question.str.contains(_SPOKEN_FOR) | answer.str.head(_OPENING).str.contains(_SYMPATHY_CHINESE)


_OPENING = 220
"""Characters of an answer in which it refuses, if it does; of one that calls itself an AI, twice as many."""
