"""The reader: every row with its line, and nothing that a broken file can do ends the run."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import Format, Mapping
from llmjobs.instructions.raw import decompression, json_rows, reading
from llmjobs.instructions.raw.json_rows import ReadRow
from llmjobs.instructions.raw.plain_rows import PlainRows
from llmjobs.instructions.raw.reading import kind_of, read_frames
from llmjobs.instructions.tables import READ

A, B, C = ({"instruction": letter, "output": letter.lower()} for letter in "ABC")


def frame(content: bytes | str, name: str = "rows.jsonl", **how: Any) -> pl.DataFrame:
    data = content.encode() if isinstance(content, str) else content
    frames = list(read_frames(io.BytesIO(data), name=name, **how))
    assert all(dict(one.schema) == READ and one.height for one in frames)
    return pl.concat(frames) if frames else pl.DataFrame(schema=READ)


def lettered(rows: pl.DataFrame) -> list[Any]:
    """Return the `A`, `B` or `C` that each row is, None where it could not be read."""
    found = rows.select("instruction", "output").to_dicts()
    return [row if row["instruction"] is not None else None for row in found]


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
    rows = frame(text)
    assert lettered(rows) == [A, B, C]
    assert rows["line"].to_list() == lines
    assert [json.loads(text) for text in rows["raw"]] == [A, B, C]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \n\n", b"[]", b"[\n]\n"])
def test_empty_files_have_no_rows(content: bytes) -> None:
    assert frame(content).height == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_read_past(encoding: str) -> None:
    row = {"instruction": "Grüß Gott", "output": "你好"}
    assert lettered(frame(json.dumps([row], ensure_ascii=False).encode(encoding))) == [row]


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
    rows = frame(f"[\n{broken},\n{json.dumps(B)},\n{json.dumps(C)}\n]")
    assert lettered(rows) == [None, B, C]
    assert rows["line"][0] == line
    assert why in rows["read_problem"][0]
    assert rows["raw"][0] == broken
    assert rows["read_problem"][1:].to_list() == [None, None]


def test_reading_goes_on_behind_a_broken_row_and_not_inside_it() -> None:
    chat = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": oops}]}'
    rows = frame(f"[{chat}, {json.dumps(B)}]")
    assert lettered(rows) == [None, B]
    assert rows["raw"][0] == chat


def test_a_file_cut_off_in_a_row_gives_the_rows_before_it() -> None:
    text = json.dumps([A, B, C], indent=1)
    rows = frame(text[: text.index('"C"') + 2])
    assert lettered(rows) == [A, B, None]
    assert rows["read_problem"][2] == "line 11, column 18: the text ends inside the row"
    assert rows["line"][2] == 10


def test_a_file_cut_off_between_rows_says_so() -> None:
    rows = frame("[" + json.dumps(A) + ",\n")
    assert lettered(rows) == [A, None]
    assert rows["read_problem"][1] == "line 2: the file ends before the array does"


def test_text_behind_an_array_is_a_row_of_its_own() -> None:
    rows = frame("[" + json.dumps(A) + "]\nleft over\n")
    assert rows[1:].select("line", "raw", pl.col("read_problem").is_not_null()).rows() == [(2, "left over", True)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"instruction": "A", "output": "a', "the text ends inside the row"),
        ('{"instruction": "A"} {"instruction": "B"}', "column 21: more text after the end of the row"),
        ("{'instruction': 'A'}", "Expecting property name"),
    ],
)
def test_a_broken_line_costs_only_itself(line: str, why: str) -> None:
    rows = frame("\n".join([json.dumps(A), line, json.dumps(C)]))
    assert lettered(rows) == [A, None, C]
    assert rows["read_problem"][1].startswith("line 2, column ")
    assert why in rows["read_problem"][1]
    assert rows["raw"][1] == line


def test_bytes_that_are_no_utf_8_cost_only_their_row_and_stay_visible() -> None:
    rows = frame(b'{"instruction": "A", "output": "caf\xe9"}\n' + json.dumps(B).encode())
    assert lettered(rows) == [None, B]
    assert rows["read_problem"][0] == (
        "line 1, column 36: byte \\xe9 is no UTF-8; save the file as UTF-8 (it looks like Windows-1252)"
    )
    assert "caf\\xe9" in rows["raw"][0]


def test_repeated_keys_are_noticed_at_any_depth() -> None:
    rows = frame('{"output": "a", "output": "b"}\n{"messages": [{"role": "user", "role": "system"}]}\n{"a": 1}')
    assert rows["repeated_keys"].to_list() == ["output", "role", None]


@pytest.mark.parametrize("value", [None, 1, "text", [1], True])
def test_values_that_are_no_object_are_rows(value: Any) -> None:
    rows = frame(f"{json.dumps(A)}\n{json.dumps(value)}\n")
    assert lettered(rows) == [A, None]
    assert rows["raw"][1] == json.dumps(value)
    assert rows["read_problem"].to_list() == [None, None]
    assert "not an object" in rows["shape_problem"][1]


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"instruction":'])
def test_nesting_without_end_is_one_broken_row(opening: str) -> None:
    rows = frame(opening * 100_000)
    assert len(rows) == 1
    assert "nested too deeply" in rows["read_problem"][0]


def test_a_number_of_many_digits_is_a_broken_row() -> None:
    rows = frame(f'[{{"instruction": {"9" * 5000}}}, {json.dumps(B)}]')
    assert lettered(rows) == [None, B]


def test_many_broken_rows_cost_no_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's error counts lines from the start of the text; ours must not, or this is quadratic."""
    counted: list[int] = []
    monkeypatch.setattr(json.JSONDecodeError, "__init__", _recording(counted))
    frame("\n".join(["[", *['{"instruction": oops},'] * 50, json.dumps(B), "]"]))
    assert len(counted) >= 50
    assert max(counted) == 1


