"""Finds API keys and private keys in a text: forms of known providers, told from placeholders by their randomness."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

Span = tuple[int, int]
"""Begin and end of a finding, as characters of the text."""

_FORMS = (
    r"sk-(?:[a-z0-9]{2,10}-)*(?P<sk>[A-Za-z0-9_-]{20,})",  # OpenAI, Anthropic, OpenRouter
    r"(?:AKIA|ASIA)(?P<aws>[A-Z0-9]{16})",
    r"gh[pousr]_(?P<github>[A-Za-z0-9]{36,255})",
    r"github_pat_(?P<pat>[A-Za-z0-9_]{22,255})",
    r"glpat-(?P<gitlab>[A-Za-z0-9_-]{20,})",
    r"AIza(?P<google>[A-Za-z0-9_-]{35})",
    r"xox[abeoprs]-(?P<slack>[A-Za-z0-9-]{10,})",
    r"[sr]k_(?:live|test)_(?P<stripe>[A-Za-z0-9]{16,})",
    r"hf_(?P<hf>[A-Za-z0-9]{30,})",
    r"npm_(?P<npm>[A-Za-z0-9]{36})",
    r"SG\.(?P<sendgrid>[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50})",
    r"eyJ[A-Za-z0-9_-]{8,}\.(?P<jwt>eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,})",
)
_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_FORMS)})(?![A-Za-z0-9_])")
_BEARER = re.compile(r"\b[Bb]earer\s+(?P<token>[A-Za-z0-9._~+/-]{20,}={0,2})")
_AWS_SECRET = re.compile(
    r"(?i)aws.{0,20}secret.{0,20}[=:]\s*[\"']?(?-i:(?P<token>[A-Za-z0-9/+]{40}))(?![A-Za-z0-9/+=])"
)
_STANDS_FOR = re.compile(
    r"(?i)example|your|xxxx|placeholder|redacted|insert|dummy|\.\.\.|secret[-_]?key|api[-_]?key|token|\*\*\*|"
    r"(.)\1{7}"
)
"""Words and runs that only a placeholder has: ``sk-your-key-here``, ``AKIAIOSFODNN7EXAMPLE``, ``ghp_xxxxxxxx``."""

_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?P<body>(?:(?!-----BEGIN)[\s\S]){0,20000}?)-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"|(?P<open>(?:\s|\\[nr])*(?:[\w-]+: [^\n]*\n\s*)*(?:[A-Za-z0-9+/=]{16,}(?:\s|\\[nr])*)+"
    r"(?:[A-Za-z0-9+/]{0,15}={1,2})?))"
)
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/=]{16,}")

KEY_HINT = (
    r"(?-u:\b(?:sk-|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|AIza|xox[abeoprs]-|[sr]k_(?:live|test)_|hf_|npm_|SG\.|eyJ"
    r"|[Bb]earer\b)|(?i:aws))"
)
"""Rust syntax: matches every text in which `api_keys` finds something, and few others."""

PEM_HINT = r"PRIVATE KEY"
"""As `KEY_HINT`, for `private_keys`."""


def api_keys(text: str) -> Iterator[Span]:
    """Yield where keys of known providers, bearer tokens and AWS secrets stand."""
    for match in _KEY.finditer(text):
        if _is_random(next(group for group in match.groups() if group is not None)):
            yield match.span()
    for pattern in (_BEARER, _AWS_SECRET):
        for match in pattern.finditer(text):
            if _is_random(match["token"]):
                yield match.span("token")


def private_keys(text: str) -> Iterator[Span]:
    """Yield where PEM blocks of private keys stand, with or without their footer; a mere header is none."""
    for match in _PEM.finditer(text):
        if _BASE64_RUN.search(match["body"] or match["open"] or ""):
            yield match.span()


def _is_random(token: str) -> bool:
    """Return whether `token` looks drawn rather than written: letters and digits, at least 2.8 bits a character."""
    if _STANDS_FOR.search(token) or not re.search(r"[0-9]", token) or not re.search(r"[A-Za-z]", token):
        return False
    counts = Counter(token).values()
    return -sum(n / len(token) * math.log2(n / len(token)) for n in counts) >= 2.8
