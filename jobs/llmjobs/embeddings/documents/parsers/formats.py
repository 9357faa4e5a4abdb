"""Which parser reads which file, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.parsed import Parsed
from llmjobs.embeddings.documents.parsers.text import decoded

Parser = Callable[[bytes], Parsed]


@dataclass(frozen=True)
class Format:
    """How one kind of file is read.

    Attributes:
        module: Below `llmjobs.embeddings.documents.parsers`; "" of code.
        language: Of the program, of code only.
        revision: Raise it when the module gives another text for the same bytes.
        packages: Whose versions decide what the text is.
    """

    name: str
    module: str = ""
    language: str = ""
    revision: int = 1
    packages: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What decides, beside the bytes, what the text is."""
        return _fingerprint(self)

    def parse(self, content: bytes) -> Parsed:
        """Return the document in `content`.

        Raises:
            BadData: It cannot be read; the text is one sentence for its owner.
        """
        if not self.module:
            return Parsed(decoded(content), "code", metadata={"programming_language": self.language})
        parser: Parser = import_module(f"llmjobs.embeddings.documents.parsers.{self.module}").parse
        try:
            return parser(content)
        except RecursionError:
            raise BadData("its elements are nested too deeply to be read: flatten it") from None


@cache
def _fingerprint(one: Format) -> str:
    versions = (f"{package} {version(package)}" for package in one.packages)
    return f"{one.name} {one.revision} {' '.join(versions)}".rstrip()


_HTML = ("beautifulsoup4", "lxml", "markdownify")

MARKDOWN = Format("markdown", "markdown")
TEXT = Format("text", "text")
HTML = Format("html", "html", packages=_HTML)
PDF = Format("pdf", "pdf", packages=("pypdf",))
DOCX = Format("docx", "docx", packages=("mammoth", *_HTML))
RST = Format("rst", "rst", packages=("docutils", *_HTML))
JSONL = Format("jsonl")
"""Many documents in one file: `llmjobs.embeddings.documents.lines` reads it."""

_CODE = {
    "bash": "bash sh", "c": "c h", "cpp": "cc cpp cxx hh hpp hxx", "csharp": "cs", "css": "css scss", "dart": "dart",
    "elixir": "ex exs", "erlang": "erl", "fortran": "f90 f95", "go": "go", "haskell": "hs", "java": "java",
    "javascript": "cjs js jsx mjs", "julia": "jl", "kotlin": "kt kts", "lua": "lua", "perl": "pl pm", "php": "php",
    "powershell": "ps1", "protobuf": "proto", "python": "py pyi", "r": "r", "ruby": "rb", "rust": "rs",
    "scala": "scala", "sql": "sql", "swift": "swift", "terraform": "tf", "typescript": "mts ts tsx", "zig": "zig",
}  # fmt: skip

FORMATS: dict[str, Format] = {
    **dict.fromkeys(("md", "markdown", "mdx"), MARKDOWN),
    **dict.fromkeys(("txt", "text"), TEXT),
    **dict.fromkeys(("html", "htm", "xhtml"), HTML),
    **dict.fromkeys(("rst", "rest"), RST),
    **dict.fromkeys(("jsonl", "ndjson"), JSONL),
    "pdf": PDF,
    "docx": DOCX,
    **{
        suffix: Format(f"code {language}", language=language)
        for language, suffixes in _CODE.items()
        for suffix in suffixes.split()
    },
}
"""Suffix in small letters -> format. Other files are not listed."""


def format_of(path: str) -> Format | None:
    """Return the format of a file, None where no parser reads it."""
    return FORMATS.get(path.rpartition(".")[2].lower())


def fingerprints() -> list[str]:
    """Return the fingerprints of all formats, sorted."""
    return sorted({one.fingerprint for one in FORMATS.values()})
