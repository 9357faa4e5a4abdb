"""Documents of a PostgreSQL table or query: a row is a document."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from llmjobs.contracts.embeddings import SqlSource
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.embeddings.documents.making import Maker, with_languages
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.source import Document, Place, Scan, Unreadable

_ROWS = "sql 1"
"""Raise the number when a row becomes another text."""

_TABLE = re.compile(r'(?:[A-Za-z_][\w$]*|"[^"]+")(?:\.(?:[A-Za-z_][\w$]*|"[^"]+"))?')
_QUERY_ERRORS = (
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    psycopg.DataError,
    psycopg.errors.ReadOnlySqlTransaction,
)

_TOGETHER = 1000
"""Rows that are fetched by their keys at once."""


class SqlDocuments:
    """Rows; see `llmjobs.embeddings.documents.source.Source`.

    A container is a row, by its key as text; its document has the same key. All is read in one read-only transaction.

    Args:
        config: The query, and which column is what.
    """

    def __init__(self, config: SqlSource) -> None:
        """Compose the query; nothing is connected yet."""
        self._config = config
        self._maker = Maker(config)
        query = config.query.strip().rstrip(";")
        table = _TABLE.fullmatch(query)
        names = [name.strip('"') if name.startswith('"') else name.lower() for name in query.split(".")]
        self._from = sql.Identifier(*names) if table else sql.SQL("({})").format(sql.SQL(query))
        self._columns = list(dict.fromkeys([*config.text, *filter(None, [config.title]), *config.fields]))

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._config.name

    @property
    def settings_digest(self) -> bytes:
        """See `Source`."""
        return self._maker.settings_digest(rows=_ROWS)

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:
        """List all rows, or, with an `updated` column and a watermark, those changed since, less the lag.

        The watermark is the database's own clock. Rows of a transaction that began before it and ended after are in
        the lag of the next scan.

        Raises:
            BadData: A key is null, or names two rows.
            BadConfig: The query or a column is wrong, or it writes.
            JobError: The database cannot be reached.
        """
        updated = self._config.updated
        part = bool(updated and watermark and not full)
        columns = sql.SQL(", ").join(map(sql.Identifier, [self._config.key, *self._columns]))
        stamp = sql.SQL("md5(row({})::text)").format(columns)
        if updated:
            stamp = sql.SQL("coalesce({}::text, {})").format(sql.Identifier(updated), stamp)
        query = sql.SQL("select {}::text, {} from {} as source_rows").format(
            sql.Identifier(self._config.key), stamp, self._from
        )
        values: list[Any] = []
        if part:
            # Later than now is read when its time has come: else the watermark would pass it.
            query += sql.SQL(" where {0} >= %s::timestamptz - %s * interval '1 second' and {0} < now()").format(
                sql.Identifier(updated)
            )
            values = [watermark, self._config.lag_seconds]
        with self._connected() as connection:
            (now,) = connection.execute("select now()::text").fetchone() or ("",)
            with connection.cursor("source_rows") as cursor:
                cursor.itersize = 10_000
                stamps = self._unique(cursor.execute(query, values or None))
        return Scan(stamps, complete=not part, watermark=now if updated else "")

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """See `Source`."""
        for key, row in self._rows(containers):
            yield key, {key: self._maker.hash(self._content(row), _ROWS)}

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """See `Source`."""
        readable: list[Document] = []
        for key, row in self._rows(place.container for place in places):
            place = Place(key, key)
            try:
                content_hash = self._maker.hash(self._content(row), _ROWS)
                readable.append(self._maker.document(place, content_hash, self._parsed(row), updated_at=_time(row[-1])))
            except BadData as error:
                yield Unreadable(place, f"row {key}: {error}")
        for first in range(0, len(readable), _TOGETHER):
            yield from with_languages(readable[first : first + _TOGETHER])

    def _rows(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield key and values of rows by their keys: `self._columns`, then the time of the last change."""
        rest = iter(keys)
        key = sql.Identifier(self._config.key)
        last = sql.Identifier(self._config.updated) if self._config.updated else sql.SQL("null")
        with self._connected() as connection:
            kind = connection.execute(
                sql.SQL("select pg_typeof({})::text from {} as source_rows limit 1").format(key, self._from)
            ).fetchone()
            if kind is None:
                return
            query = sql.SQL("select {0}::text, {1}, {2} from {3} as source_rows where {0} = any(%s::{4}[])").format(
                key, sql.SQL(", ").join(map(sql.Identifier, self._columns)), last, self._from, sql.SQL(kind[0])
            )
            while block := list(islice(rest, _TOGETHER)):
                for found, *row in connection.execute(query, [block]):
                    yield found, tuple(row)

    def _unique(self, rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
        stamps: dict[str, str] = {}
        for key, stamp in rows:
            if key is None or key in stamps:
                what = "is null in a row" if key is None else "names two rows"
                raise BadData(f"source.key: {self._config.key!r} {what}: name a column that is unique and not null")
            stamps[key] = stamp
        return stamps

    def _parsed(self, row: tuple[Any, ...]) -> Parsed:
        values = dict(zip(self._columns, row[:-1], strict=True))
        text = "\n\n".join(str(values[column]) for column in self._config.text if values[column] is not None)
        title = values.get(self._config.title) if self._config.title else None
        metadata = {column: _plain(values[column]) for column in self._config.fields if values[column] is not None}
        return Parsed(text, "text", "" if title is None else str(title), metadata)

    def _content(self, row: tuple[Any, ...]) -> bytes:
        names = [list(self._config.text), self._config.title, list(self._config.fields)]
        return json.dumps([names, row[:-1]], default=str, ensure_ascii=False).encode()

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        url = os.environ.get(self._config.url_env)
        if not url:
            raise BadConfig(f"source.url_env: {self._config.url_env} is not set: put the database's URL there")
        try:
            with psycopg.connect(url, connect_timeout=20) as connection:
                connection.execute("set transaction isolation level repeatable read, read only")
                connection.execute("set local timezone to 'UTC'")
                yield connection
        except _QUERY_ERRORS as error:
            raise BadConfig(f"source.query of {self.name!r} fails: {str(error).splitlines()[0]}") from None
        except psycopg.Error as error:
            # The text of a connection error may hold the address, never the password.
            raise JobError(f"the database of {self._config.url_env} failed: {str(error).splitlines()[0]}") from error


def _plain(value: Any) -> Any:
    """Return a value as metadata has it: numbers as such, what JSON does not know as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value if isinstance(value, str | int | float | bool | list | dict | date) else str(value)


def _time(value: Any) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
