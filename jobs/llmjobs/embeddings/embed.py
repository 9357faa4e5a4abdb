"""One shard of a refresh: read, cut, encode what was never seen, publish.

Everything it does can be done again: rows of the plan that are closed are passed over, texts that are cached are not
encoded, and a document is published whole or not at all. A killed task's next try goes on where it was.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence

from llmjobs.contracts.embeddings import EmbedConfig, EmbedderConfig, EmbedResult
from llmjobs.contracts.errors import BadConfig
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.cache import Encoded, encode_into_cache, missing_hashes
from llmjobs.embeddings.chunker import Chunk
from llmjobs.embeddings.documents.direct import direct_sources
from llmjobs.embeddings.documents.opened import opened
from llmjobs.embeddings.documents.source import Source
from llmjobs.embeddings.generations import generation
from llmjobs.embeddings.model import Model, Share, keep_precision, model_of
from llmjobs.embeddings.outcomes import Outcome, close_rows
from llmjobs.embeddings.pages import Page, open_rows, pages
from llmjobs.embeddings.publish import Content, publish
from llmjobs.embeddings.targets import Reopen, Target, reopened, targets_of
from llmjobs.lake import Lake
from llmjobs.results import main

logger = logging.getLogger(__name__)


def run(config: EmbedConfig) -> EmbedResult:
    """Embed one shard into the database of ``LLMJOBS_DATABASE_URL``."""
    with connect() as connection:
        sources = opened(config, Lake.from_environment())
        model = model_of(_embedder(connection, config), _share(connection, config))
        return embed(connection, config, sources, model)


def _embedder(connection: Connection, config: EmbedConfig) -> EmbedderConfig:
    """Return the embedder with the precision that the plan found, whatever this machine would choose."""
    row = connection.execute("select generation_id from refresh_run where run_id = %s", [config.run_id]).fetchone()
    planned = generation(connection, row[0]) if row else None
    return keep_precision(config.embedder, planned.model_settings if planned else {})


def embed(
    connection: Connection, config: EmbedConfig, sources: Sequence[Source], model: Model, reopen: Reopen = reopened
) -> EmbedResult:
    """Do the open rows of one shard of a plan.

    Args:
        connection: In autocommit mode.
        config: Names the run and the shard.
        sources: Those of the config.
        model: The config's.
        reopen: Opens the models of other generations that the plan has rows for.

    Raises:
        BadConfig: There is no such run, or model or chunks are not what the run was planned with.
        JobError: Database or provider failed; another try goes on.
    """
    sources = [*sources, *direct_sources(connection, config.name)]
    targets = targets_of(connection, config, model, reopen)
    rows = open_rows(connection, config.run_id, config.shard)
    counts: Counter[str] = Counter()
    embedded = 0
    for generation_id, target in targets.items():
        if isinstance(target, BadConfig):
            stranded = [Outcome(row, "stranded", str(target)) for row in rows.pop(generation_id, [])]
            counts += close_rows(connection, config.run_id, generation_id, stranded)
    usable = {number: target for number, target in targets.items() if isinstance(target, Target)}
    for page in pages(sources, usable, rows):
        for generation_id, part in page.items():
            done, texts = _do(connection, config, usable[generation_id], part)
            counts += done
            embedded += texts
    logger.info("shard %d: %s; %d texts encoded", config.shard, dict(counts) or "nothing left to do", embedded)
    return EmbedResult(
        run_id=config.run_id,
        shard=config.shard,
        published=counts["published"],
        superseded=counts["superseded"],
        vanished=counts["vanished"],
        refused=counts["refused"],
        texts_embedded=embedded,
    )


def _do(connection: Connection, config: EmbedConfig, target: Target, part: Page) -> tuple[Counter[str], int]:
    """Encode and publish one page for one generation; return the outcomes and how many texts were encoded."""
    encoded = encode(connection, config, target, part.contents)
    contents, refused = [], []
    for content in part.contents:
        reason = next((encoded.refused[one] for one in content.hashes if one in encoded.refused), None)
        if reason is None:
            contents.append(content)
        else:
            refused.append(Outcome(content.planned, "refused", reason, error_class="TextRefused"))
    counts = publish(connection, target.generation, config.run_id, contents)
    ended = [*part.outcomes, *refused]
    for outcome in ended:
        if outcome.outcome == "refused":
            logger.warning("%s: %s", outcome.planned.key, outcome.reason)
    return counts + close_rows(connection, config.run_id, target.generation.generation_id, ended), encoded.texts


def encode(connection: Connection, config: EmbedConfig | None, target: Target, contents: Sequence[Content]) -> Encoded:
    """Encode the texts of some documents that the cache does not hold.

    Args:
        connection: In autocommit mode.
        config: Names the run that pays; None: no run does.
        target: Whose model encodes.
        contents: The documents, cut.

    Raises:
        JobError: The provider is in trouble; what it gave before is in the cache.
    """
    texts: dict[bytes, Chunk] = {
        text_hash: chunk
        for content in contents
        for text_hash, chunk in zip(content.hashes, content.chunks, strict=True)
    }
    missing = missing_hashes(connection, target.generation.model_id, texts) if texts else set()
    if not missing:
        return Encoded()
    new = {text_hash: texts[text_hash] for text_hash in sorted(missing)}
    return encode_into_cache(connection, target.generation.model_id, config, new, target.encoder)


def _share(connection: Connection, config: EmbedConfig) -> Share:
    """Return this shard's part of the limits that all shards of the run keep together."""
    row = connection.execute(
        "select count(distinct shard) from refresh_plan where run_id = %s", [config.run_id]
    ).fetchone()
    spent = connection.execute(
        "select cost from refresh_cost where run_id = %s and shard = %s", [config.run_id, config.shard]
    ).fetchone()
    return Share(shards=max(int(row[0]) if row else 1, 1), spent=float(spent[0]) if spent else 0.0)


if __name__ == "__main__":
    sys.exit(main(EmbedConfig, run))
