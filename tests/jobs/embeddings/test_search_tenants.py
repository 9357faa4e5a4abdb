from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql

from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.search import arms, refresh_statistics, search, search_with_plan
from llmjobs.embeddings.search.reader import ROLE, reading
from tests.jobs.embeddings.night import CountingModel
from tests.jobs.embeddings.shelf import BOOKS, INDEX, noise, put, rows_of

A, B = "tenant a", 'b"; drop table chunk; --'
ALL = ("public", A, B)


@pytest.fixture
def shelf(postgres_url: str) -> Iterator[Connection]:
    with connect(postgres_url) as connection:
        put(connection, rows_of(BOOKS))
        yield connection


def keys(connection: Connection, query: str, tenants: list[str] | tuple[str, ...], mode: str = "hybrid") -> set[str]:
    hits = search(connection, INDEX, query, 20, tenants=tenants, mode=mode, encoder=CountingModel())  # type: ignore[arg-type]
    return {hit.document for hit in hits}


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_a_tenant_sees_its_own_documents_only(shelf: Connection, mode: str) -> None:
    assert keys(shelf, "the password is zanzibar xylophone", [A], mode) == {"secret/a"}
    assert keys(shelf, "the password is zanzibar xylophone", [B], mode) == {"secret/b"}
    assert {"secret/a", "secret/b"} <= keys(shelf, "the password is zanzibar xylophone", ALL, mode)


@pytest.mark.parametrize(
    "tenants", [(), ("nobody",), ("",), ("%",), ('["public"]',), ("public' or true --",), ("{public}",)]
)
def test_no_tenant_and_unknown_ones_see_nothing(shelf: Connection, tenants: tuple[str, ...]) -> None:
    for mode in ("hybrid", "vector", "text"):
        assert keys(shelf, "password stone trees", tenants, mode) == set()


def test_one_text_is_no_list_of_tenants(shelf: Connection) -> None:
    with pytest.raises(BadConfig, match=r"tenants: a list of names is needed, got the text 'public'"):
        keys(shelf, "stone", "public")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="without NUL"):
        keys(shelf, "stone", ["a\0b"])


def test_the_reader_without_tenants_sees_no_row(shelf: Connection) -> None:
    with shelf.transaction():
        shelf.execute(f"set local role {ROLE}")
        for table in ("document", "chunk", "chunk_vector_1"):
            assert shelf.execute(f"select count(*) from {table}".encode()).fetchone() == (0,)


def test_no_function_of_the_reader_gives_what_the_tenants_may_not_see(shelf: Connection) -> None:
    with reading(shelf, ["public"]):
        assert shelf.execute("select * from bm25(1, 'zanzibar xylophone', null, 1000)").fetchall() == []
        assert shelf.execute("""select * from documents_holding(1, '{"kind": "secret"}')""").fetchall() == []
        assert shelf.execute("select * from words_of(1, 'zanzibar')").fetchall() == [("zanzibar", 0)]


@pytest.mark.parametrize(
    "table", ["embedding_cache", "refresh_run", "refresh_plan", "source_state", "source_container", "document_state",
              "document_failure", "word_statistic", "text_statistic", "chunk_change"]
)  # fmt: skip
def test_cache_state_and_statistics_are_not_the_readers(shelf: Connection, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), reading(shelf, ALL):
        shelf.execute(f"select * from {table}".encode())


def test_the_reader_writes_nothing(shelf: Connection) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), reading(shelf, ALL):
        shelf.execute("delete from document")
    may = "select has_table_privilege(%s, t, 'insert, update, delete, truncate') from unnest(%s::text[]) t"
    tables = ["document", "chunk", "chunk_vector_1", "generation", "search_index"]
    assert shelf.execute(may, [ROLE, tables]).fetchall() == [(False,)] * len(tables)


def test_role_and_tenants_end_with_the_search(shelf: Connection) -> None:
    keys(shelf, "stone", ["public"])
    assert shelf.execute(
        "select current_user = session_user, current_setting('nightshift.tenants', true)"
    ).fetchone() in [
        (True, ""),
        (True, None),
    ]
    with pytest.raises(BadConfig, match="transaction of its own"), shelf.transaction():
        keys(shelf, "stone", ["public"])


def test_every_table_of_texts_and_vectors_has_its_policies(shelf: Connection) -> None:
    rows = shelf.execute(
        "select relname from pg_class where relkind = 'r' and relname ~ '^(document|chunk|chunk_vector_[0-9]+)$'"
        " and relrowsecurity"
    ).fetchall()
    assert {name for (name,) in rows} == {"document", "chunk", "chunk_vector_1"}


def test_scores_say_nothing_of_other_tenants_words(shelf: Connection) -> None:
    """The same question gives the same score whether others use its words or not."""
    before = search(shelf, INDEX, "zanzibar password", 1, tenants=[A], mode="text")[0].score
    put(shelf, rows_of([*BOOKS, *((f"more/{n}", B, f"zanzibar {n}", {}) for n in range(50))]), "other")
    after = search(shelf, "other", "zanzibar password", 1, tenants=[A], mode="text")[0].score
    assert after == before


