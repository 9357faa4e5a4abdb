"""Personal data as presidio-analyzer finds it, in our kinds: an option beside the built-in search."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llmjobs.contracts.errors import BadConfig

_KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "IBAN_CODE": "iban",
    "CREDIT_CARD": "card",
    "IP_ADDRESS": "ip",
}
"""Presidio's entity -> our kind; it has no keys, and its other entities are none of ours."""

_LEAST_SCORE = 0.5
"""Below it presidio found the form, but neither checksum nor context."""


@lru_cache(maxsize=1)  # loading its model takes seconds
def analyzer() -> Any:
    """Return presidio's engine with its default (English) model.

    Raises:
        BadConfig: It, or its model, is not installed.
    """
    try:
        from presidio_analyzer import AnalyzerEngine  # type: ignore[import-not-found]

        return AnalyzerEngine()
    except (ImportError, OSError, SystemExit):
        raise BadConfig(
            "pii.engine is presidio, which is not installed: `pip install presidio-analyzer` and "
            "`python -m spacy download en_core_web_lg`, or set pii.engine: builtin"
        ) from None


def found_by(engine: Any, text: str) -> list[tuple[int, int, str]]:
    """Return begin, end and kind of what presidio's `engine` finds in an English text."""
    results = engine.analyze(text=text, entities=list(_KINDS), language="en", score_threshold=_LEAST_SCORE)
    return sorted((result.start, result.end, _KINDS[result.entity_type]) for result in results)