def _recording(lines: list[int]) -> Any:
    original = json.JSONDecodeError.__init__

    def init(self: json.JSONDecodeError, msg: str, doc: str, pos: int) -> None:
        original(self, msg, doc, pos)
        lines.append(self.lineno)

    return init


# --- frames


def packed(content: bytes, how: str) -> bytes:
    if how == "zst":
        return bytes(pa.Codec("zstd").compress(content, asbytes=True))
    return gzip.compress(content, mtime=0) if how == "gz" else content


def exactly(content: bytes | str, name: str = "rows.jsonl", **how: Any) -> pl.DataFrame:
    """Read without the fast way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainRows, "learn", lambda *_: None)
        return frame(content, name, **how)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "A.JSONL", "rows", "rows.txt"])
def test_suffixes_and_content_tell_the_kind(name: str, suffix: str) -> None:
    content = "\n".join(json.dumps(row) for row in (A, B, C)).encode()
    rows = frame(packed(content, suffix[1:]), name + suffix)
    assert rows["instruction"].to_list() == ["A", "B", "C"]
    assert rows["line"].to_list() == [1, 2, 3]


def test_a_packed_file_without_its_suffix_is_unpacked() -> None:
    assert frame(packed(json.dumps([A]).encode(), "zst"), "a.json")["output"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x/a.JSON.gz", "json"),
        ("a.tsv.zst", "csv"),
        ("a.parquet", "parquet"),
        ("a.txt", ""),
        ("a.gz", ""),
        ("json", ""),
    ],
)
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz", "a.jsonl.zst", "a"])
def test_an_empty_file_has_no_rows(name: str) -> None:
    assert frame(b"", name).height == 0


@pytest.mark.parametrize("how", ["gz", "zst"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_packed_file_that_breaks_half_way(how: str, suffix: str) -> None:
    rows = [{"instruction": f"{number:04d}", "output": f"{number * 7919 % 10007} and more"} for number in range(30_000)]
    content = {
        "jsonl": "\n".join(json.dumps(row) for row in rows),
        "json": json.dumps(rows, indent=1),
        "csv": "\n".join(["instruction,output", *(f'"{row["instruction"]}",{row["output"]}' for row in rows)]),
    }[suffix]
    whole = packed(content.encode(), how)
    found = frame(whole[: len(whole) * 2 // 3], f"a.{suffix}.{how}")
    *good, last = found.iter_rows(named=True)
    assert len(good) > 10_000
    assert [row["instruction"] for row in good] == [row["instruction"] for row in rows[: len(good)]]
    assert last["read_problem"].endswith(
        f": the {'gzip' if how == 'gz' else 'zstd'} compression is broken here (it is cut off)"
    )
    assert last["read_problem"].startswith("line ")
    behind = content[content.index(good[-1]["raw"]) + len(good[-1]["raw"]) :].lstrip(",\n ")
    assert behind.startswith(last["raw"])


@pytest.mark.parametrize("name", ["a.json.gz", "a.csv.zst", "a.parquet.gz"])
def test_what_is_not_packed_as_its_name_says_is_one_row(name: str) -> None:
    rows = frame(b"not packed at all", name)
    assert rows.height == 1
    assert "compression is broken here" in rows["read_problem"][0]


def test_a_parquet_file_whose_unpacking_breaks_is_one_row() -> None:
    file = io.BytesIO()
    pl.DataFrame([A, B]).write_parquet(file)
    rows = frame(gzip.compress(file.getvalue())[:-9], "a.parquet.gz")
    assert rows["read_problem"].to_list() == ["line 1: the gzip compression is broken here (it is cut off)"]


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("indent", [None, 1])
def test_encodings_with_and_without_a_mark(encoding: str, indent: int | None) -> None:
    row = {"instruction": "Grüß Gott", "output": "你好 😀"}
    rows = frame(json.dumps([row], ensure_ascii=False, indent=indent).encode(encoding), "a.json")
    assert rows.select("instruction", "output").rows() == [("Grüß Gott", "你好 😀")]


@pytest.mark.parametrize("zeros", [b"\0\0\0\n", b"\0{\0\n", b"\n\0\0\0\n", b"\n\0\n\0\n"])
def test_zeros_at_the_beginning_do_not_make_a_file_utf_16_or_32(zeros: bytes) -> None:
    rows = frame(zeros + json.dumps(B).encode() + b"\n")
    assert rows["instruction"].drop_nulls().to_list() == ["B"]


def test_a_broken_utf_16_unit_costs_only_its_row() -> None:
    good = json.dumps(B).encode("utf-16-le")
    broken = json.dumps(A).replace("a", "\ud800").encode("utf-16-le", "surrogatepass")
    rows = frame(b"\xff\xfe" + broken + "\n".encode("utf-16-le") + good)
    assert rows["instruction"].to_list() == [None, "B"]
    assert rows["read_problem"][0].startswith("line 1, column 33: byte \\x00 is no UTF-8")


def test_a_bad_byte_behind_a_backslash_is_not_taken_for_an_escape() -> None:
    rows = frame(b'[{"instruction": "A", "output": "\\\xe9"},' + json.dumps(B).encode() + b"]", "a.json")
    assert rows["instruction"].to_list() == [None, "B"]


def test_lines_are_those_of_the_file_in_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few characters: every row, escape and line break straddles two of them somewhere."""
    rows = [{"instruction": f"q{n}", "output": "é\n\\ \U0001f600" * (n % 5), "n": -1.5e10} for n in range(40)]
    text = json.dumps(rows, indent=2) + "\noops\n" + json.dumps(rows, ensure_ascii=False)
    text = text.replace('"q7"', "q7").replace('"q38"', "tru")
    once = frame(text, "a.json")
    for size in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(reading, "texts", lambda blocks, errors, size=size: pieces(b"".join(blocks).decode(), size))
        assert frame(text, "a.json").equals(once)
    assert once["read_problem"].is_not_null().sum() == 5
    assert once["line"].to_list()[:3] == [2, 7, 12]


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[begin : begin + size] for begin in range(0, len(text), size))


