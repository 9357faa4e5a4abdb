"""Single documents written into an index at once, as a refresh would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.database.connection import Connection
from llmjobs.embeddings.differences import Difference
from llmjobs.embeddings.documents.direct import DIRECT, Given, keep, made
from llmjobs.embeddings.documents.source import Document
from llmjobs.embeddings.embed import encode
from llmjobs.embeddings.failures import forget_failures
from llmjobs.embeddings.generations import Generation, active_generation, lock_index
from llmjobs.embeddings.model import Model
from llmjobs.embeddings.outcomes import Outcome
from llmjobs.embeddings.pages import cut
from llmjobs.embeddings.publish import Content, publish
from llmjobs.embeddings.search.statistics import refresh_statistics
from llmjobs.embeddings.targets import Target, reopened, target_of

MOST_DOCUMENTS = 1_000
"""Most documents of one call: they are one transaction."""

LONGEST_KEY = 500

_TRIES = 3

_GIVEN = TypeAdapter(Given)


@dataclass(frozen=True)
class Upserted:
    """What a call wrote.

    Attributes:
        written: Documents that were new or other than before.
        unchanged: Documents that the index held already as they are.
        texts_embedded: Passages that were encoded; the others' vectors were known.
    """

    written: int
    unchanged: int
    texts_embedded: int


def upsert(connection: Connection, index: str, documents: Sequence[Given], *, model: Model | None = None) -> Upserted:
    """Write documents into the index that answers: all of them or none, found by the next search.

    They belong to a source of their own, ``direct``: no listing of a folder or a table deletes them, a nightly refresh
    finds them unchanged, and another model or chunker reads them again from the database. `collections.delete` removes
    them. The index must exist: its first refresh, or an import, says which model it has.

    Args:
        connection: In autocommit mode, of the tables' owner.
        index: The index's name.
        documents: Each key once; a key that is there is replaced.
        model: The index's own, where the caller has it loaded.

    Raises:
        BadData: There is no such index, or a document cannot be stored, cut or encoded: it is named.
        BadConfig: Too many documents, one key twice, or the index's model is not there any more.
        JobError: A refresh of the same documents won every time; worth another try.
    """
    _check(documents)
    for _ in range(_TRIES):
        generation = active_generation(connection, index)
        if generation is None:
            raise BadData(f"The index {index!r} is empty, or there is none of that name: refresh or import it first")
        done = _written(connection, index, generation, documents, model)
        if done:
            return done
    raise JobError(f"{index}: other writers changed these documents {_TRIES} times meanwhile; nothing was written")


def _check(documents: Sequence[Given]) -> None:
    if not 1 <= len(documents) <= MOST_DOCUMENTS:
        raise BadConfig(f"1 to {MOST_DOCUMENTS} documents a call, got {len(documents)}")
    seen: set[str] = set()
    for one in documents:
        _check_types(one)
        if not 0 < len(one.key) <= LONGEST_KEY or "\0" in one.key:
            raise BadConfig(f"the key {one.key[:40]!r} must have 1 to {LONGEST_KEY} characters, and no NUL")
        if one.key in seen:
            raise BadConfig(f"the key {one.key!r} is there twice: give each document once")
        seen.add(one.key)


def _check_types(one: Given) -> None:
    try:
        _GIVEN.validate_python(asdict(one))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][:2]))
        raise BadConfig(f"document {str(one.key)[:40]!r}, field {field}: {first['msg']}") from None
    if not one.tenant.strip():
        raise BadConfig(f"document {one.key[:40]!r}: its tenant is empty: name who may see it, or leave it out")


def _written(
    connection: Connection, index: str, generation: Generation, given: Sequence[Given], model: Model | None
) -> Upserted | None:
    """Write the documents; None where another writer came between."""
    before = _held(connection, generation, [one.key for one in given])
    changed = [document for document in _made(given) if document.content_hash != before.get(document.place.key)]
    if not changed:
        return Upserted(0, len(given), 0)
    target = target_of(generation, model or reopened(generation.model_settings))
    contents = [_cut(target, document, before.get(document.place.key)) for document in changed]
    encoded = encode(connection, None, target, contents)
    for content in contents:
        for text_hash in content.hashes:
            if text_hash in encoded.refused:
                raise BadData(f"{content.planned.key}: {encoded.refused[text_hash]}")
    try:
        _publish(connection, index, generation, contents, given)
    except _Overtaken:
        return None
    return Upserted(len(contents), len(given) - len(contents), encoded.texts)


class _Overtaken(Exception):
    """Another writer changed a document, or another generation answers; what was written is undone."""


def _publish(
    connection: Connection, index: str, generation: Generation, contents: Sequence[Content], given: Sequence[Given]
) -> None:
    changed = {content.planned.key for content in contents}
    with connection.transaction():
        # No refresh plans or swaps while this is written, so it sees all of it or nothing.
        lock_index(connection, index)
        answering = active_generation(connection, index)
        if answering is None or answering.generation_id != generation.generation_id:
            raise _Overtaken
        if publish(connection, generation, 0, contents)["superseded"]:
            raise _Overtaken
        keep(connection, generation.index_id, [one for one in given if one.key in changed])
        forget_failures(connection, generation.index_id, [content.name for content in contents])
        refresh_statistics(connection, generation.generation_id)


def _made(given: Sequence[Given]) -> list[Document]:
    for one in given:
        try:
            made([one])
        except BadData as error:
            raise BadData(f"{one.key}: {error}") from error
    return made(given)


def _cut(target: Target, document: Document, before: bytes | None) -> Content:
    key = document.place.key
    row = Difference(DIRECT, key, key, "change" if before else "add", document.content_hash, before)
    content = cut(target, row, document)
    if isinstance(content, Outcome):
        raise BadData(f"{key}: {content.reason}")
    return content


def _held(connection: Connection, generation: Generation, keys: Sequence[str]) -> dict[str, bytes]:
    rows = connection.execute(
        """
        select key, content_hash from document_state join document using (document_id)
        where generation_id = %s and index_id = %s and source = %s and key = any(%s)
        """,
        [generation.generation_id, generation.index_id, DIRECT, list(keys)],
        binary=True,
    ).fetchall()
    return dict(rows)
