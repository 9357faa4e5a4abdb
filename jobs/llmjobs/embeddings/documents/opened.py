"""From a config to the sources that it names."""

from __future__ import annotations

from llmjobs.contracts.embeddings import (
    FilesSource,
    RefreshConfig,
    SitemapSource,
    SourceConfig,
    SqlSource,
)
from llmjobs.embeddings.documents.source import Source
from llmjobs.lake import Lake


def opened(config: RefreshConfig, lake: Lake) -> list[Source]:
    """Return a config's sources, in its order; nothing is listed or reached yet.

    Args:
        config: Its sources, and the run's data interval.
        lake: What a folder without a scheme is relative to, and where datasets are published.

    Raises:
        BadConfig: A source cannot be what the config says.
    """
    return [_opened(source, config, lake) for source in config.inputs]


def _opened(source: SourceConfig, config: RefreshConfig, lake: Lake) -> Source:
    if isinstance(source, FilesSource):
        from llmjobs.embeddings.documents.files import FileDocuments

        return FileDocuments(source, lake, interval_start=config.interval_start, interval_end=config.interval_end)
    if isinstance(source, SqlSource):
        from llmjobs.embeddings.documents.sql import SqlDocuments

        return SqlDocuments(source)
    if isinstance(source, SitemapSource):
        from llmjobs.embeddings.documents.sitemap import SitemapDocuments

        return SitemapDocuments(source)
    from llmjobs.embeddings.documents.dataset import DatasetDocuments

    return DatasetDocuments(source, lake)
