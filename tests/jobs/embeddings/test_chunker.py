from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.embeddings.chunker import Chunk, Chunker
from llmjobs.embeddings.documents.source import Form
from llmjobs.embeddings.embedders.tokens import ByteTokens, Tokens
from tests.benchmarks.chunk_borders import new_chunks
from tests.jobs.embeddings.night import CountingModel

TOKENS = CountingModel().tokens


def cut(text: str, *, max_tokens: int = 40, form: Form = "markdown", prefix: str = "") -> list[Chunk]:
    return Chunker(TOKENS, max_tokens=max_tokens, prefix=prefix).chunks(text, form=form)


def counted(text: str, tokens: Tokens = TOKENS) -> int:
    return tokens.count([text])[0]


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
    assert chunk.tokens == counted(chunk.embedded_text)


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
    assert [(chunk.heading, chunk.content) for chunk in cut("# not Markdown\n", form="text")] == [
        ("", "# not Markdown")
    ]


@pytest.mark.parametrize("text", ["", " \n\n", "\t"])
def test_no_text_gives_no_chunk(text: str) -> None:
    assert cut(text) == []


words = st.text(st.sampled_from("ab cd.é日 \n#`-*>|1"), min_size=0, max_size=400)


@settings(max_examples=150, deadline=None)
@given(
    text=words,
    max_tokens=st.integers(40, 60),
    form=st.sampled_from(["markdown", "text", "code"]),
    tokens=st.sampled_from([TOKENS, ByteTokens()]),
)
def test_no_chunk_is_too_long_and_no_text_is_lost(text: str, max_tokens: int, form: Form, tokens: Tokens) -> None:
    chunks = Chunker(tokens, max_tokens=max_tokens).chunks(text, form=form)
    lost, behind = "", 0
    for chunk in chunks:
        assert chunk.tokens == counted(chunk.embedded_text, tokens) <= max_tokens
        assert text[chunk.start_char : chunk.end_char] == chunk.content
        assert chunk.content.strip()
        assert chunk.start_char >= behind
        lost += text[behind : chunk.start_char] + "\n"
        behind = chunk.end_char
    lost += text[behind:]
    if form != "markdown":
        assert not lost.strip()
    headings = "".join(chunk.heading for chunk in chunks)
    # What no chunk holds is white space, or the line of a heading, whose words are in its chunks' paths.
    for line in lost.split("\n"):
        assert line.strip().strip("#").strip() in headings or set(line.strip()) <= set("#=-> ")


def test_a_sentence_is_split_only_where_it_is_longer_than_a_chunk() -> None:
    text = " ".join(f"Dr. No said {n} of {n * 7 % 13} words, e.g. these ones here." for n in range(60))
    assert all(chunk.content.endswith("here.") for chunk in cut(text, form="text"))
    long = cut(" ".join(f"w{n}" for n in range(200)), form="text")
    assert [word for chunk in long for word in chunk.content.split()] == [f"w{n}" for n in range(200)]


def test_a_document_that_fits_stays_whole_where_that_is_asked() -> None:
    chunker = Chunker(TOKENS, max_tokens=40)
    (one,) = chunker.chunks("# A\n\nb\n\n# C\n\nd", whole=True, title="T")
    assert (one.heading, one.content) == ("T", "# A\n\nb\n\n# C\n\nd")
    assert len(chunker.chunks("# A\n\n" + "b " * 60, whole=True)) > 1


def test_the_title_heads_the_path_where_the_text_has_no_heading_of_its_own() -> None:
    chunker = Chunker(TOKENS, max_tokens=40)
    assert [one.heading for one in chunker.chunks("## A\n\nb", title="T")] == ["T > A"]
    assert [one.heading for one in chunker.chunks("# A\n\nb", title="T")] == ["A"]