def test_frames_are_as_large_as_they_may_be() -> None:
    content = "\n".join(json.dumps({**A, "output": str(n)}) for n in range(100))
    for text in (content, f"[{content.replace(chr(10), ',')}]"):
        assert [f.height for f in read_frames(io.BytesIO(text.encode()), name="a", chunk_rows=30)] == [30, 30, 30, 10]
        by_size = [f.height for f in read_frames(io.BytesIO(text.encode()), name="a.json", chunk_bytes=10)]
        assert sum(by_size) == 100
    many = content.encode() * 2000
    heights = [f.height for f in read_frames(io.BytesIO(many), name="a.jsonl", chunk_bytes=1 << 20)]
    assert max(heights) < 60_000
    assert len(heights) > 5


@pytest.mark.parametrize("kind", ["line", "array", "csv"])
def test_a_row_of_50_mb_survives(kind: str) -> None:
    long = ("long " * 10 + "\\") * 1_000_000
    text = {
        "line": "\n".join(json.dumps({**A, "output": output}) for output in ("a", long, "c")),
        "array": json.dumps([{**A, "output": output} for output in ("a", long, "c")]),
        "csv": f'instruction,output\nA,a\nA,"{long}"\nA,c\n',
    }[kind]
    rows = frame(text, "a.csv" if kind == "csv" else "a.json")
    assert rows["output"].str.len_bytes().to_list() == [1, len(long), 1]


