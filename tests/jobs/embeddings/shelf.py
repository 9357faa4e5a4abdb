"""A small index made without a refresh: documents of several tenants, with metadata, one chunk each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from llmjobs.database.connection import Connection
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.search.exchange import Header, Maker, Row, load
from tests.jobs.embeddings.night import DIMENSIONS, CountingModel

INDEX = "shelf"

Book = tuple[str, str, str, dict[str, Any]]
"""Key, tenant, text, metadata."""

BOOKS: list[Book] = [
    ("fruit/apples", "public", "Apples grow on trees in the north.", {"kind": "fruit", "year": 2020, "fresh": True}),
    ("fruit/pears", "public", "Pears grow on trees in the south.", {"kind": "fruit", "year": 2021}),
    ("fruit/plums", "public", "Plums are blue and grow on trees.", {"kind": "fruit", "year": 2022, "fresh": False}),
    ("stone/granite", "public", "Granite is a hard stone.", {"kind": "stone", "year": 2020.5}),
    ("stone/chalk", "public", "Chalk is a soft white stone.", {"kind": "stone", "year": "2021"}),
    ("secret/a", "tenant a", "The password of tenant a is zanzibar.", {"kind": "secret"}),
    ("secret/b", 'b"; drop table chunk; --', "The password of tenant b is xylophone.", {"kind": "secret"}),
]


def rows_of(books: Iterable[Book], language: str = "en") -> Iterable[Row]:
    model = CountingModel()
    for key, tenant, text, metadata in books:
        digest = hashlib.sha256(text.encode()).hexdigest()
        yield {
            "source": "books", "key": key, "tenant": tenant, "language": language, "title": key.title(),
            "metadata": metadata, "updated_at": None, "content_hash": digest, "ordinal": 0, "start_char": 0,
            "end_char": len(text), "heading": "", "content": text, "text_hash": digest, "tokens": len(text.split()),
            "embedding": model.encode([text])[0],
        }  # fmt: skip


def put(connection: Connection, rows: Iterable[Row], index: str = INDEX, dimensions: int = DIMENSIONS) -> Generation:
    model = CountingModel(dimensions=dimensions)
    header = Header(index, Maker(model.fingerprint, model.settings, dimensions), Maker("cut", {}))
    return load(connection, header, rows, "the shelf")


def noise(count: int, tenant: str = "public", seed: int = 1) -> list[Row]:
    """Return rows with vectors of no meaning."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    books = [(f"noise/{tenant}/{number}", tenant, f"noise {number}", {"number": number}) for number in range(count)]
    return [{**row, "embedding": vector} for row, vector in zip(rows_of(books), vectors, strict=True)]
