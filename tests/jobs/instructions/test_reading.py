"""The reader: every row with its line, and nothing that a broken file can do ends the run."""

import json
from typing import Any

import pytest

from llmjobs.instructions.formats import is_row
from llmjobs.instructions.reading import ReadRow, read_rows

A, B, C = ({"instruction": letter, "output": letter.lower()} for letter in "ABC")


def read(content: bytes | str) -> list[ReadRow]:
    return list(read_rows(content.encode() if isinstance(content, str) else content, is_row=is_row))


def lines_of(rows: list[ReadRow]) -> list[int]:
    return [row.line for row in rows]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (json.dumps([A, B, C]), [1, 1, 1]),
        (json.dumps([A, B, C], indent=2), [2, 6, 10]),
        ("\n\n[\n" + json.dumps(A) + ",\r\n\n" + json.dumps(B) + "\n,\n" + json.dumps(C) + "]\n", [4, 6, 8]),
        ("\n".join(json.dumps(row) for row in (A, B, C)), [1, 2, 3]),
        ("\r\n".join(json.dumps(row) for row in (A, B, C)) + "\r\n", [1, 2, 3]),
        ("\n  " + json.dumps(A) + "\n\n" + json.dumps(B) + "\n\n\n" + json.dumps(C) + "\n", [2, 4, 7]),
        ("\n".join(json.dumps(row, indent=1) for row in (A, B, C)), [1, 5, 9]),
        (json.dumps([A]) + "\n" + json.dumps([B, C]), [1, 2, 2]),
    ],
    ids=["one line", "indented", "odd spacing", "lines", "crlf lines", "blank lines", "objects in a row", "two arrays"],
)
def test_every_row_has_its_line(text: str, lines: list[int]) -> None:
    rows = read(text)
    assert [row.value for row in rows] == [A, B, C]
    assert lines_of(rows) == lines
    assert [json.loads(row.raw) for row in rows] == [A, B, C]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \n\n", b"[]", b"[\n]\n"])
def test_empty_files_have_no_rows(content: bytes) -> None:
    assert read(content) == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read_past(encoding: str) -> None:
    row = {"instruction": "Grüß Gott", "output": "你好"}
    assert [r.value for r in read(json.dumps([row], ensure_ascii=False).encode(encoding))] == [row]


@pytest.mark.parametrize(
    ("broken", "line", "why"),
    [
        ('{"instruction": "A", "output": A b c}', 2, "line 2, column 32: Expecting value"),
        ('{"instruction": "A, "output": "a"}', 2, "line 2, column 22: Expecting"),
        ('{"instruction": "A", "output": "a"', 2, "line 3, column"),
        ('{"instruction": "A", "output": "a\nb"}', 2, "line 2, column 34: Invalid control character"),
        ('{"instruction": "A", "output": "\\q"}', 2, "Invalid \\escape"),
        ("nonsense", 2, "Expecting value"),
    ],
)
def test_a_broken_element_costs_only_itself(broken: str, line: int, why: str) -> None:
    rows = read(f"[\n{broken},\n{json.dumps(B)},\n{json.dumps(C)}\n]")
    assert [row.value for row in rows] == [None, B, C]
    assert rows[0].line == line
    assert why in rows[0].problem
    assert rows[0].raw == broken
    assert [row.problem for row in rows[1:]] == ["", ""]


def test_reading_goes_on_behind_a_broken_row_and_not_inside_it() -> None:
    chat = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": oops}]}'
    rows = read(f"[{chat}, {json.dumps(B)}]")
    assert [row.value for row in rows] == [None, B]
    assert rows[0].raw == chat


def test_a_file_cut_off_in_a_row_gives_the_rows_before_it() -> None:
    text = json.dumps([A, B, C], indent=1)
    rows = read(text[: text.index('"C"') + 2])
    assert [row.value for row in rows] == [A, B, None]
    assert rows[2].problem == "line 11, column 18: the text ends inside the row"
    assert rows[2].line == 10


def test_a_file_cut_off_between_rows_says_so() -> None:
    rows = read("[" + json.dumps(A) + ",\n")
    assert [row.value for row in rows] == [A, None]
    assert rows[1].problem == "line 2: the file ends before the array does"


def test_text_behind_an_array_is_a_row_of_its_own() -> None:
    rows = read("[" + json.dumps(A) + "]\nleft over\n")
    assert [(row.line, row.raw, bool(row.problem)) for row in rows][1:] == [(2, "left over", True)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"instruction": "A", "output": "a', "the text ends inside the row"),
        ('{"instruction": "A"} {"instruction": "B"}', "column 21: more text after the end of the row"),
        ("{'instruction': 'A'}", "Expecting property name"),
    ],
)
def test_a_broken_line_costs_only_itself(line: str, why: str) -> None:
    rows = read("\n".join([json.dumps(A), line, json.dumps(C)]))
    assert [row.value for row in rows] == [A, None, C]
    assert rows[1].problem.startswith("line 2, column ")
    assert why in rows[1].problem
    assert rows[1].raw == line


def test_bytes_that_are_no_utf_8_cost_only_their_row_and_stay_visible() -> None:
    rows = read(b'{"instruction": "A", "output": "caf\xe9"}\n' + json.dumps(B).encode())
    assert [row.value for row in rows] == [None, B]
    assert rows[0].problem == "line 1, column 36: byte \\xe9 is no UTF-8"
    assert "caf\\xe9" in rows[0].raw


def test_repeated_keys_are_noticed_at_any_depth() -> None:
    rows = read('{"output": "a", "output": "b"}\n{"messages": [{"role": "user", "role": "system"}]}\n{"a": 1}')
    assert [row.repeated for row in rows] == [("output",), ("role",), ()]


@pytest.mark.parametrize("value", [None, 1, "text", [1], True])
def test_values_that_are_no_object_are_rows(value: Any) -> None:
    rows = read(f"{json.dumps(A)}\n{json.dumps(value)}\n")
    assert [row.value for row in rows] == [A, value]


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"instruction":'])
def test_nesting_without_end_is_one_broken_row(opening: str) -> None:
    rows = read(opening * 100_000)
    assert len(rows) == 1
    assert "nested too deeply" in rows[0].problem


def test_a_number_of_many_digits_is_a_broken_row() -> None:
    rows = read(f'[{{"instruction": {"9" * 5000}}}, {json.dumps(B)}]')
    assert [row.value for row in rows] == [None, B]


def test_many_broken_rows_cost_no_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's error counts lines from the start of the text; ours must not, or this is quadratic."""
    counted: list[int] = []
    monkeypatch.setattr(json.JSONDecodeError, "__init__", _recording(counted))
    read("\n".join(["[", *['{"instruction": oops},'] * 50, json.dumps(B), "]"]))
    assert len(counted) >= 50
    assert max(counted) == 1


def _recording(lines: list[int]) -> Any:
    original = json.JSONDecodeError.__init__

    def init(self: json.JSONDecodeError, msg: str, doc: str, pos: int) -> None:
        original(self, msg, doc, pos)
        lines.append(self.lineno)

    return init