def test_a_row_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reading, json_rows):
        monkeypatch.setattr(module, "LONGEST_ROW", 2000)
    endless = '{"instruction": "' + "x" * 3_000_000
    for text in (f"{json.dumps(A)}\n{endless}", f"[{json.dumps(A)},{endless}"):
        rows = frame(text, "a.json")
        assert rows["read_problem"].is_not_null().to_list() == [False] + [True] * (rows.height - 1)
        assert rows.height > 1
        assert sum(rows["raw"].str.len_chars()) == len(json.dumps(A)) + len(endless)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "BLOCK_BYTES", 1 << 15)

    def peak(rows: int) -> int:
        file: Any = Endless(kind, rows)
        tracemalloc.start()
        total = sum(one.height for one in read_frames(file, name=f"a.{kind}", chunk_rows=200, chunk_bytes=1 << 15))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == rows
        return used

    peak(100)  # imports, caches
    assert peak(12_000) < 1.3 * peak(3_000)


class Endless:
    """A file of so many rows that is nowhere whole."""

    def __init__(self, kind: str, rows: int) -> None:
        row = {"csv": b"A," + b"x" * 200, "json": json.dumps({**A, "output": "x" * 200}).encode() + b","}
        self._row = row.get(kind, row["json"][:-1]) + b"\n"
        self._head = {"csv": b"instruction,output\n", "json": b"[\n"}.get(kind, b"")
        self._rows, self._rest = rows, b""

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        many = min(self._rows, max(1, size // len(self._row) + 1)) if len(self._rest) < size else 0
        self._rows -= many
        whole = head + self._rest + self._row * many
        end = b"]" if self._row.endswith(b",\n") and many and not self._rows else b""
        whole += end
        self._rest = whole[size:]
        return whole[:size]


# --- the fast way and the exact way

KEYS = st.sampled_from(
    ["instruction", "input", "output", "system", "history", "prompt", "response", "context", "category", "messages",
     "label", "id", "x", "instr\u00fcction"]
)  # fmt: skip
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["input", '"input"', "\ud83d\ude00", "\ud800", "", "function_call", "\x7f\u2028"]
)
TURNS = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS | st.none()}), max_size=3)
VALUES = TEXTS | st.none() | st.integers() | st.floats() | st.booleans() | TURNS | st.lists(TEXTS, max_size=2)
ROWS = st.dictionaries(KEYS, VALUES, max_size=6) | st.fixed_dictionaries(
    {"instruction": TEXTS, "output": TEXTS}, optional={"input": TEXTS, "system": VALUES}
)


@st.composite
def line(draw: st.DrawFn) -> str:
    """A row as one writer or another spells it, perhaps with a key twice or spelt with an escape."""
    row = draw(ROWS | st.fixed_dictionaries({"messages": TURNS}, optional={"label": TEXTS}))
    text = json.dumps(
        row, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([(",", ":"), (" ,\t", " : ")]))
    )
    if draw(st.integers(0, 5)) == 0:
        text = text.replace('"input"', '"in\\u0070ut"').replace("}", ', "output": "again"}', 1)
    return draw(st.sampled_from(["", " ", "\t"])) + text + draw(st.sampled_from(["", "\r", " "]))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(line(), max_size=8), st.sampled_from(["auto", "alpaca", "messages"]), st.integers(1, 9))
