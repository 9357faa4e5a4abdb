from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmjobs.contracts.embeddings import SitemapSource
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.sitemap import SitemapDocuments
from llmjobs.embeddings.documents.source import Document, Place, Unreadable
from llmjobs.embeddings.documents.web import Site


class Web:
    """A site on loopback: path -> status, headers, body; `asked` are the requests."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(f"{self.command} {self.path}")
                status, headers, body = web.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"content-type": "text/html", "content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, path: str, body: str | bytes, status: int = 200, **headers: str) -> None:
        self.pages[path] = (status, headers, body.encode() if isinstance(body, str) else body)

    def source(self, **fields: object) -> SitemapDocuments:
        given = {"url": f"{self.url}/sitemap.xml", "requests_per_second": 1000}
        return SitemapDocuments(SitemapSource.model_validate({**given, **fields}))


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


def urls(*entries: tuple[str, str], root: str = "urlset", of: str = "url") -> str:
    lines = "".join(f"<{of}><loc>{loc}</loc>{f'<lastmod>{at}</lastmod>' if at else ''}</{of}>" for loc, at in entries)
    return f'<{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{lines}</{root}>'


def test_pages_are_listed_by_the_sitemap_and_read_where_robots_may(web: Web) -> None:
    web.put("/robots.txt", "User-agent: *\nDisallow: /private/\n")
    web.put("/sitemap.xml", urls((f"{web.url}/more.xml.gz", ""), root="sitemapindex", of="sitemap"))
    pages = [(f"{web.url}/a", "2026-11-01"), (f"{web.url}/b", ""), (f"{web.url}/private/c", "2026-11-01")]
    web.put("/more.xml.gz", gzip.compress(urls(*pages, ("http://elsewhere.example/d", "2026-11-01")).encode()))
    web.put("/a", "<h1>A</h1><p>text</p>")
    web.put("/b", "<h1>B</h1>", etag='"1"')
    found = web.source()
    assert found.scan().stamps == {f"{web.url}/a": "2026-11-01", f"{web.url}/b": '"1"'}
    assert "GET /b" not in web.asked
    ((_, hashes),) = found.hashes([f"{web.url}/a"])
    (read,) = found.read([Place(f"{web.url}/a", f"{web.url}/a")])
    assert isinstance(read, Document)
    assert hashes == {f"{web.url}/a": read.content_hash}
    assert (read.text, read.title) == ("# A\n\ntext\n", "A")


def test_what_cannot_be_read_says_so_and_what_is_gone_is_passed_over(web: Web) -> None:
    web.put("/away", "", 302, location="http://169.254.169.254/latest")
    web.put("/moved", "", 301, location="/here")
    web.put("/here", "<p>here</p>")
    web.put("/zip", "x", 200, **{"content-type": "application/zip"})
    places = [Place(f"{web.url}{path}", f"{web.url}{path}") for path in ("/away", "/moved", "/zip", "/gone")]
    away, zipped, moved = web.source().read(places)
    assert isinstance(away, Unreadable)
    assert "leads to another host, 169.254.169.254" in away.reason
    assert isinstance(zipped, Unreadable)
    assert isinstance(moved, Document)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html></html>", "its root is html"),
        ("no xml", "is no XML"),
        (b"\x1f\x8bbroken", "broken gzip"),
        ("", "names 3 pages, above most_pages"),
    ],
)
def test_a_sitemap_that_cannot_be_meant_is_refused(web: Web, body: str | bytes, said: str) -> None:
    three = urls(*((f"{web.url}/{n}", "2026-11-01") for n in range(3)))
    web.put("/sitemap.xml", three if "most_pages" in said else body)
    with pytest.raises(BadData, match=said):
        web.source(most_pages=2).scan()


def test_a_busy_site_is_waited_for(web: Web) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if seconds == 7:
            web.put("/a", "there")

    web.put("/a", "", 429, **{"retry-after": "7"})
    with Site(web.url, user_agent="x", requests_per_second=1000, wait=wait) as site:
        assert site.get(f"{web.url}/a").body == b"there"
    assert 7 in waited


def test_a_host_that_turns_private_is_refused(web: Web) -> None:
    web.put("/a", "secret")
    with Site(web.url, user_agent="x", requests_per_second=1000) as site:
        site._private = False  # it was public when the sitemap was read
        with pytest.raises(BadData, match="private network"):
            site.get(f"{web.url}/a")
