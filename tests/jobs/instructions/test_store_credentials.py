"""A store that lets nobody in: the sentence names the config's field and where credentials come from."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llmjobs.contracts.errors import BadConfig
from llmjobs.contracts.instructions import Source
from llmjobs.instructions.raw.sources import Sources
from llmjobs.lake import Lake

SAID = "does not let this job in ({}); `connection` in the config names the Airflow connection with its credentials"


def find(url: str, **options: Any) -> Sources:
    return Sources(Lake("memory://lake"), [Source(name="rows", files=url)], storage_options=options)


def test_a_source_without_a_connection(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    said = f"source: 's3://exports/*.jsonl' {SAID.format('Unable to locate credentials')}"
    with pytest.raises(BadConfig, match=re.escape(said)):
        find("s3://exports/*.jsonl", endpoint_url=s3_endpoint)


def test_options_that_the_store_does_not_know(s3_endpoint: str) -> None:
    with pytest.raises(BadConfig, match=r"^source: 's3://exports/\*' does not let this job in \(.*'kye'\); `conn"):
        find("s3://exports/*", kye="a", endpoint_url=s3_endpoint)


def test_credentials_that_the_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "glob", refuse)
    with pytest.raises(BadConfig, match=re.escape(f"source: 'memory://exports/*.jsonl' {SAID.format('Forbidden')}")):
        find("memory://exports/*.jsonl")
    with pytest.raises(PermissionError):  # the lake's own, which no connection of a source opens
        find("exports/*.jsonl")
