"""reStructuredText as Markdown, with its headings. Nothing is included from files, and nothing raw passes."""

from __future__ import annotations

from typing import Any

from llmjobs.embeddings.documents.parsers.html import page
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.parsers.text import decoded

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "halt_level": 6,
    "report_level": 6,
    "warning_stream": False,
    "embed_stylesheet": False,
    "initial_header_level": 1,
    "math_output": "LaTeX",
    "syntax_highlight": "none",
    "doctitle_xform": False,
    "smart_quotes": False,
}


def parse(content: bytes) -> Parsed:
    """Return a document; what docutils does not know (Sphinx's own directives and roles) stays as it is written."""
    from docutils.core import publish_doctree, publish_from_doctree

    tree = publish_doctree(decoded(content), settings_overrides=_SETTINGS)
    _keep_unknown(tree)
    html = publish_from_doctree(tree, writer="html5", settings_overrides={**_SETTINGS, "output_encoding": "unicode"})
    parsed = page(html)
    first = next((line for line in parsed.text.split("\n") if line.startswith("# ")), "")
    return Parsed(parsed.text, "markdown", first.removeprefix("# ").strip())


def _keep_unknown(tree: Any) -> None:
    """Put the text of directives that are not known where docutils put a message about them."""
    from docutils import nodes

    for message in list(tree.findall(nodes.system_message)):
        written = [block for block in message.findall(nodes.literal_block) if block.astext().strip()]
        kept = [nodes.paragraph("", _body(block.astext())) for block in written]
        message.parent.replace(message, kept)


def _body(directive: str) -> str:
    """Return a directive without its mark, name and options."""
    first, *rest = directive.split("\n")
    argument = first.partition("::")[2].strip()
    body = [line.strip() for line in rest if not line.strip().startswith(":")]
    return " ".join(part for part in [argument, *body] if part)
