"""How the rows of a plan end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmjobs.database.connection import Connection
from llmjobs.embeddings.differences import Difference

REASON_CHARACTERS = 300

Ended = Literal["published", "superseded", "vanished", "refused", "stranded"]


@dataclass(frozen=True)
class Outcome:
    """How one row of the plan ended.

    Attributes:
        planned: The row.
        outcome: See the table ``refresh_plan``.
        reason: One sentence, where it was not published.
        error_class: Of what refused it.
        added: Chunks; so are the others.
    """

    planned: Difference
    outcome: Ended
    reason: str = ""
    error_class: str = ""
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0


def close_rows(connection: Connection, run_id: int, generation_id: int, outcomes: Sequence[Outcome]) -> Counter[str]:
    """Close rows of the plan and return how many ended in which way."""
    if outcomes:
        connection.execute(
            """
            update refresh_plan p
            set outcome = o.outcome, reason = o.reason, error_class = o.error_class, chunks_added = o.added,
                chunks_changed = o.changed, chunks_deleted = o.deleted, chunks_unchanged = o.unchanged
            from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::int[],
                    %s::int[])
                as o (source, key, outcome, reason, error_class, added, changed, deleted, unchanged)
            where p.run_id = %s and p.generation_id = %s and p.source = o.source and p.key = o.key
            """,
            [
                [one.planned.source for one in outcomes],
                [one.planned.key for one in outcomes],
                [one.outcome for one in outcomes],
                [one.reason[:REASON_CHARACTERS] for one in outcomes],
                [one.error_class for one in outcomes],
                [one.added for one in outcomes],
                [one.changed for one in outcomes],
                [one.deleted for one in outcomes],
                [one.unchanged for one in outcomes],
                run_id,
                generation_id,
            ],
        )
    return Counter(one.outcome for one in outcomes)
