"""Generations: what one model, one chunker and one storage make of an index, each with a vector table of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from llmjobs.contracts.base import digest
from llmjobs.contracts.embeddings import StorageConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.chunker import Chunker
from llmjobs.embeddings.failures import retry_all
from llmjobs.embeddings.model import Model

_LOCK_CLASS = 0x454D42  # "EMB": first key of the advisory locks of this room


@dataclass(frozen=True)
class Generation:
    """One generation of an index.

    Attributes:
        state: ``building``, ``active`` (it answers), ``former`` (it answered, and is kept up to date) or ``retired``.
        model_settings: What `llmjobs.contracts.embeddings.EmbedderConfig` is built from again.
        chunker: Settings of the chunker that it was made with.
        fingerprint: Of the model and of the chunker, one after the other.
        vectors_at_build: How many vectors there were when the HNSW index was built; None where there is none.
        storage: How its vectors are stored and indexed.
        held: A person rolled it back: it does not take over by itself.
    """

    generation_id: int
    index_id: int
    model_id: int
    state: str
    dimensions: int
    model_settings: dict[str, Any]
    chunker: dict[str, Any]
    fingerprint: str
    vectors_at_build: int | None
    storage: StorageConfig
    held: bool

    @property
    def table(self) -> sql.Identifier:
        """Its vector table."""
        return sql.Identifier(f"chunk_vector_{self.generation_id}")

    @property
    def vector_index(self) -> sql.Identifier:
        """The HNSW index of that table."""
        return sql.Identifier(f"chunk_vector_{self.generation_id}_hnsw")


_SELECT = """
    select generation_id, index_id, model_id, state, dimensions, settings, chunker,
        fingerprint || chunker_fingerprint, vectors_at_build, storage, held
    from generation join embedding_model using (model_id) join search_index using (index_id)
"""


def lock_index(connection: Connection, name: str) -> None:
    """Let one transaction at a time change which generations an index has; freed when the transaction ends."""
    connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_CLASS, name])


def find_index(connection: Connection, name: str) -> int | None:
    """Return the id of the index `name`, if it has any run."""
    row = connection.execute("select index_id from search_index where name = %s", [name]).fetchone()
    return int(row[0]) if row else None


def active_generation(connection: Connection, name: str) -> Generation | None:
    """Return the generation that answers for the index `name`, if any."""
    return _one(connection, "where name = %s and state = 'active'", [name])


def generation(connection: Connection, generation_id: int) -> Generation | None:
    """Return a generation by its id, if it is there."""
    return _one(connection, "where generation_id = %s", [generation_id])


def ensure_generation(
    connection: Connection, name: str, model: Model, chunker: Chunker, storage: StorageConfig | None = None
) -> Generation:
    """Return the generation of this model, chunker and storage, made where it is absent.

    A new one is ``building``: it answers nothing before `activate`. Call it inside a transaction, after `lock_index`.
    A call that finds all in place writes nothing.
    """
    storage = storage or StorageConfig()
    index_id = _ensure_index(connection, name)
    model_id = _ensure_model(connection, model)
    found = _one(
        connection,
        "where index_id = %s and model_id = %s and chunker_fingerprint = %s and storage = %s",
        [index_id, model_id, chunker.fingerprint, Jsonb(storage.model_dump())],
    )
    if found is None:
        return _create(connection, index_id, model_id, chunker, storage)
    if found.state == "retired":
        connection.execute("update generation set state = 'building' where generation_id = %s", [found.generation_id])
        return generation(connection, found.generation_id) or found
    return found


def other_followers(connection: Connection, wanted: Generation) -> list[Generation]:
    """Return the generations that a run brings up to date beside the `wanted` one: the active and the former.

    Others that were being built are given up, as the config no longer asks for them.
    """
    connection.execute(
        "update generation set state = 'retired' where index_id = %s and state = 'building' and generation_id <> %s",
        [wanted.index_id, wanted.generation_id],
    )
    where = "where index_id = %s and state in ('active', 'former') and generation_id <> %s order by state"
    values = [wanted.index_id, wanted.generation_id]
    return [_generation(row) for row in connection.execute((_SELECT + where).encode(), values).fetchall()]


def activate(connection: Connection, chosen: Generation, *, keep: bool = False) -> None:
    """Let `chosen` answer from now on and retire the others of its index; call it inside a transaction.

    Args:
        connection: In a transaction, after `lock_index`.
        chosen: The generation.
        keep: The one that answered until now stays up to date, so that `roll_back` can bring it back.
    """
    connection.execute(
        """
        update generation set state = case when state = 'active' and %s then 'former' else 'retired' end,
            replaced_at = now()
        where index_id = %s and generation_id <> %s and state <> 'retired'
        """,
        [keep, chosen.index_id, chosen.generation_id],
    )
    connection.execute(
        "update generation set state = 'active', activated_at = now(), replaced_at = null, held = false"
        " where generation_id = %s",
        [chosen.generation_id],
    )


def roll_back(connection: Connection, name: str) -> tuple[Generation, Generation]:
    """Let the former generation answer again; the one that answered is kept up to date in its place.

    It does not take over again by itself, even where the config still asks for it: rolling back once more brings it
    back. Call it inside a transaction.

    Returns:
        The generation that answers now, and the one that answered.

    Raises:
        BadData: There is no former generation.
    """
    lock_index(connection, name)
    active = active_generation(connection, name)
    former = _one(connection, "where name = %s and state = 'former' order by replaced_at desc limit 1", [name])
    if active is None or former is None:
        raise BadData(
            f"The index {name!r} has no former generation to go back to: one is kept for `rollout.keep_days` after a "
            "new one took over"
        )
    activate(connection, former, keep=True)
    connection.execute("update generation set held = true where generation_id = %s", [active.generation_id])
    return former, active


def retire_expired(connection: Connection, index_id: int, wanted: Generation, keep_days: int) -> None:
    """Retire former generations that were kept long enough, and that the config does not ask for."""
    connection.execute(
        """
        update generation set state = 'retired'
        where index_id = %s and state = 'former' and generation_id <> %s
            and replaced_at <= now() - make_interval(days => %s)
        """,
        [index_id, wanted.generation_id, keep_days],
    )


def note_gates(connection: Connection, of: Generation, gates: list[dict[str, Any]]) -> None:
    """Keep what the gates said of a generation."""
    connection.execute("update generation set gates = %s where generation_id = %s", [Jsonb(gates), of.generation_id])


def drop_retired(connection: Connection, index_id: int) -> int:
    """Drop the generations that were retired before, and return how many; call it inside a transaction.

    The run that retires a generation leaves it to the next run: a query that had chosen it may still be on its way.
    Should it be wanted again, every vector comes from the cache.
    """
    rows = connection.execute(
        "select generation_id from generation where index_id = %s and state = 'retired'", [index_id]
    ).fetchall()
    for (generation_id,) in rows:
        table = sql.Identifier(f"chunk_vector_{generation_id}")
        connection.execute(sql.SQL("drop table if exists {}").format(table))
        connection.execute("delete from chunk where generation_id = %s", [generation_id])
        connection.execute("delete from document_state where generation_id = %s", [generation_id])
        connection.execute("delete from generation where generation_id = %s", [generation_id])
    if rows:
        connection.execute(
            "delete from document d where index_id = %s"
            " and not exists (select from document_state s where s.document_id = d.document_id)",
            [index_id],
        )
    return len(rows)


def index_version(connection: Connection, of: Generation) -> str:
    """Return the content version of an index: a digest of model, chunker and every document's key and hash."""
    rows = connection.execute(
        """
        select source, key, encode(content_hash, 'hex')
        from document_state join document using (document_id)
        where generation_id = %s
        """,
        [of.generation_id],
    ).fetchall()
    return digest([of.fingerprint, sorted([source, key, content] for source, key, content in rows)])


