"""HTML: the main part of a page as Markdown, with its headings; navigation, scripts and forms left out."""

from __future__ import annotations

import re
from typing import Any

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed

_NO_TEXT = (
    "script", "style", "noscript", "template", "nav", "footer", "aside", "form", "button", "svg", "iframe", "object",
    "[hidden]", '[aria-hidden="true"]', '[role="navigation"]', '[role="search"]', "a.headerlink", "img",
)  # fmt: skip
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")


def parse(content: bytes) -> Parsed:
    """Return a page.

    Raises:
        BadData: Its bytes are not in the encoding that it states, or in none that is known.
    """
    from bs4.dammit import UnicodeDammit

    read = UnicodeDammit(content, is_html=True)
    if read.unicode_markup is None or read.contains_replacement_characters:
        raise BadData("its bytes are not in the encoding that it states: save the page as UTF-8")
    return page(read.unicode_markup)


def page(markup: str) -> Parsed:
    """Return the main part of an HTML text: ``main``, else the only ``article``, else the body."""
    from bs4 import BeautifulSoup

    markup = _DECLARATION.sub("", markup)
    if "<" not in markup:
        return Parsed(markup, "markdown")
    soup = BeautifulSoup(markup, "lxml")
    title = soup.title.get_text() if soup.title else ""
    language = soup.html.get("lang") if soup.html else None
    for element in soup.select(",".join(_NO_TEXT)):
        element.decompose()
    articles = soup.find_all("article")
    main = soup.find("main") or soup.select_one("[role=main]") or (articles[0] if len(articles) == 1 else None)
    chosen = main or soup.body or soup
    heading = chosen.find("h1")
    stated = " ".join(title.split()) or (" ".join(heading.get_text().split()) if heading else "")
    return Parsed(_markdown(chosen), "markdown", stated, {"language": language} if language else {})


def _markdown(element: Any) -> str:
    from markdownify import MarkdownConverter

    converter = MarkdownConverter(
        heading_style="ATX", bullets="-", strip=["a"], escape_asterisks=False, escape_underscores=False
    )
    text = str(converter.convert_soup(element))
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"
