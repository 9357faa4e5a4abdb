"""The guard against what looks like a missing mount rather than like deleted documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmjobs.contracts.embeddings import RefreshConfig
from llmjobs.contracts.errors import BadData
from llmjobs.database.connection import Connection
from llmjobs.embeddings.differences import Difference
from llmjobs.embeddings.generations import Generation
from llmjobs.embeddings.held import held_counts
from llmjobs.embeddings.survey import Survey


def guard(
    connection: Connection,
    config: RefreshConfig,
    generation: Generation,
    found: Sequence[Survey],
    differences: Sequence[Difference],
) -> None:
    """Refuse a run that would delete more of a source, or of the whole index, than the config allows.

    Args:
        connection: For what is held.
        config: Its limit.
        generation: The one that answers; the only one where none answers yet.
        found: The sources.
        differences: What that generation would do.

    Raises:
        BadData: It would; or a source has nothing and never had.
    """
    gone = Counter(one.source for one in differences if one.operation == "delete")
    empty = [one.source for one in found if one.scan.complete and not one.scan.stamps]
    if not gone and not empty:
        return
    held = held_counts(connection, generation)
    for source in empty:
        if not held.get(source):
            raise BadData(
                f"{config.name}: source {source} holds no document that can be read: put documents there, or correct it"
            )
    if config.allow_mass_delete:
        return
    for source in (one.source for one in found):
        _check(config, gone[source], held.get(source, 0), f"are no longer in source {source}")
    named = {one.source for one in found}
    removed = ", ".join(sorted(gone.keys() - named))
    of_removed = f" (the config no longer names {removed})" if removed else ""
    _check(config, gone.total(), sum(held.values()), f"are no longer in the sources{of_removed}")


def _check(config: RefreshConfig, gone: int, held: int, what: str) -> None:
    if gone > config.max_delete_share * held:
        raise BadData(
            f"{config.name}: {gone} of {held} indexed documents {what}, more than max_delete_share "
            f"{config.max_delete_share:g} allows, so nothing was deleted: check that the source is complete "
            "(a folder that is not mounted?), or run once with allow_mass_delete"
        )
