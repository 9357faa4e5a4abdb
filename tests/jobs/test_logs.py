"""Secrets never reach a log."""

from __future__ import annotations

import logging

import pytest

from llmjobs.logs import MaskSecrets


def masked(text: str, *args: object) -> str:
    record = logging.LogRecord("job", logging.INFO, __file__, 1, text, args, None)
    assert MaskSecrets().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://night:s3cr3t@db:5432/x", "postgresql://night:***@db:5432/x"),
        ("two http://a:b@c and ftp://d:e@f", "two http://a:***@c and ftp://d:***@f"),
        ("postgresql+psycopg://u:p%40ss@/db?host=/sock", "postgresql+psycopg://u:***@/db?host=/sock"),
        ("http://host:8080/path?at=a@b", "http://host:8080/path?at=a@b"),
        ("nothing here: 3@4", "nothing here: 3@4"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_values_of_secret_variables_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hf_abcdefgh_longer")
    assert masked("got %s and %s", "hf_abcdefgh", "hf_abcdefgh_longer") == "got *** and ***"


def test_short_values_are_left_so_that_logs_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "1")
    assert masked("step 1 of 11") == "step 1 of 11"


def test_the_credentials_of_sources_are_masked_and_their_address_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    options = '{"key": "AKIAEXAMPLE", "secret": "wJalrXUtnFEMI", "endpoint_url": "http://minio:9000", "anon": false}'
    monkeypatch.setenv("LLMJOBS_STORAGE_OPTIONS", options)
    assert masked("AKIAEXAMPLE wJalrXUtnFEMI http://minio:9000") == "*** *** http://minio:9000"
    monkeypatch.setenv("LLMJOBS_STORAGE_OPTIONS", "key=AKIAEXAMPLE")
    assert masked("has key=AKIAEXAMPLE in it") == "has *** in it"
