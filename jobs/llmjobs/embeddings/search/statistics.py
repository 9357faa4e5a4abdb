"""What the pipeline calls to keep search right: once for each new vector table, and after each change of chunks."""

from __future__ import annotations

from typing import Literal, cast

from llmjobs.database.connection import Connection


def open_to_search(connection: Connection, generation_id: int) -> None:
    """Put a new generation's vector table under row-level security and index it for narrow filters.

    Call it once, in the transaction that makes ``chunk_vector_<generation_id>`` (chunk_id, document_id, tenant,
    embedding). A table that this was not called for cannot be read by searches at all.
    """
    connection.execute("select open_to_search(%s)", [generation_id])


def refresh_statistics(connection: Connection, generation_id: int) -> Literal["kept", "changed", "counted"]:
    """Bring a generation's word statistics up to date; BM25 ranks by them.

    Call it when a run has published what it has, for each generation that it changed, inside a transaction or outside.
    Nothing changed: one look-up and no write (``kept``). Little changed: the chunks that came and went are added up,
    exactly, from what triggers on ``chunk`` noted (``changed``). Never counted before, or the sums do not agree with
    the vector table: all is counted anew (``counted``), about one CPU second for 50,000 chunks. Until it is called a
    search finds the new chunks too, it only weighs their words by the former statistics.
    """
    row = connection.execute("select refresh_statistics(%s)", [generation_id]).fetchone()
    assert row is not None
    return cast(Literal["kept", "changed", "counted"], row[0])
