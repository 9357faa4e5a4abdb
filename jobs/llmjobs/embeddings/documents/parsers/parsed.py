"""What every parser gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmjobs.embeddings.documents.source import Form


@dataclass(frozen=True)
class Parsed:
    """A document without its place.

    Attributes:
        metadata: As the document states it: values may be anything, see `llmjobs.embeddings.documents.making`.
    """

    text: str
    form: Form
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
