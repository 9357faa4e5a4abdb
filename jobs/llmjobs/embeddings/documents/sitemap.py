"""Documents of a web site: the pages that its sitemap names."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase

from llmjobs.contracts.embeddings import SitemapSource
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.making import LARGEST_DOCUMENT, Maker, with_languages
from llmjobs.embeddings.documents.parsers.formats import HTML, MARKDOWN, PDF, TEXT, Format
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.source import Document, Place, Scan, Unreadable
from llmjobs.embeddings.documents.web import Answer, Site

logger = logging.getLogger(__name__)

_FORMATS: dict[str, Format] = {
    "text/html": HTML, "application/xhtml+xml": HTML, "text/plain": TEXT, "text/markdown": MARKDOWN,
    "application/pdf": PDF,
}  # fmt: skip
_GONE = {404, 410}
_MOST_SITEMAPS = 1000
_TOGETHER = 32


class SitemapDocuments:
    """Pages; see `llmjobs.embeddings.documents.source.Source`.

    A container is a page, by its URL; its document has the same key. Its stamp is the sitemap's ``lastmod``; of a page
    without one the etag or time of change that a HEAD request gives; "" where the site says nothing, and then the page
    is read each time. Only pages of the sitemap's own host are read, and only those that robots.txt allows.

    Args:
        config: Sitemap, globs, pace.
    """

    def __init__(self, config: SitemapSource) -> None:
        """Keep the config; nothing is asked yet."""
        self._config = config
        self._maker = Maker(config)

    @property
    def name(self) -> str:
        """See `Source`."""
        return self._config.name

    @property
    def settings_digest(self) -> bytes:
        """See `Source`."""
        formats = {media: one.fingerprint for media, one in _FORMATS.items()}
        return self._maker.settings_digest(formats=formats)

    def scan(self, watermark: str = "", *, full: bool = False) -> Scan:  # noqa: ARG002 (a sitemap says all)
        """List the pages.

        Raises:
            BadData: The sitemap is absent or broken, or names too many pages.
            JobError: The site cannot be reached, or stays busy.
        """
        with self._site() as site:
            listed = {url: changed for url, changed in self._pages(site) if self._is_wanted(url)}
            allowed = {url: changed for url, changed in listed.items() if site.holds(url) and site.allows(url)}
            if len(allowed) < len(listed):
                refused = len(listed) - len(allowed)
                logger.info("%s: %d pages left out: another host's, or refused by robots.txt", self.name, refused)
            if len(allowed) > self._config.most_pages:
                raise BadData(
                    f"{self._config.url} names {len(allowed):,} pages, above most_pages {self._config.most_pages:,}:"
                    " raise it, or choose by include and exclude"
                )
            return Scan({url: changed or _asked(site, url) for url, changed in allowed.items()})

    def hashes(self, containers: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes] | Unreadable]]:
        """See `Source`. What counts is a page's text: the rest of it may change with every request."""
        with self._site() as site:
            for url in containers:
                try:
                    found = self._read(site, url)
                except BadData as error:
                    yield url, Unreadable(Place(url, url), str(error))
                    continue
                if found is not None:
                    yield url, {url: self._hash(found[0])}

    def read(self, places: Collection[Place]) -> Iterator[Document | Unreadable]:
        """See `Source`."""
        readable: list[Document] = []
        with self._site() as site:
            for place in places:
                try:
                    found = self._read(site, place.container)
                    if found is None:
                        continue
                    parsed, changed = found
                    readable.append(self._maker.document(place, self._hash(parsed), parsed, updated_at=changed))
                except BadData as error:
                    yield Unreadable(place, str(error))
                if len(readable) == _TOGETHER:
                    yield from with_languages(readable)
                    readable = []
        yield from with_languages(readable)

    def _site(self) -> Site:
        config = self._config
        return Site(config.url, user_agent=config.user_agent, requests_per_second=config.requests_per_second)

    def _is_wanted(self, url: str) -> bool:
        included = any(fnmatchcase(url, glob) for glob in self._config.include)
        return included and not any(fnmatchcase(url, glob) for glob in self._config.exclude)

    def _pages(self, site: Site) -> Iterator[tuple[str, str]]:
        """Yield the pages of the sitemap, and of those that it names, each with its time of change or ""."""
        waiting, seen = [self._config.url], {self._config.url}
        while waiting:
            url = waiting.pop(0)
            answer = site.get(url)
            if answer.status != 200:
                raise BadData(f"source.url: {url} answers {answer.status}: correct it, or put a sitemap there")
            is_index, entries = _entries(answer.body, url)
            if not is_index:
                yield from entries
                continue
            more = [entry for entry, _ in entries if site.holds(entry) and entry not in seen]
            waiting += more
            seen |= set(more)
            if len(seen) > _MOST_SITEMAPS:
                raise BadData(f"source.url: {self._config.url} names more than {_MOST_SITEMAPS:,} sitemaps")

    def _read(self, site: Site, url: str) -> tuple[Parsed, datetime | None] | None:
        """Return a page and when it was changed, None where it is gone.

        Raises:
            BadData: It cannot be read.
        """
        if not site.holds(url):
            raise BadData(f"{url} is on another host than the sitemap")
        answer = site.get(url)
        if answer.status in _GONE:
            return None
        if answer.status != 200:
            raise BadData(f"the page answers {answer.status}")
        media = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
        if media not in _FORMATS:
            raise BadData(f"the page is {media}, which is not read: exclude it")
        return _FORMATS[media].parse(answer.body), _changed(answer)

    def _hash(self, parsed: Parsed) -> bytes:
        content = json.dumps([parsed.text, parsed.form, parsed.title, dict(parsed.metadata)], default=str)
        return self._maker.hash(content.encode(), "page")


def _entries(content: bytes, url: str) -> tuple[bool, list[tuple[str, str]]]:
    """Return whether a sitemap is an index of others, and its entries: URL and time of change or "".

    Raises:
        BadData: It is no sitemap.
    """
    from lxml import etree

    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(content, url)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise BadData(f"source.url: {url} is no XML: {str(error).splitlines()[0]}") from None
    kind = etree.QName(root).localname
    if kind not in {"urlset", "sitemapindex"}:
        raise BadData(f"source.url: {url} is no sitemap: its root is {kind}, not urlset or sitemapindex")
    entries = [
        ((element.findtext("{*}loc") or "").strip(), (element.findtext("{*}lastmod") or "").strip())
        for element in root.iterchildren("{*}url", "{*}sitemap")
    ]
    return kind == "sitemapindex", [entry for entry in entries if entry[0]]


def _unpacked(content: bytes, url: str) -> bytes:
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(content, LARGEST_DOCUMENT + 1)
    except zlib.error:
        raise BadData(f"source.url: {url} is a broken gzip file") from None
    if len(unpacked) > LARGEST_DOCUMENT:
        raise BadData(f"source.url: {url} unpacks to more than {LARGEST_DOCUMENT:,} bytes")
    return unpacked


def _asked(site: Site, url: str) -> str:
    """Return the stamp of a page whose sitemap gives none, "" where its server gives none either."""
    try:
        answer = site.get(url, method="HEAD")
    except BadData:  # reading it will say so
        return ""
    return answer.headers.get("etag") or answer.headers.get("last-modified") or ""


def _changed(answer: Answer) -> datetime | None:
    try:
        stated = parsedate_to_datetime(answer.headers.get("last-modified", ""))
    except ValueError:
        return None
    return stated if stated.tzinfo else stated.replace(tzinfo=UTC)