def _ensure_index(connection: Connection, name: str) -> int:
    found = find_index(connection, name)
    if found is not None:
        return found
    return int(_returned(connection, "insert into search_index (name) values (%s) returning index_id", [name])[0])


def _ensure_model(connection: Connection, model: Model) -> int:
    """Return the model's id; what only queries need (name, query prefix) is brought up to date."""
    query = "select model_id, settings from embedding_model where fingerprint = %s"
    found = connection.execute(query, [model.fingerprint]).fetchone()
    if found is None:
        # Two indexes may meet a new model at once.
        connection.execute(
            "insert into embedding_model (fingerprint, settings, dimensions) values (%s, %s, %s)"
            " on conflict do nothing",
            [model.fingerprint, Jsonb(model.settings), model.dimensions],
        )
        found = _returned(connection, query, [model.fingerprint])
    if found[1] != model.settings:
        connection.execute(
            "update embedding_model set settings = %s where model_id = %s", [Jsonb(model.settings), found[0]]
        )
    return int(found[0])


def _create(
    connection: Connection, index_id: int, model_id: int, chunker: Chunker, storage: StorageConfig
) -> Generation:
    row = _returned(
        connection,
        "insert into generation (index_id, model_id, chunker_fingerprint, chunker, storage)"
        " values (%s, %s, %s, %s, %s) returning generation_id",
        [index_id, model_id, chunker.fingerprint, Jsonb(chunker.settings), Jsonb(storage.model_dump())],
    )
    created = generation(connection, int(row[0]))
    assert created is not None
    retry_all(connection, index_id)
    # Vectors stay in the row: out of line (the type's default) each distance would be a second look-up.
    connection.execute(
        sql.SQL(
            """
            create table {} (
                chunk_id uuid primary key,
                document_id bigint not null,
                tenant text not null default 'public',
                embedding {}({}) storage plain not null
            )
            """
        ).format(created.table, sql.SQL(storage.type), sql.Literal(created.dimensions))
    )
    connection.execute("select open_to_search(%s)", [created.generation_id])
    return created


def _one(connection: Connection, where: str, values: list[Any]) -> Generation | None:
    row = connection.execute((_SELECT + where).encode(), values).fetchone()
    return None if row is None else _generation(row)


def _generation(row: tuple[Any, ...]) -> Generation:
    return Generation(*(*row[:-2], StorageConfig.model_validate(row[-2]), row[-1]))


def _returned(connection: Connection, query: str, values: list[Any]) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row
