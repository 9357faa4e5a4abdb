"""One shard of a refresh: read, cut, encode what was never seen, publish.

Everything it does can be done again: rows of the plan that are closed are passed over, texts that are cached are not
encoded, and a document is published whole or not at all. A killed task's next try goes on where it was.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import PurePosixPath

from llmjobs.contracts.embeddings import EmbedConfig, EmbedResult
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.cache import encode_into_cache, missing_hashes
from llmjobs.embeddings.chunker import Chunk, Chunker
from llmjobs.embeddings.generations import Generation, generation
from llmjobs.embeddings.model import Encoder, Model, SentenceModel
from llmjobs.embeddings.plan import Difference, chunker_of
from llmjobs.embeddings.publish import Content, publish, write_outcomes
from llmjobs.embeddings.sources import FolderSource, decode
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)

PAGE_CHUNKS = 1024
"""A page is published when it holds so many chunks: bounds memory, and what a transaction holds."""

PAGE_DOCUMENTS = 100

MARKDOWN = {".md", ".markdown", ".mdx"}


def run(config: EmbedConfig) -> EmbedResult:
    """Embed one shard into the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        return embed(connection, config, Lake.from_environment(), SentenceModel(config.embedder))


def embed(connection: Connection, config: EmbedConfig, lake: Lake, model: Model) -> EmbedResult:
    """Do the open rows of one shard of a plan.

    Raises:
        BadConfig: There is no such run, or model or chunks are not what the run was planned with.
        JobError: The database failed; another try goes on.
    """
    target = _target(connection, config, model)
    source = FolderSource(config.inputs[0], lake)
    chunker = chunker_of(config, model)
    load = cache(model.load)  # only when a text must be encoded
    outcomes: Counter[str] = Counter()
    embedded = 0
    for page, refusals in _pages(source, chunker, _open_rows(connection, config)):
        _refuse_cut_chunks(page, model)
        embedded += _encode(connection, target, config.run_id, page, load)
        outcomes += publish(connection, target, config.run_id, page)
        write_outcomes(connection, config.run_id, [(*refusal, 0, 0, 0, 0) for refusal in refusals])
        outcomes += Counter(outcome for _, outcome, _ in refusals)
    logger.info("shard %d: %s; %d texts encoded", config.shard, dict(outcomes) or "nothing left to do", embedded)
    return EmbedResult(
        run_id=config.run_id,
        shard=config.shard,
        published=outcomes["published"],
        superseded=outcomes["superseded"],
        vanished=outcomes["vanished"],
        refused=outcomes["refused"],
        texts_embedded=embedded,
    )


Refusal = tuple[str, str, str]
"""Key, outcome (``vanished``, ``refused``), reason."""


def _target(connection: Connection, config: EmbedConfig, model: Model) -> Generation:
    row = connection.execute("select generation_id from refresh_run where run_id = %s", [config.run_id]).fetchone()
    found = generation(connection, row[0]) if row else None
    if found is None:
        raise BadConfig(f"{config.name}: run {config.run_id} is not in the database or was replaced: start a new run")
    if found.fingerprint != model.fingerprint + chunker_of(config, model).fingerprint:
        raise BadConfig(f"{config.name}: model or chunks differ from those of run {config.run_id}: start a new run")
    return found


def _open_rows(connection: Connection, config: EmbedConfig) -> list[Difference]:
    rows = connection.execute(
        """
        select key, operation, content_hash, previous_hash from refresh_plan
        where run_id = %s and shard = %s and outcome is null order by key
        """,
        [config.run_id, config.shard],
    ).fetchall()
    return [Difference(*row) for row in rows]


def _pages(
    source: FolderSource, chunker: Chunker, rows: list[Difference]
) -> Iterator[tuple[list[Content], list[Refusal]]]:
    """Read and cut documents, and yield them in pages of a bounded size."""
    contents: list[Content] = []
    refusals: list[Refusal] = []
    for row in rows:
        try:
            contents.append(_read(source, chunker, row))
        except FileNotFoundError:
            refusals.append((row.key, "vanished", "gone since the plan; the next run decides"))
        except BadData as error:
            logger.warning("%s: %s", row.key, error)
            refusals.append((row.key, "refused", str(error)))
        full = sum(len(content.chunks) for content in contents) >= PAGE_CHUNKS
        if full or len(contents) >= PAGE_DOCUMENTS:
            yield contents, refusals
            contents, refusals = [], []
    if contents or refusals:
        yield contents, refusals


def _read(source: FolderSource, chunker: Chunker, row: Difference) -> Content:
    """Cut one document; what is read now counts, should it differ from what the plan saw."""
    if row.operation == "delete":
        return Content(row, None)
    raw = source.read(row.key)
    markdown = PurePosixPath(row.key).suffix.lower() in MARKDOWN
    return Content(row, _sha256(raw), chunker.chunks(decode(raw), markdown=markdown))


def _refuse_cut_chunks(page: list[Content], model: Model) -> None:
    """Raise where the model would silently read less than a chunk holds; the chunker sees to it that none does."""
    for content in page:
        for chunk in content.chunks:
            if chunk.tokens > model.max_tokens:
                raise JobError(
                    f"{content.planned.key}: a chunk at character {chunk.start_char} has {chunk.tokens} tokens and the "
                    f"model reads {model.max_tokens}: a defect of the chunker, please report it"
                )


def _encode(
    connection: Connection, target: Generation, run_id: int, page: list[Content], load: Callable[[], Encoder]
) -> int:
    texts: dict[bytes, Chunk] = {chunk.text_hash: chunk for content in page for chunk in content.chunks}
    missing = missing_hashes(connection, target.model_id, texts) if texts else set()
    if not missing:
        return 0
    new = [texts[text_hash] for text_hash in sorted(missing)]
    return encode_into_cache(connection, target.model_id, run_id, new, load())


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


if __name__ == "__main__":
    sys.exit(main(EmbedConfig, run))
