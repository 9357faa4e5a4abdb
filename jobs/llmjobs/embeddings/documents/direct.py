"""Documents that were written into an index by `upsert`, by no folder, table or site."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from llmjobs.contracts.embeddings import PUBLIC, DirectSource, Scalar
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.documents.making import Maker, with_languages
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.source import Document, Form, Place, Scan, Source, Unreadable

DIRECT = DirectSource().name

_VERSION = "direct 1"
"""Raise the number when a row becomes another document."""

_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Given:
    """One document as a caller gives it.

    Attributes:
        key: Names it in the index, beside nothing but other documents that were given.
        text: Its text.
        title: "" where it has none.
        metadata: What filters compare.
        tenant: Who may see it.
        language: ISO 639 code; empty: told from the text.
        form: ``markdown`` is cut along its headings.
    """

    key: str
    text: str
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    tenant: str = PUBLIC
    language: str = ""
    form: Form = "markdown"

    @property
    def content(self) -> bytes:
        """All of it but its key, as bytes that are equal where the documents are."""
        values = {name: value for name, value in asdict(self).items() if name != "key"}
        return json.dumps(values, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")


class DirectDocuments:
    """The table ``direct_document`` of one index; see `llmjobs.embeddings.documents.source.Source`.

    A container is a document. A listing never says that one is gone: only a delete does, and it takes it from the index
    at once. So a refresh that looked before an upsert ended deletes nothing of it.

    Args:
        url: The database. Documents are read in a thread of its own, on a connection of its own.
        index_id: The index.
    """

    def __init__(self, url: str, index_id: int) -> None:
        """Keep both; nothing is read yet."""
        self._url = url
        self._index_id = index_id

    @property
    def name(self) -> str:
        """See `Source`."""
        return DIRECT

    @property
    def settings_digest(self) -> bytes:
        """See `Source`."""
        return _maker().settings_digest(rendering=_VERSION)

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:  # noqa: ARG002 (all is always listed)
        """See `Source`."""
        with connect(self._url) as connection:
            rows = connection.execute(
                "select key, stamp from direct_document where index_id = %s", [self._index_id]
            ).fetchall()
        return Scan(dict(rows), complete=False)

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """See `Source`."""
        for given in self._rows(list(containers)):
            yield given.key, {given.key: hash_of(given)}

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """See `Source`."""
        for given in self._rows([place.key for place in places]):
            try:
                yield from made([given])
            except BadData as error:
                yield Unreadable(Place(given.key, given.key), str(error))

    def _rows(self, keys: Sequence[str]) -> Iterator[Given]:
        with connect(self._url) as connection:
            for first in range(0, len(keys), _ROWS_AT_ONCE):
                rows = connection.execute(
                    "select key, document from direct_document where index_id = %s and key = any(%s) order by key",
                    [self._index_id, list(keys[first : first + _ROWS_AT_ONCE])],
                ).fetchall()
                yield from (Given(key, **document) for key, document in rows)


def direct_sources(connection: Connection, index: str) -> list[Source]:
    """Return the source of what was written into an index by `upsert`; none where nothing ever was."""
    row = connection.execute(
        """
        select index_id from search_index i where name = %(index)s and (
            exists (select from direct_document d where d.index_id = i.index_id)
            or exists (select from source_state s where s.index_id = i.index_id and s.source = %(direct)s))
        """,
        {"index": index, "direct": DIRECT},
    ).fetchone()
    if row is None:
        return []
    url = make_conninfo(connection.info.dsn, password=connection.info.password or None)
    return [DirectDocuments(url, row[0])]


def made(given: Sequence[Given]) -> list[Document]:
    """Return the documents as a refresh reads them.

    Raises:
        BadData: One holds what cannot be stored.
    """
    documents = []
    for one in given:
        place = Place(one.key, one.key)
        values = {**one.metadata, **({"language": one.language} if one.language else {})}
        parsed = Parsed(one.text, one.form, one.title, values)
        documents.append(_maker(one.tenant).document(place, hash_of(one), parsed))
    return with_languages(documents)


def _maker(tenant: str = PUBLIC) -> Maker:
    return Maker(DirectSource(tenant=tenant))


def hash_of(given: Given) -> bytes:
    """Return the content hash of a document, 32 bytes."""
    return _maker().hash(given.content, _VERSION)


def keep(connection: Connection, index_id: int, given: Sequence[Given]) -> None:
    """Keep documents as they were given, inside the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into direct_document values (%s, %s, %s, %s) on conflict (index_id, key)"
            " do update set stamp = excluded.stamp, document = excluded.document",
            [
                (index_id, one.key, hashlib.sha256(one.content).hexdigest(), Jsonb(json.loads(one.content)))
                for one in given
            ],
        )


def drop(connection: Connection, document_ids: Sequence[int]) -> None:
    """Drop what was kept of documents, inside the transaction that deletes them."""
    connection.execute(
        "delete from direct_document x using document d where d.document_id = any(%s) and d.source = %s"
        " and x.index_id = d.index_id and x.key = d.key",
        [list(document_ids), DIRECT],
    )