def test_a_login_of_an_application_may_search_and_nothing_else(shelf: Connection, postgres_url: str) -> None:
    """A member of the reader's role, neither superuser nor owner."""
    name = f"app_{shelf.info.dbname}"
    shelf.execute(sql.SQL("create role {} login password 'x' in role nightshift_reader").format(sql.Identifier(name)))
    try:
        place = urlsplit(postgres_url)
        url = place._replace(netloc=f"{quote(name)}:x@{place.hostname}:{place.port}").geturl()
        with connect(url) as app:
            assert keys(app, "password zanzibar", [A]) == {"secret/a"}
            assert app.execute("select count(*) from chunk").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute("select * from embedding_cache")
    finally:
        shelf.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_a_role_that_may_not_search_is_told_what_to_grant(shelf: Connection, postgres_url: str) -> None:
    name = f"stranger_{shelf.info.dbname}"
    shelf.execute(sql.SQL("create role {} login password 'x'").format(sql.Identifier(name)))
    try:
        place = urlsplit(postgres_url)
        url = place._replace(netloc=f"{quote(name)}:x@{place.hostname}:{place.port}").geturl()
        with (
            connect(url) as app,
            pytest.raises(BadConfig, match=f"grant nightshift_reader to {name}"),
            reading(app, ALL),
        ):
            pass
    finally:
        shelf.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def built(connection: Connection, generation: Generation) -> None:
    """Build the vector index, as a refresh does."""
    connection.execute(
        sql.SQL("create index {} on {} using hnsw (embedding vector_cosine_ops)").format(
            generation.vector_index, generation.table
        )
    )
    connection.execute(
        "update generation set vectors_at_build = 1 where generation_id = %s", [generation.generation_id]
    )
    connection.execute(sql.SQL("analyze {}").format(generation.table))


def test_policies_leave_the_vector_index_in_use(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is found behind a tenant and behind a filter is what an exact search finds."""
    model = CountingModel()
    with connect(postgres_url) as connection:
        generation = put(connection, [*noise(3000), *noise(600, A, seed=2)])
        built(connection, generation)
        with reading(connection, [A], hnsw_iterative_scan="relaxed_order"):
            vector = model.encode(["anything"])[0]
            statement = sql.SQL("explain select chunk_id from {} order by embedding <=> %s limit 10")
            plan = connection.execute(statement.format(generation.table), [vector]).fetchall()
        assert "_hnsw" in str(plan)
        for tenants, wanted in (([A], None), (["public"], {"number": {"$lt": 900}}), (["public", A], None)):
            exact, how = search_with_plan(
                connection, INDEX, "anything", 10, tenants=tenants, filter=wanted, mode="vector", encoder=model
            )
            assert how.path == "exact"
            monkeypatch.setattr(arms, "EXACT_ROWS", 100)
            monkeypatch.setattr(arms, "EXACT_ROWS_BEHIND_FILTER", 100)
            found, how = search_with_plan(
                connection, INDEX, "anything", 10, tenants=tenants, filter=wanted, mode="vector", encoder=model
            )
            monkeypatch.undo()
            assert how.path.startswith("hnsw")
            assert len({hit.document for hit in found} & {hit.document for hit in exact}) >= 9
            assert {hit.tenant for hit in found} <= set(tenants)


def test_statistics_follow_what_changes_exactly(shelf: Connection) -> None:
    def held() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        words = shelf.execute("select tenant, word, chunks from word_statistic order by 1, 2").fetchall()
        return words, shelf.execute(
            "select tenant, language, chunks, tokens from text_statistic order by 1, 2"
        ).fetchall()

    assert refresh_statistics(shelf, 1) == "kept"
    shelf.execute(
        "delete from chunk_vector_1 where document_id in (select document_id from document where key = 'stone/chalk')"
    )
    shelf.execute("delete from chunk where content like 'Chalk%'")
    shelf.execute(
        "insert into chunk (chunk_id, generation_id, document_id, ordinal, start_char, end_char, heading, content,"
        " text_hash, tokens, tenant, language) select gen_random_uuid(), 1, document_id, 1, 0, 1, 'Häuser', 'stone',"
        " text_hash, 3, tenant, 'de' from chunk where content like 'Granite%'"
    )
    shelf.execute(
        "insert into chunk_vector_1 select c.chunk_id, c.document_id, c.tenant, v.embedding from chunk c"
        " join chunk_vector_1 v using (document_id) where c.language = 'de'"
    )
    assert refresh_statistics(shelf, 1) == "changed"
    added_up = held()
    shelf.execute("truncate word_statistic, text_statistic")
    assert refresh_statistics(shelf, 1) == "counted"
    assert held() == added_up
    assert ("public", "haus", 1) in added_up[0]
    assert not [word for _, word, _ in added_up[0] if " " in str(word)]


def test_occurrences_are_counted_right(shelf: Connection) -> None:
    """A closed form stands in for reading the places; PostgreSQL keeps 255 of them."""
    for times in (0, 1, 2, 3, 7, 50, 200, 255):
        row = shelf.execute(
            "select occurrences(to_tsvector('english', repeat('tree ', %s) || repeat('stone ', 9)), 'tree')", [times]
        ).fetchone()
        assert row == (times,)
