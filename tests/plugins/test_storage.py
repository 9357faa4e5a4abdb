"""An Airflow connection becomes fsspec options."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection

from nightshift import failures
from nightshift.storage import options_of, storage_options


def connection(**fields: Any) -> Connection:
    extra = fields.pop("extra", {})
    return Connection(conn_id="archive", conn_type="aws", extra=json.dumps(extra), **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"login": "AK", "password": "s3cr3t"}, {"key": "AK", "secret": "s3cr3t"}),
        (
            {"extra": {"aws_access_key_id": "AK", "aws_secret_access_key": "s3cr3t", "aws_session_token": "t0k3n"}},
            {"key": "AK", "secret": "s3cr3t", "token": "t0k3n"},
        ),
        (
            {"login": "AK", "password": "s", "extra": {"endpoint_url": "http://minio:9000", "region_name": "eu-1"}},
            {"key": "AK", "secret": "s", "endpoint_url": "http://minio:9000", "client_kwargs": {"region_name": "eu-1"}},
        ),
        ({"login": "AK", "extra": {"anonymous": True, "endpoint_url": "http://x"}},
         {"anon": True, "endpoint_url": "http://x"}),
        ({"extra": {"anon": "true"}}, {"anon": True}),
        ({"extra": {"storage_options": {"account_name": "us"}}}, {"account_name": "us"}),
    ],
)  # fmt: skip
def test_what_a_connection_says_is_what_fsspec_gets(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert options_of(connection(**fields)) == expected


@pytest.mark.parametrize("fields", [{}, {"login": "AK"}, {"password": "s"}])
def test_half_a_key_is_refused_with_what_to_do(fields: dict[str, Any]) -> None:
    with pytest.raises(failures.BadConfig, match="connection 'archive' holds no login and password"):
        options_of(connection(**fields))


def test_a_connection_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHIVE", json.dumps({"conn_type": "aws", "login": "AK", "password": "s3cr3t"}))
    assert json.loads(storage_options("archive")) == {"key": "AK", "secret": "s3cr3t"}
