"""Texts of rows as a person may see them: personal data masked, invisible characters by name, long ones cut.

Whatever leaves the job for a page or a question to a person passes through `shown`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Mask = Callable[[str], str]
"""Returns a text with its personal data and secrets masked."""

LONGEST_TEXT = 600
"""Characters of a text that are shown."""

_LOOKED_AT = 20_000
_CUT_MARGIN = 200

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, zero-width ones, lone surrogates, and those that turn the direction of a line."""


def shown(text: str, mask: Mask, limit: int = LONGEST_TEXT) -> str:
    """Return `text` masked first and shortened then: a cut in the middle of a number would hide it from the mask."""
    if len(text) <= _LOOKED_AT:
        return shorten(mask(text), limit)
    # Masking 50 MB to show 600 characters would be waste; what the cut itself has halved is not shown.
    masked = mask(text[:_LOOKED_AT])
    return f"{_visible(masked[: max(0, min(limit, len(masked) - _CUT_MARGIN))])} … ({len(text):,} characters)"


def shorten(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` as a person should see it: invisible characters by name, a long text's end by its length."""
    return _visible(text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)")


def house_mask() -> Mask:
    """Return the mask of the personal data that the contract knows."""
    from llmjobs.instructions.rules.pii import mask_text

    return mask_text


def _visible(text: str) -> str:
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)
