from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmjobs.contracts.embeddings import SqlSource
from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.documents.source import Document, Place
from llmjobs.embeddings.documents.sql import SqlDocuments

TABLE = """
create table page (id integer, name text, body text, n numeric, changed timestamptz);
insert into page values (1, 'One', 'First.', 2, now() - interval '9 days'),
    (2, null, 'Second.', 2.5, now() - interval '2 days'), (3, 'Three', 'Third.', null, now() + interval '1 day');
"""


@pytest.fixture
def connection(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setenv("PAGES_URL", postgres_url)
    with connect(postgres_url) as connection:
        connection.execute(TABLE)
        connection.commit()
        yield connection


def source(query: str = "page", **fields: object) -> SqlDocuments:
    given = {"url_env": "PAGES_URL", "key": "id", "text": ["body"], "title": "name", "fields": ["n"]}
    return SqlDocuments(SqlSource.model_validate({"query": query, **given, **fields}))


@pytest.mark.usefixtures("connection")
def test_rows_become_documents() -> None:
    found = source(updated="changed")
    read = {one.place.key: one for one in found.read([Place(key, key) for key in ("1", "2", "9")])}
    assert set(read) == {"1", "2"}
    one = read["1"]
    assert isinstance(one, Document)
    assert (one.text, one.title, one.metadata) == ("First.", "One", {"n": 2})
    assert dict(found.hashes(["1"])) == {"1": {"1": one.content_hash}}


def test_only_rows_since_the_watermark_are_listed(connection: Connection) -> None:
    found = source(updated="changed", lag_seconds=60)
    first = found.scan()
    assert (set(first.stamps), first.complete) == ({"1", "2", "3"}, True)
    later = found.scan(first.watermark)
    assert (later.stamps, later.complete) == ({}, False)
    connection.execute("update page set body = 'New.', changed = now() where id = 2")
    connection.commit()
    assert set(found.scan(first.watermark).stamps) == {"2"}
    assert set(found.scan(first.watermark, full=True).stamps) == {"1", "2", "3"}


def test_without_a_time_of_change_the_row_is_its_stamp(connection: Connection) -> None:
    before = source().scan()
    connection.execute("update page set body = 'New.' where id = 2")
    connection.commit()
    after = source().scan()
    assert {key for key in after.stamps if after.stamps[key] != before.stamps[key]} == {"2"}
    assert (after.complete, after.watermark) == (True, "")


@pytest.mark.usefixtures("connection")
def test_a_query_can_only_read() -> None:
    assert set(source("select * from page where id < 3;").scan().stamps) == {"1", "2"}
    for query, said in (
        ("with gone as (delete from page returning *) select * from gone", "source.query"),
        ("select * from page for update", "read-only"),
        ('page"; drop table page; --', "source.query"),
    ):
        with pytest.raises(BadConfig, match=said):
            source(query).scan()
    assert len(source().scan().stamps) == 3


@pytest.mark.usefixtures("connection")
def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(BadData, match="names two rows"):
        source("select 1 as id, body, name, n from page").scan()


def test_an_address_that_is_not_set_is_named() -> None:
    with pytest.raises(BadConfig, match="NO_SUCH_URL is not set"):
        source(url_env="NO_SUCH_URL").scan()