@pytest.mark.parametrize("separator", [" ", "\n\n"])
def test_borders_come_back_after_an_edit(separator: str) -> None:
    sentences = [f"Sentence {n} tells of {n * 37 % 101} things and {n * 53 % 97} more." for n in range(600)]
    before = {chunk.text_hash for chunk in cut(separator.join(sentences), form="text")}
    new = []
    for place in range(0, 600, 8):
        edited = [*sentences[:place], f"Inserted {place} here, and it is new.", *sentences[place:]]
        new.append(len({chunk.text_hash for chunk in cut(separator.join(edited), form="text")} - before))
    assert sorted(new)[len(new) // 2] <= 2
    assert max(new) <= 5
    assert len(before) * 40 * 0.6 <= counted(" ".join(sentences))


def test_an_edit_changes_only_its_own_section() -> None:
    sections = [f"## Part {n}\n\n" + "".join(f"Sentence {n} {m} of many. " for m in range(30)) for n in range(8)]
    before = {chunk.text_hash for chunk in cut("# T\n\n" + "\n\n".join(sections))}
    sections[3] = sections[3].replace("Sentence", "Inserted words. Sentence", 1)
    after = cut("# T\n\n" + "\n\n".join(sections))
    assert {chunk.heading for chunk in after if chunk.text_hash not in before} == {"T > Part 3"}
    assert len(after) > 20


PARTS = "\n\n".join(f"## Part {n}\n\nText {n}.\n\n```{'yaml' * (n % 2)}\ncode: {n}\n```\n\nMore." for n in range(12))


@pytest.mark.parametrize("number", range(24))
def test_a_lost_fence_changes_only_its_own_section(number: int) -> None:
    before = {chunk.text_hash for chunk in cut("# T\n\n" + PARTS)}
    marks = PARTS.split("```")
    edited = "```".join(marks[: number + 1]) + "```".join(marks[number + 1 :])
    new = {chunk.heading for chunk in cut("# T\n\n" + edited) if chunk.text_hash not in before}
    assert len(new) <= 2
    assert {f"T > Part {n}" for n in range(12) if n != number // 2} <= {one.heading for one in cut("# T\n\n" + edited)}


@pytest.mark.parametrize(
    "text",
    [
        "````markdown\n\n## shown\n\n```yaml\na: 1\n```\n````\n",
        "~~~\n\n## shown\n\n```yaml\n~~~\n",
        "```\n\n## shown\n```\n\n``` `a` b\n\nText.\n",
    ],
)
def test_a_heading_in_a_fence_that_is_closed_is_none(text: str) -> None:
    assert {chunk.heading for chunk in cut("# Top\n\n" + text)} == {"Top"}


COMMENTED = "```bash\n# first: read\nread\n\n# then: write\nwrite\n```"


@pytest.mark.parametrize("torn", [COMMENTED.removeprefix("```bash\n"), COMMENTED.removesuffix("\n```")])
def test_a_comment_of_a_program_whose_fence_is_torn_is_no_heading(torn: str) -> None:
    parts = [f"## Part {n}\n\nText {n}.\n\n{COMMENTED}\n\nMore of it." for n in range(6)]
    before = {chunk.text_hash for chunk in cut("# T\n\n" + "\n\n".join(parts))}
    parts[2] = parts[2].replace(COMMENTED, torn)
    after = cut("# T\n\n" + "\n\n".join(parts))
    assert {chunk.heading for chunk in after if chunk.text_hash not in before} == {"T > Part 2"}
    assert {chunk.heading for chunk in after} == {f"T > Part {n}" for n in range(6)}


def test_a_second_heading_of_level_1_stays_one_above_a_fence_that_is_closed() -> None:
    text = "# A\n\nText.\n\n# B\n\n```\ncode\n```\n\n```bash\nlost its end\n"
    assert {chunk.heading for chunk in cut(text)} == {"A", "B"}


def test_a_lost_fence_leaves_the_text_beside_it_as_it_was() -> None:
    sentences = " ".join(f"Sentence {n} tells of {n * 37 % 101} things." for n in range(60))
    before = {chunk.text_hash for chunk in cut(f"# T\n\n```yaml\na: 1\n```\n\n{sentences}")}
    for torn in ("```yaml\na: 1", "a: 1\n```"):
        assert len({one.text_hash for one in cut(f"# T\n\n{torn}\n\n{sentences}")} - before) <= 2


def test_no_edit_of_the_guide_makes_many_chunks() -> None:
    of_text, _ = new_chunks(150)
    assert sorted(of_text)[len(of_text) // 2] <= 2
    assert max(of_text) <= 5


def test_other_settings_have_another_fingerprint() -> None:
    one, same, other = (Chunker(TOKENS, max_tokens=n) for n in (40, 40, 41))
    assert one.fingerprint == same.fingerprint != other.fingerprint
