"""The report: one file that needs nothing from outside, tells no secret, and shows bad rows as text."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import Budgets
from llmjobs.instructions.choice.selection import fractions
from llmjobs.instructions.report.data import Comparison, Fraction, Marks, Matches, QualityCurve, ReportData, Row
from llmjobs.instructions.report.diff import Changes, Diff
from llmjobs.instructions.report.limits import at_most, budget_limits
from llmjobs.instructions.report.page import TEMPLATES, percent, sections, write_report
from llmjobs.instructions.report.shown_texts import shorten, shown
from llmjobs.instructions.report.word_changes import ELLIPSIS, word_changes
from tests.jobs.instructions.example_report import example

VOID = {"meta", "br", "wbr", "rect", "path", "circle", "link", "img"}
ATTACK = "<script>alert(1)</script><img src=https://evil.example/x>{{ 7 * 7 }}\"'><b>"
SECRET = "jane.doe@example.org"
SMALLEST = ReportData("rows", "tests", "published", "all is well", rows_in=3, published=3, quarantined=0, duplicates=0)


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text; a tag that is closed wrongly is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def hide(text: str) -> str:
    return text.replace(SECRET, "[EMAIL]")


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., str]:
    def write(data: ReportData, mask: Callable[[str], str] | None = hide) -> str:
        path = tmp_path / "report.html"
        write_report(path, data, mask=mask)
        return path.read_text(encoding="utf-8")

    return write


@pytest.fixture
def page(render: Callable[..., str]) -> str:
    return render(example())


# --- alone and safe


def test_nothing_comes_from_outside_and_nothing_runs(page: str) -> None:
    seen = Page(page)
    assert {tag for tag, _ in seen.tags} & {"script", "img", "link", "iframe", "object", "form", "base"} == set()
    attributes = {name for _, of_tag in seen.tags for name in of_tag}
    assert attributes & {"src", "srcset", "style", "xlink:href", "action"} == set()
    assert not [name for name in attributes if name.startswith("on")]
    assert {str(link["href"])[0] for link in seen.all("a")} == {"#"}
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_this_style_and_nothing_else(page: str) -> None:
    policy = next(meta["content"] for meta in Page(page).all("meta") if "http-equiv" in meta)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"


def test_bad_rows_are_shown_as_text(render: Callable[..., str]) -> None:
    clean, attacked = (Page(render(example(say))) for say in (str, lambda text: text + ATTACK))
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in clean.tags}
    assert attacked.text.count(ATTACK) > 40


def test_personal_data_is_in_no_text(render: Callable[..., str]) -> None:
    page = render(example(lambda text: f"{text} {SECRET}"))
    assert SECRET not in page
    assert page.count("[EMAIL]") > 60


def test_the_houses_mask_is_the_one_that_is_used(render: Callable[..., str]) -> None:
    page = render(example(lambda text: f"{text} {SECRET}"), mask=None)
    assert SECRET not in page


def test_only_our_own_words_are_not_masked(render: Callable[..., str]) -> None:
    """A field that holds the text of a row must never be among these."""
    plain = {field.name for field in fields(ReportData) if field.metadata.get("plain")}
    assert plain == {
        "name", "owner", "outcome", "sentence", "version", "base_version", "interval_end", "quiet", "off", "versions",
        "files_beside",
    }  # fmt: skip
    page = render(example(), mask=lambda text: "masked" if text else "")
    for own in ("support-tickets", "7c1f0f2b94d85a53e0c5b1d42af0973e", "budgets.<wbr>", "Topic moved by", "quarantine"):
        assert own in page
    for others in ("Wo ist mein Paket", "parcel", "raw/tickets", "delivery", "proprietary", "handwritten"):
        assert others not in page


def test_a_text_is_masked_before_it_is_cut() -> None:
    text = "x" * 595 + SECRET
    assert shown(text, hide, 600) == "x" * 595 + "[EMAI … (602 characters)"
    assert SECRET[:5] not in shown(text, hide, 600)


def test_of_a_huge_text_only_what_is_shown_is_masked() -> None:
    seen: list[int] = []

    def count(text: str) -> str:
        seen.append(len(text))
        return hide(text)

    found = shown("word " * 10_000_000, count)
    assert seen == [20_000]
    assert found.endswith(" … (50,000,000 characters)")
    assert len(found) < 650


def test_what_a_cut_has_halved_is_not_shown() -> None:
    """The mask shortens all but the last words, and those hold half of an address."""
    text = SECRET * 999 + "y" * (19_990 - 999 * len(SECRET)) + SECRET
    assert "jane.doe@e" not in shown(text, lambda whole: hide(whole).replace("[EMAIL]", ""))


# --- what it says


def test_the_verdict_and_the_sum_come_first(page: str) -> None:
    words = Page(page).words
    assert words.index("A person is asked") < words.index("rows in 52,002 would be published = 46,873")
    assert "quarantined + 2,254 duplicates + 1,875 left out + 1,000" in words
    assert words.index("left out") < words.index("Budgets, drift and rules")
    assert "Of the good rows 1,391 were repaired, 212 had personal data masked, 1,130 carry a warning." in words


@pytest.mark.parametrize(
    ("outcome", "head", "rows"),
    [
        ("published", "Published", "published"),
        ("unchanged", "Unchanged", "published"),
        ("ask", "A person is asked", "would be published"),
        ("dry_run", "Dry run", "would be published"),
        ("refused", "Refused", "good, not published"),
    ],
)
def test_every_outcome_has_its_words(render: Callable[..., str], outcome: Any, head: str, rows: str) -> None:
    words = Page(render(replace(SMALLEST, outcome=outcome))).words
    assert f"{head} All is well." in words
    assert f"rows in 3 {rows} = 3" in words


def test_a_section_without_content_is_absent(render: Callable[..., str]) -> None:
    full, empty = Page(render(example())), Page(render(SMALLEST))
    titles = [section.title for section in sections(example())]
    assert len(titles) == 13
    assert [str(section["id"]) for section in full.all("section")] == [s.id for s in sections(example())]
    assert empty.all("section") == empty.all("nav") == empty.all("table") == []
    for title in titles:
        assert title in full.text
        assert title not in empty.text


@pytest.mark.parametrize(
    ("name", "empty", "id_"),
    [
        ("limits", (), "limits"),
        ("refused", (), "refused"),
        ("comparison", None, "comparison"),
        ("repeated", None, "duplicates"),
        ("leaks", None, "leaks"),
        ("personal_data", (), "personal"),
        ("repairs", (), "repairs"),
        ("quality", None, "quality"),
        ("sources", (), "sources"),
        ("files", (), "files"),
        ("removals", (), "removals"),
    ],
)
def test_each_section_follows_its_own_field(name: str, empty: Any, id_: str) -> None:
    left = [section.id for section in sections(replace(example(), **{name: empty}))]
    assert left == [section.id for section in sections(example()) if section.id != id_]


def test_a_first_version_is_compared_with_nothing(render: Callable[..., str]) -> None:
    first = replace(SMALLEST, comparison=Comparison(Diff(0, 3, Changes(added=3), first=True)))
    assert Page(render(first)).all("section") == []


def test_a_changed_row_shows_the_words_that_changed(page: str) -> None:
    assert "You have <del>14</del><ins>30</ins> days from the day of delivery" in page
    assert page.count("How long do I have to return a pair of shoes?") == 1  # so that one knows what it is about


def test_a_change_that_is_masked_is_not_shown(render: Callable[..., str]) -> None:
    rows = tuple(Row("a.json, line 1", (("user", f"Write to {name}@example.org"),)) for name in ("ann", "ben"))
    data = replace(SMALLEST, comparison=Comparison(Diff(1, 1, Changes(changed=1)), changed=((rows[0], rows[1]),)))
    page = render(data, mask=lambda text: re.sub(r"\w+@\S+", "[EMAIL]", text))
    assert "What differs is masked" in page
    assert "<ins>" not in page


def test_moved_rows_are_a_warning(render: Callable[..., str]) -> None:
    data = replace(SMALLEST, comparison=Comparison(Diff(3, 3, Changes(unchanged=3), moved=3)))
    assert "3 rows are on another side than before" in Page(render(data)).words


def test_no_leak_is_said_too(render: Callable[..., str]) -> None:
    words = Page(render(replace(SMALLEST, leaks=Matches(0, threshold=0.9)))).words
    assert "No train row matches a row that is tested on, exactly or nearly" in words


def test_categories_that_look_alike_when_masked_are_added_up(render: Callable[..., str]) -> None:
    data = example()
    mix = replace(data.mixes[0], rows={"a@example.org": 30, "b@example.org": 12})
    page = render(replace(data, mixes=(mix,)), mask=lambda text: re.sub(r"\w@\S+", "[EMAIL]", text))
    assert re.search(r'row">\[EMAIL\]</th>.*?>42</td>', page, re.DOTALL)


def test_equal_data_gives_equal_bytes_in_little_space(render: Callable[..., str]) -> None:
    page = render(example())
    assert page == render(example())
    assert len(page.encode()) < 300_000


# --- for everybody


def test_tables_and_pictures_say_what_they_are(page: str) -> None:
    seen = Page(page)
    assert len(seen.all("caption")) == len(seen.all("table")) > 10
    for picture in seen.all("svg"):
        inside_another = "preserveaspectratio" in picture and "width" in picture
        assert picture.get("aria-label") or picture.get("aria-hidden") == "true" or inside_another
    headings = [tag for tag, _ in seen.tags if tag in {"h1", "h2", "h3"}]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert len(seen.all("section")) == headings.count("h2")
    ids = [of_tag["id"] for _, of_tag in seen.tags if "id" in of_tag]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in seen.all("a")} <= set(ids)


def _colours(css: str) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6});", css)
    return {name: tuple(int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, code in found}  # type: ignore[misc]


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_in_dark(scheme: str) -> None:
    light, dark = (TEMPLATES / "page.css").read_text().split("@media (prefers-color-scheme: dark)")
    colours = _colours(light if scheme == "light" else dark.split("* {")[0])
    for text in ("ink", "soft", "good", "bad", "warn", "note"):
        assert _contrast(colours[text], colours["paper"]) >= 4.5, text
    for fill in ("fill-good", "fill-bad", "fill-warn", "fill-note", "fill-quiet"):
        assert _contrast(colours[fill], colours["paper"]) >= 3, fill
    assert min(_contrast(colours["ink"], colours[back]) for back in ("add", "cut", "sheet")) >= 4.5


# --- its parts


@settings(max_examples=200, deadline=None)
@given(before=st.text("ab \n中.", max_size=60), after=st.text("ab \n中.", max_size=60))
def test_word_changes_lose_no_word(before: str, after: str) -> None:
    pieces = word_changes(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after
    assert (before == after) == all(piece.kind == "same" for piece in pieces)


def test_long_runs_that_are_the_same_are_cut() -> None:
    text = "one two three four five " * 40
    pieces = word_changes(text + "six", text + "seven")
    assert [piece.kind for piece in pieces] == ["same", "removed", "added"]
    assert pieces[0].text.startswith(ELLIPSIS)
    assert len(pieces[0].text) < 250


def test_a_long_change_ends_with_its_number_of_words() -> None:
    (piece,) = word_changes("", "word " * 1_000)
    assert piece.kind == "added"
    assert piece.text.endswith("(and 1,600 more)")


def test_long_texts_are_shortened_with_their_length() -> None:
    assert shorten("a" * 700) == "a" * 600 + " … (700 characters)"
    assert shorten("a" * 600) == "a" * 600
    assert shorten("a\u202eb\ufeff\x00\n\t") == "a⟨U+202E⟩b⟨U+FEFF⟩⟨U+0000⟩\n\t"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0%"), (0.0001, "< 0.1%"), (0.5, "50.0%"), (0.9999, "> 99.9%"), (1, "100.0%")]
)
def test_a_share_that_is_not_nothing_does_not_look_so(share: float, text: str) -> None:
    assert percent(share) == text


def test_limits_say_what_was_found_and_what_is_allowed() -> None:
    line = at_most("budgets.quarantined_share", 0.07, warn=0.05, fail=0.1)
    assert (line.state, line.found, line.allowed) == ("warn", "7.00%", "asks above 5%, at most 10%")
    assert line.value is not None
    assert line.warn_at is not None
    assert line.fail_at is not None
    assert line.warn_at < line.value < line.fail_at < 1
    assert [at_most("x", value, warn=None, fail=0.1).state for value in (0.1, 0.1001)] == ["kept", "fail"]
    assert at_most("x", 0, warn=None, fail=None).state == "off"


def test_lost_rows_are_a_limit_only_where_there_was_a_version() -> None:
    names = [
        [line.name for line in budget_limits(Budgets(), rows_in=8, quarantined=0, published=8, diff=found)]
        for found in (Diff(0, 8, Changes(), first=True), Diff(9, 8, Changes()))
    ]
    assert names[1] == [*names[0], "budgets.max_lost_share"]
    (broken,) = [
        line
        for line in budget_limits(
            Budgets(min_rows=10), rows_in=8, quarantined=0, published=8, diff=Diff(9, 8, Changes())
        )
        if line.state == "fail"
    ]
    assert (broken.name, broken.found, broken.allowed) == ("budgets.min_rows", "8 rows", "at least 10")


def test_what_the_selection_keeps_is_shown_as_it_is(render: Callable[..., str]) -> None:
    ranked = pl.DataFrame({
        "rank": range(8), "score": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], "cluster": [0, 1, 2, 3] * 2,
        "characters": [400] * 8, "topic": ["sums", "words"] * 4,
    })  # fmt: skip
    curve = QualityCurve(tuple(map(Fraction.of, fractions(ranked, (0.25, 1.0)))))
    assert curve.fractions[0].tokens == 200
    words = Page(render(replace(SMALLEST, quality=curve))).words
    assert "25.0% 2 200 0.850 0.800 50.0% 46.4% 100.0% 78.6%" in words
    assert "judge" not in words
    marked = replace(curve, marks=Marks("some-model", {5: 3, 4: 1_200, 3: 0, 2: 0, 1: 1}, none=2))
    words = Page(render(replace(SMALLEST, quality=marked))).words
    assert "Marks by the judge some-model" in words
    assert "Mark Rows 5 3 4 1,200 3 0 2 0 1 1 2 rows had no mark" in words
