from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.embeddings import FilesSource
from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.chunker import Chunk, Chunker
from llmjobs.embeddings.sources import FolderSource, decode
from llmjobs.lake import Lake
from tests.jobs.embeddings.night import CountingModel

TOKENIZER = CountingModel().tokenizer


def cut(text: str, *, max_tokens: int = 40, markdown: bool = True, prefix: str = "") -> list[Chunk]:
    return Chunker(TOKENIZER, max_tokens=max_tokens, prefix=prefix).chunks(text, markdown=markdown)


def test_the_path_of_headings_stays_with_each_chunk() -> None:
    text = "Before.\n\n# Guide\n\nIntro.\n\n## Set-up\n\n### Ports\n\nText.\n\n## Use\n\nMore.\n"
    assert [(chunk.heading, chunk.content) for chunk in cut(text)] == [
        ("", "Before."),
        ("Guide", "Intro."),
        ("Guide > Set-up > Ports", "Text."),
        ("Guide > Use", "More."),
    ]


def test_the_heading_path_and_the_prefix_are_embedded_and_counted() -> None:
    (chunk,) = cut("# Guide\n\nSome text.", prefix="passage: ")
    assert chunk.embedded_text == "passage: Guide\n\nSome text."
    assert chunk.tokens == len(TOKENIZER.encode(chunk.embedded_text).ids)


@pytest.mark.parametrize(
    "text",
    [
        "```\n# no heading\n```\n",
        "> # quoted\n>\n> text\n",
        "- # in a list\n",
        "    # indented code\n",
    ],
)
def test_what_only_looks_like_a_heading_of_the_document_is_none(text: str) -> None:
    assert {chunk.heading for chunk in cut("# Top\n\n" + text)} == {"Top"}


def test_an_underlined_heading_is_one() -> None:
    assert [(chunk.heading, chunk.content) for chunk in cut("Title\n=====\n\nText.\n")] == [("Title", "Text.")]


def test_a_heading_without_text_is_not_lost() -> None:
    chunks = cut("# Guide\n\n## To be written\n\n## Done\n\nText.")
    assert [(chunk.heading, chunk.content) for chunk in chunks] == [
        ("Guide > To be written", "## To be written"),
        ("Guide > Done", "Text."),
    ]


def test_a_very_long_path_of_headings_leaves_room_for_text() -> None:
    long = " ".join(f"word{n}" for n in range(60))
    chunks = cut(f"# {long}\n\n## Short\n\n" + "Some more text here. " * 20)
    assert {chunk.heading for chunk in chunks} == {f"{long} > Short"}
    assert {chunk.embedded_text.split("\n\n")[0] for chunk in chunks} == {"Short"}


def test_plain_text_has_no_headings() -> None:
    assert [(chunk.heading, chunk.content) for chunk in cut("# not Markdown\n", markdown=False)] == [
        ("", "# not Markdown")
    ]


@pytest.mark.parametrize("text", ["", " \n\n", "\t"])
def test_no_text_gives_no_chunk(text: str) -> None:
    assert cut(text) == []


words = st.text(st.sampled_from("ab cd.é日 \n#`-*>|1"), min_size=0, max_size=400)


@settings(max_examples=200, deadline=None)
@given(text=words, max_tokens=st.integers(32, 60))
def test_no_chunk_is_too_long_and_no_text_is_lost(text: str, max_tokens: int) -> None:
    chunks = cut(text, max_tokens=max_tokens)
    covered = set()
    for chunk in chunks:
        assert chunk.tokens == len(TOKENIZER.encode(chunk.embedded_text).ids) <= max_tokens
        assert text[chunk.start_char : chunk.end_char] == chunk.content
        covered |= set(range(chunk.start_char, chunk.end_char))
    headings = "".join(chunk.heading for chunk in chunks)
    lost = "".join(character for index, character in enumerate(text) if index not in covered)
    # What no chunk holds is white space, or the line of a heading, whose words are in its chunks' paths.
    for line in lost.split("\n"):
        assert line.strip().strip("#").strip() in headings or set(line.strip()) <= set("#=-> ")


def test_an_edit_changes_only_its_own_section() -> None:
    sections = [f"## Part {n}\n\n" + "".join(f"Sentence {n} {m} of many. " for m in range(30)) for n in range(8)]
    before = {chunk.text_hash for chunk in cut("# T\n\n" + "\n\n".join(sections))}
    sections[3] = sections[3].replace("Sentence", "Inserted words. Sentence", 1)
    after = cut("# T\n\n" + "\n\n".join(sections))
    assert {chunk.heading for chunk in after if chunk.text_hash not in before} == {"T > Part 3"}
    assert len(after) > 20


def test_other_settings_have_another_fingerprint() -> None:
    one, same, other = (Chunker(TOKENIZER, max_tokens=n) for n in (40, 40, 41))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_line_ends_and_byte_order_marks_are_read() -> None:
    assert decode("\ufeff# A\r\n\r\nb\rc".encode()) == "# A\n\nb\nc"


@pytest.mark.parametrize(("content", "reason"), [(b"caf\xe9", "byte 3 is no UTF-8"), (b"a\0b", "character 1 is a NUL")])
def test_what_is_no_text_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BadData, match=reason):
        decode(content)


def test_documents_of_any_filesystem_are_listed_once_each() -> None:
    lake = Lake("memory://embeddings-lake")
    for key in ("a.md", "deep/er/b.md", "c.txt", "image.png", ".hidden/d.md"):
        lake.fs.pipe_file(f"/embeddings-lake/documents/x/{key}", key.encode())
    config = FilesSource(url="documents/x", include=("**/*.md", "**/*.txt", "*.md"))
    source = FolderSource(config, lake)
    assert [document.key for document in source.list_documents()] == ["a.md", "c.txt", "deep/er/b.md"]
    assert source.read("deep/er/b.md") == b"deep/er/b.md"
    same = FolderSource(FilesSource(url="memory://embeddings-lake/documents/x", include=("*.md",)), lake)
    assert [document.key for document in same.list_documents()] == ["a.md"]
