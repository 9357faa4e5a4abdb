"""Transactions of the role that sees only what the tenants at hand may see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection

ROLE = "nightshift_reader"


def checked_tenants(tenants: Sequence[str]) -> tuple[str, ...]:
    """Return the tenants, each once.

    Raises:
        BadConfig: It is one text instead of a list of texts, or one of them cannot be a tenant's name.
    """
    if isinstance(tenants, str):
        raise BadConfig(f"tenants: a list of names is needed, got the text {tenants!r}: write [{tenants!r}]")
    for tenant in tenants:
        if not isinstance(tenant, str) or "\0" in tenant:
            raise BadConfig(f"tenants: {tenant!r} cannot be a tenant's name: texts without NUL characters are")
    return tuple(dict.fromkeys(tenants))


@contextmanager
def reading(connection: Connection, tenants: Sequence[str], **settings: str) -> Iterator[None]:
    """Open a read-only transaction in which row-level security shows the rows of `tenants`, and no others.

    All statements in it see the same moment. Role and settings end with the transaction.

    Args:
        connection: In autocommit mode, outside a transaction: the role would outlive a nested one.
        tenants: None of them: no rows.
        settings: Of PostgreSQL, ``hnsw_ef_search`` for ``hnsw.ef_search``.

    Raises:
        BadConfig: Our role may not take on the reader's, or a transaction is open already.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise BadConfig("a search opens a transaction of its own: give it a connection on which none is open")
    values = {"role": ROLE, "nightshift.tenants": json.dumps(list(tenants))}
    values |= {name.replace("_", ".", 1): value for name, value in settings.items()}
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        try:
            connection.execute(
                "select set_config(name, value, true) from unnest(%s::text[], %s::text[]) as s (name, value)",
                [list(values), list(values.values())],
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise BadConfig(
                f"role {connection.info.user} may not search: an administrator must run once: "
                f"grant {ROLE} to {connection.info.user}"
            ) from error
        yield
