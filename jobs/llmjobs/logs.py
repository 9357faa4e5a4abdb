"""One log format for every job, with secrets masked."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from llmjobs.contracts.environment import STORAGE_OPTIONS

_URL_PASSWORD = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://[^\s:/@]*):(?P<secret>[^\s@/]+)@", re.IGNORECASE)
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY", re.IGNORECASE)
_STORAGE_SECRET = re.compile(r"key|secret|token|password|credential|sas", re.IGNORECASE)
_SHORTEST_SECRET = 6


class MaskSecrets(logging.Filter):
    """Replace passwords in URLs and the values of secret-looking environment variables by ``***``."""

    def __init__(self) -> None:
        """Remember the secrets of this process' environment, the longest first."""
        super().__init__()
        found = {v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= _SHORTEST_SECRET}
        found |= {v for v in _storage_secrets(os.environ.get(STORAGE_OPTIONS, "")) if len(v) >= _SHORTEST_SECRET}
        self._secrets = sorted(found, key=len, reverse=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the record's text; never drop it."""
        record.msg, record.args = self.mask(record.getMessage()), ()
        return True

    def mask(self, text: str) -> str:
        """Return `text` without the secrets that this filter knows."""
        text = _URL_PASSWORD.sub(r"\g<scheme>:***@", text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _storage_secrets(text: str) -> Iterator[str]:
    """Yield the secret-looking values in the storage options; all of the text where it is no JSON."""
    try:
        yield from _secrets_in(json.loads(text or "{}"))
    except ValueError:
        yield text


def _secrets_in(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _secrets_in(part, str(key))
    elif isinstance(value, str) and _STORAGE_SECRET.search(name):
        yield value


def configure_logging(level: int = logging.INFO) -> None:
    """Send every logger of this process to standard output, in the one format."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(MaskSecrets())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its import prints hundreds of lines ("Skipping registering function ..."; GX 1.24).
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
