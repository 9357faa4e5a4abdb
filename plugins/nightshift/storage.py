"""Secrets of a job. Those of its sources: from an Airflow connection to the fsspec options that the job is given.

    connection                              option
    --------------------------------------  ---------------------------------
    login, extra aws_access_key_id          key
    password, extra aws_secret_access_key   secret
    extra aws_session_token                 token
    extra endpoint_url                      endpoint_url
    extra region_name (or region)           client_kwargs.region_name
    extra anonymous (or anon): true         anon, without key and secret
    extra storage_options: {...}            as they are; they win

The last line is for other stores than S3 (``gs://``, ``az://``): their fsspec options stand in the connection itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from nightshift.failures import BadConfig


def storage_options(connection_id: str) -> str:
    """Return the fsspec options of a connection as JSON; every secret in it is masked in logs from then on.

    Args:
        connection_id: Id of the connection, read when a task executes.

    Raises:
        BadConfig: There is no such connection, or it holds no credentials; never retried.
    """
    try:
        connection = Connection.get(connection_id)
    except AirflowNotFoundException:
        raise BadConfig(
            f"connection: Airflow has no connection {connection_id!r}; add it under Admin, Connections, or correct "
            "the config"
        ) from None
    options = options_of(connection)
    for name in ("key", "secret", "token"):
        mask_secret(options.get(name))
    mask_secret(connection.extra_dejson)
    return json.dumps(options, sort_keys=True)


def options_of(connection: Any) -> dict[str, Any]:
    """Return the fsspec options that a connection means.

    Raises:
        BadConfig: It holds half of a key, or none and does not say that it is anonymous.
    """
    extra = connection.extra_dejson
    found: dict[str, Any] = {
        "key": connection.login or extra.get("aws_access_key_id"),
        "secret": connection.password or extra.get("aws_secret_access_key"),
        "token": extra.get("aws_session_token"),
        "endpoint_url": extra.get("endpoint_url"),
    }
    region = extra.get("region_name") or extra.get("region")
    if region:
        found["client_kwargs"] = {"region_name": region}
    options = {name: value for name, value in found.items() if value}
    given = extra.get("storage_options") or {}
    if _is_true(extra.get("anonymous", extra.get("anon"))):
        return {**_without(options, "key", "secret", "token"), "anon": True, **given}
    if not given and ("key" not in options or "secret" not in options):
        raise BadConfig(
            f"connection {connection.conn_id!r} holds no login and password (access key and secret); fill them in, or "
            'set {"anonymous": true} in its extra for a public store'
        )
    return {**options, **given}


def own_secrets(names: Iterable[str]) -> dict[str, str]:
    """Return a job's further secrets from Airflow's environment, masked in logs from then on.

    Args:
        names: Of the variables; one that is not set is left out, and so are Airflow's own.
    """
    found = {name: os.environ[name] for name in names if name in os.environ and not name.startswith("AIRFLOW")}
    for value in found.values():
        mask_secret(value)
    return found


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in {"true", "1", "yes"}
