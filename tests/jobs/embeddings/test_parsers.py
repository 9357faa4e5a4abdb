from __future__ import annotations

import io
import zipfile

import pytest

from llmjobs.contracts.errors import BadData
from llmjobs.embeddings.documents.parsers.formats import FORMATS, format_of


def test_front_matter_becomes_metadata_and_two_rules_are_text() -> None:
    parsed = FORMATS["md"].parse(b"---\ntitle: T\ntags: [a, b]\n---\n# H\n\ntext\n")
    assert (parsed.title, parsed.metadata, parsed.text) == ("T", {"tags": ["a", "b"]}, "# H\n\ntext\n")
    assert FORMATS["md"].parse(b"---\njust words\n---\n").text == "---\njust words\n---\n"
    with pytest.raises(BadData, match="no YAML at line 3"):
        FORMATS["md"].parse(b"---\na: [b\n---\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_are_read_in_every_encoding_that_says_what_it_is(encoding: str) -> None:
    assert FORMATS["txt"].parse("Grüße 日本".encode(encoding)).text == "Grüße 日本"


def test_a_text_in_an_unknown_encoding_is_not_guessed() -> None:
    with pytest.raises(BadData, match="byte 2 is no UTF-8"):
        FORMATS["txt"].parse("Grüße".encode("latin-1"))


def test_a_page_is_its_main_part_with_headings() -> None:
    page = b"""<html lang="de"><head><title>Site</title><script>x()</script></head><body><nav>menu</nav><main><h1>A</h1>
        <p>one <b>two</b></p><h2>B<a class="headerlink" href="#b">#</a></h2><ul><li>x</li></ul></main></body></html>"""
    parsed = FORMATS["html"].parse(page)
    assert parsed.text == "# A\n\none **two**\n\n## B\n\n- x\n"
    assert (parsed.title, parsed.metadata) == ("Site", {"language": "de"})


def test_restructured_text_includes_nothing_and_loses_nothing() -> None:
    text = b"Top\n===\n\n:ref:`there` x\n\nSub\n---\n\n.. include:: /etc/passwd\n\n"
    parsed = FORMATS["rst"].parse(text + b".. versionadded:: 3.2\n   The new thing.\n")
    assert parsed.title == "Top"
    assert "## Sub" in parsed.text
    assert "The new thing." in parsed.text
    assert "there" in parsed.text
    assert "root:" not in parsed.text


def word(body: str) -> bytes:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    namespace = "http://schemas.openxmlformats.org"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{namespace}/package/2006/content-types"><Default Extension="rels" ContentType="application/'
            'vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{namespace}/package/2006/relationships"><Relationship Id="r1" Type="{namespace}/'
            'officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{namespace}/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>',
        )
    return file.getvalue()


def test_a_word_document_keeps_its_headings() -> None:
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Top</w:t></w:r></w:p>'
    parsed = FORMATS["docx"].parse(word(heading + "<w:p><w:r><w:t>Some text.</w:t></w:r></w:p>"))
    assert parsed.text.endswith("Some text.\n")
    assert "Top" in parsed.text


def test_a_word_document_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmjobs.embeddings.documents.parsers.docx.MOST_UNPACKED", 100)
    with pytest.raises(BadData, match="unpacks to"):
        FORMATS["docx"].parse(word("<w:p/>"))


def test_pdfs_without_text_or_with_a_password_say_so() -> None:
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    plain, locked = io.BytesIO(), io.BytesIO()
    writer.write(plain)
    writer.encrypt("secret")
    writer.write(locked)
    with pytest.raises(BadData, match=r"1 pages hold no text.*OCR"):
        FORMATS["pdf"].parse(plain.getvalue())
    with pytest.raises(BadData, match="needs a password"):
        FORMATS["pdf"].parse(locked.getvalue())


@pytest.mark.parametrize("suffix", ["pdf", "docx"])
def test_a_broken_file_says_so(suffix: str) -> None:
    with pytest.raises(BadData, match="it is no"):
        FORMATS[suffix].parse(b"not at all")


def test_code_knows_its_language_and_pictures_are_not_read() -> None:
    form = format_of("a/b.PY")
    assert form is not None
    assert (form.parse(b"x = 1\n").form, form.parse(b"").metadata) == ("code", {"programming_language": "python"})
    assert format_of("a/b.png") is None
