"""The work of a shard in pages of a bounded size: a document is read once and cut for each generation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.database.connection import Connection
from llmjobs.embeddings.differences import Difference
from llmjobs.embeddings.documents.source import Document, Place, Source, Unreadable
from llmjobs.embeddings.outcomes import Outcome
from llmjobs.embeddings.publish import Content
from llmjobs.embeddings.targets import Target

PAGE_CHUNKS = 500
"""A page is published when it holds so many chunks: bounds memory, and what a transaction holds."""

PAGE_DOCUMENTS = 200

Rows = Mapping[int, Sequence[Difference]]
"""Generation -> rows of the plan that are open."""


@dataclass
class Page:
    """Documents to publish, and rows that end without."""

    contents: list[Content] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether it is to be published before more is read."""
        chunks = sum(len(content.chunks) for content in self.contents)
        return chunks >= PAGE_CHUNKS or len(self.contents) + len(self.outcomes) >= PAGE_DOCUMENTS


def open_rows(connection: Connection, run_id: int, shard: int) -> dict[int, list[Difference]]:
    """Return what is left to do of a shard, by generation."""
    rows = connection.execute(
        """
        select generation_id, source, container, key, operation, content_hash, previous_hash from refresh_plan
        where run_id = %s and shard = %s and outcome is null order by source, container, key
        """,
        [run_id, shard],
    ).fetchall()
    found: dict[int, list[Difference]] = defaultdict(list)
    for generation_id, *row in rows:
        found[generation_id].append(Difference(*row))
    return found


def pages(sources: Sequence[Source], targets: Mapping[int, Target], rows: Rows) -> Iterator[dict[int, Page]]:
    """Yield pages by generation: first what is gone, then what must be read.

    One page is read and cut in a thread of its own while the caller encodes and publishes the one before.
    """
    made = _pages(sources, targets, rows)
    with ThreadPoolExecutor(1, thread_name_prefix="pages") as pool:
        coming = pool.submit(next, made, None)
        while page := coming.result():
            coming = pool.submit(next, made, None)
            yield page


def _pages(sources: Sequence[Source], targets: Mapping[int, Target], rows: Rows) -> Iterator[dict[int, Page]]:
    page: dict[int, Page] = defaultdict(Page)
    for generation_id, contents in _all(sources, targets, rows):
        part = page[generation_id]
        (part.contents if isinstance(contents, Content) else part.outcomes).append(contents)  # type: ignore[arg-type]
        if part.full:
            yield page
            page = defaultdict(Page)
    if page:
        yield page


def _all(
    sources: Sequence[Source], targets: Mapping[int, Target], rows: Rows
) -> Iterator[tuple[int, Content | Outcome]]:
    for generation_id in targets:
        for row in rows.get(generation_id, ()):
            if row.operation == "delete":
                yield generation_id, Content(row, None)
    for source in sources:
        yield from _read(source, targets, rows)


def _read(source: Source, targets: Mapping[int, Target], rows: Rows) -> Iterator[tuple[int, Content | Outcome]]:
    """Read the documents of one source and cut them for each generation."""
    wanted: dict[Place, dict[int, Difference]] = defaultdict(dict)
    for generation_id in targets:
        for row in rows.get(generation_id, ()):
            if row.source == source.name and row.operation != "delete":
                wanted[row.place][generation_id] = row
    for one in source.read(list(wanted)) if wanted else ():
        if isinstance(one, Document):
            for generation_id, row in wanted.pop(one.place, {}).items():
                yield generation_id, cut(targets[generation_id], row, one)
        else:
            for place in _meant(one, wanted):
                for generation_id, row in wanted.pop(place).items():
                    yield generation_id, Outcome(row, "refused", one.reason, error_class="Unreadable")
    for left in wanted.values():
        for generation_id, row in left.items():
            yield generation_id, Outcome(row, "vanished", "gone since the plan; the next run decides")


def _meant(one: Unreadable, wanted: Mapping[Place, object]) -> list[Place]:
    """Return the document that cannot be read, or all that are wanted of the container."""
    if one.place in wanted:
        return [one.place]
    whole = one.place.key == one.place.container
    return [place for place in wanted if whole and place.container == one.place.container]


def cut(target: Target, row: Difference, document: Document) -> Content | Outcome:
    """Cut one document; what is read now counts, should it differ from what the plan saw."""
    try:
        chunks = target.chunker.chunks(document.text, form=document.form, title=document.title, whole=document.whole)
        too_long = next((chunk for chunk in chunks if chunk.tokens > target.model.max_tokens), None)
        if too_long is not None:
            raise BadData(
                f"a chunk at character {too_long.start_char} has {too_long.tokens} tokens and the model reads "
                f"{target.model.max_tokens}: a defect of the chunker, please report it"
            )
    except (MemoryError, BadConfig):
        raise
    except Exception as error:  # one document must not keep all others from being indexed
        reason = str(error) if isinstance(error, JobError) else f"cannot be cut: {type(error).__name__}"
        return Outcome(row, "refused", reason, error_class=type(error).__name__)
    return Content(row, document, chunks)
