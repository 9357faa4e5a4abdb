from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmjobs.contracts.errors import BadConfig, BadData
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.search import collections, search
from llmjobs.embeddings.search.__main__ import main
from llmjobs.embeddings.search.exchange import export_index, import_index
from tests.jobs.embeddings.night import CountingModel
from tests.jobs.embeddings.shelf import BOOKS, INDEX, put, rows_of

ALL = ["public", "tenant a", 'b"; drop table chunk; --']


@pytest.fixture
def shelf(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setenv("LLMJOBS_DATABASE_URL", postgres_url)
    with connect(postgres_url) as connection:
        put(connection, rows_of(BOOKS))
        yield connection


def test_collections_count_what_the_tenants_may_see(shelf: Connection) -> None:
    (of_public,) = collections.list_collections(shelf, tenants=["public"])
    assert (of_public.name, of_public.documents, of_public.chunks, of_public.embedder) == (INDEX, 5, 5, "counting")
    assert collections.list_collections(shelf, tenants=[])[0].documents == 0
    assert collections.count(shelf, INDEX, tenants=ALL) == 7
    assert collections.count(shelf, INDEX, tenants=["public"], filter={"kind": "stone"}) == 2
    with pytest.raises(BadData, match="'other' is empty, or there is none"):
        collections.count(shelf, "other", tenants=ALL)


def test_documents_are_got_by_key_and_page_by_page(shelf: Connection) -> None:
    (one,) = collections.get(shelf, INDEX, ["fruit/pears", "secret/a"], tenants=["public"])
    assert (one.document, one.metadata, one.chunks[0]["text"]) == (
        "fruit/pears",
        {"kind": "fruit", "year": 2021},
        "Pears grow on trees in the south.",
    )
    pages = [collections.get(shelf, INDEX, tenants=["public"], limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [one.document for page in pages for one in page] == sorted(
        key for key, tenant, *_ in BOOKS if tenant == "public"
    )
    with pytest.raises(BadConfig, match="limit must be 1 to 1000"):
        collections.get(shelf, INDEX, tenants=["public"], limit=0)


def test_a_delete_takes_the_documents_of_its_tenants_and_leaves_nothing_behind(shelf: Connection) -> None:
    assert collections.delete(shelf, INDEX, tenants=["tenant a"], filter={"kind": {"$exists": True}}) == 1
    assert collections.delete(shelf, INDEX, ["secret/b"], tenants=["public"]) == 0
    assert collections.count(shelf, INDEX, tenants=ALL) == 6
    for table in ("chunk", "chunk_vector_1", "document_state", "document"):
        assert shelf.execute(f"select count(*) from {table}".encode()).fetchone() == (6,)
    assert search(shelf, INDEX, "zanzibar", tenants=["tenant a"], encoder=CountingModel()) == []
    with pytest.raises(BadConfig, match="say which documents are to go"):
        collections.delete(shelf, INDEX, tenants=ALL)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_an_index_survives_the_way_out_and_in(shelf: Connection, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"shelf{ending}"
    assert export_index(shelf, INDEX, path) == len(BOOKS)
    generation = import_index(shelf, path, "again")
    built = "select indisvalid from pg_index where indexrelid = %s::regclass"
    assert shelf.execute(built, [f"chunk_vector_{generation.generation_id}_hnsw"]).fetchone() == (True,)
    for mode in ("vector", "text"):
        first, second = (
            sorted((round(hit.score, 6), hit.document, hit.text, hit.tenant) for hit in hits)
            for hits in (
                search(shelf, name, "stone trees", 10, tenants=ALL, mode=mode, encoder=CountingModel())
                for name in (INDEX, "again")
            )
        )
        assert first == second != []
    assert collections.get(shelf, INDEX, tenants=ALL) == collections.get(shelf, "again", tenants=ALL)
    with pytest.raises(BadData, match="'shelf' is there already"):
        import_index(shelf, path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_index_is_told(shelf: Connection, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(BadData, match="is no exported index"):
        import_index(shelf, path)
    export_index(shelf, INDEX, path)
    header, first, *_ = path.read_text().splitlines()
    path.write_text(header + "\n" + json.dumps({**json.loads(first), "embedding": [1, 2]}) + "\n")
    with pytest.raises(BadData, match=r"row 1 \(fruit/apples\): embedding: 16 finite numbers are needed"):
        import_index(shelf, path, "other")
    assert [one.name for one in collections.list_collections(shelf, tenants=ALL)] == [INDEX]
    with pytest.raises(BadConfig, match=r"must end in \.jsonl or \.parquet"):
        export_index(shelf, INDEX, tmp_path / "x.csv")


def test_the_command_line(
    shelf: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out.strip()

    assert json.loads(said("list"))["documents"] == 5
    assert said("count", INDEX, "--filter", '{"kind": "fruit"}') == "3"
    assert json.loads(said("get", INDEX, "secret/a", "--tenant", "tenant a"))["tenant"] == "tenant a"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["delete", INDEX, "--within", "fruit/"]) == 78
    assert "nothing was deleted" in capsys.readouterr().err
    assert said("delete", INDEX, "--within", "fruit/", "--yes") == "3 documents deleted"
    assert said("count", INDEX) == "2"
    assert main(["count", "other"]) == 65