def test_the_fast_way_reads_what_the_exact_way_reads(lines: list[str], form: Format, chunk_rows: int) -> None:
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    assert frame(content, form=form, chunk_rows=chunk_rows).equals(exactly(content, form=form))


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare the exact way with itself."""
    slow: list[str] = []
    original = json_rows.JsonRows.of_line

    def counted(self: json_rows.JsonRows, text: str, line: int) -> ReadRow:
        slow.append(text)
        return original(self, text, line)

    monkeypatch.setattr(json_rows.JsonRows, "of_line", counted)
    alpaca = [json.dumps({"instruction": f"Ü {n}", "input": "\n", "output": "😀", "n": n}) for n in range(500)]
    chats = [json.dumps({"messages": [{"role": "user", "content": f"{n}"}]}) for n in range(500)]
    rows = frame("\n".join([*alpaca[:400], '{"instruction": 3}', *chats, *alpaca[400:]]))
    assert rows.height == 1001
    assert len(slow) < 60


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=6), st.sampled_from([None, 1]), st.sampled_from(["", "gz", "zst"]))
def test_what_is_written_is_read_back(rows: list[Any], indent: int | None, how: str) -> None:
    rows = [{"instruction": "", "output": "", **row, "messages": None} for row in rows]
    for row in rows:
        row.pop("messages")
        row.pop("history", None)
    content = json.dumps(rows, indent=indent).encode()
    found = frame(packed(content, how), "a.json")
    for row, read_row in zip(rows, found.iter_rows(named=True), strict=True):
        assert json.dumps(json.loads(read_row["raw"])) == json.dumps(row)
        texts_only = all(isinstance(row.get(key), str | None) for key in ("instruction", "input", "output", "system"))
        assert (read_row["shape_problem"] is None) == texts_only
        if texts_only:
            assert read_row["output"] == reading_of(row["output"])


def reading_of(text: str | None) -> str:
    return (text or "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=300), st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.parquet", "a.json.gz", "a.tsv.zst", "a"])
)
def test_no_bytes_raise(content: bytes, name: str) -> None:
    frame(content, name)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40) | line().map(lambda text: text.encode("utf-8", "surrogatepass")), max_size=8))
def test_every_byte_of_a_file_of_lines_is_in_a_row(lines: list[bytes]) -> None:
    content = b'{"instruction": "first", "output": ""}\n' + b"\n".join(lines)
    shown = [text.decode("utf-8", "surrogateescape").strip(" \t\r") for text in content.split(b"\n")]
    visible = [text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for text in shown]
    rows = frame(content)
    assert rows["raw"].to_list() == [text for text in visible if text]
    assert rows["line"].to_list() == [number for number, text in enumerate(visible, start=1) if text]


# --- real files


@pytest.mark.parametrize(
    ("name", "rows", "unreadable", "chats"),
    [
        ("alpaca_en_demo.json", 999, 0, False),
        ("alpaca_zh_demo.json", 1000, 0, False),
        ("alpaca_v1_malformed.json", 8, 1, False),
        ("alpaca_v2.json", 8, 0, False),
        ("chatml_messages.jsonl", 4, 0, True),
        ("sharegpt_conversation.json", 1, 0, True),
        ("sharegpt_conversation_missing_turns.json", 1, 0, True),
        ("sharegpt_dummy_conversation.json", 500, 0, True),
        ("sharegpt_toolcall_demo.json", 300, 0, True),
    ],
)
def test_real_files(real: Callable[[str], Path], name: str, rows: int, unreadable: int, chats: bool) -> None:
    content = real(name).read_bytes()
    found = frame(content, name)
    assert all(frame(packed(content, how), name).equals(found) for how in ("gz", "zst"))
    assert found.height == rows
    assert found["read_problem"].is_not_null().sum() == unreadable
    assert found["shape_problem"].null_count() == rows
    assert found["turns" if chats else "instruction"].is_not_null().sum() == rows - unreadable


def test_real_tool_calls(real: Callable[[str], Path]) -> None:
    path = real("sharegpt_toolcall_demo.json")
    names = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    found = frame(path.read_bytes(), path.name)
    for row, turns, tools in zip(json.loads(path.read_text()), found["turns"], found["tools"], strict=True):
        assert [turn["role"] for turn in turns] == [names[turn["from"]] for turn in row["conversations"]]
        assert json.loads(tools or "[]") == json.loads(row["tools"])
        for turn, was in zip(turns, row["conversations"], strict=True):
            called = was["from"] == "function_call"
            assert (turn["content"] if not called else json.loads(turn["tool_calls"])) == (
                was["value"] if not called else [json.loads(was["value"])]
            )


@pytest.mark.parametrize(
    ("name", "rows", "mapping"),
    [
        ("gsm8k_train.jsonl", 7473, Mapping(instruction="question", output="answer")),
        (
            "self_instruct_seed_tasks.jsonl",
            175,
            Mapping(instruction="instruction", input="instances.0.input", output="instances.0.output", topic="name"),
        ),
    ],
)
def test_real_files_through_a_mapping(real: Callable[[str], Path], name: str, rows: int, mapping: Mapping) -> None:
    content = real(name).read_bytes()
    found = frame(content, name, mapping=mapping)
    assert found.height == rows
    assert found["instruction"].null_count() == found["output"].null_count() == 0
    assert found.equals(exactly(content, name, mapping=mapping))
    first = json.loads(content.partition(b"\n")[0])
    assert found["instruction"][0] == first[str(mapping.instruction)]
