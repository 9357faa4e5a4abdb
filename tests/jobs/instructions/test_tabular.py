"""CSV, TSV and Parquet: each record a row with its line, and what is broken costs only itself."""

import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmjobs.contracts.data_contract import Mapping
from llmjobs.instructions.raw import tabular
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.tables import READ

HEADER = "instruction,input,output\n"
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)


def read(content: bytes | str, name: str = "rows.csv", **how: Any) -> pl.DataFrame:
    data = content.encode() if isinstance(content, str) else content
    frames = list(read_frames(io.BytesIO(data), name=name, **how))
    return pl.concat(frames) if frames else pl.DataFrame(schema=READ)


def parquet(table: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(table), file, **how)
    return file.getvalue()


# --- CSV


def test_records_span_lines_and_keep_their_text_and_line() -> None:
    rows = read(HEADER + 'A,,a\n"B\n""b"" ",x,"b,\r\nb"\r\n\nC,,c')
    assert rows["line"].to_list() == [2, 3, 7]
    assert rows["instruction"].to_list() == ["A", 'B\n"b" ', "C"]
    assert rows["output"].to_list() == ["a", "b,\r\nb", "c"]
    assert rows["raw"].to_list() == ["A,,a", '"B\n""b"" ",x,"b,\r\nb"', "C,,c"]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("B,b", "line 3: 2 fields, but the header names 3"),
        ("B,,b,more", "line 3: 4 fields, but the header names 3"),
        ("B,\0,b", "line 3, column 3: NUL byte"),
        ('"B" b,,b', "line 3: text behind a closing quote (a quote within a field must be doubled)"),
        ('B,,"b', "line 5: a quote is not closed before the end of the file"),
        ('B,,"b\nand on\n', "line 7: a quote is not closed before the end of the file"),
    ],
)
def test_a_broken_record_costs_only_itself(broken: str, problem: str) -> None:
    rows = read(f"{HEADER}A,,a\n{broken}\nC,,c\nD,,d\n")
    assert rows["read_problem"].to_list() == [None, problem, None, None]
    assert rows["instruction"].to_list() == ["A", None, "C", "D"]
    assert rows["raw"].to_list() == ["A,,a", broken.rstrip("\n"), "C,,c", "D,,d"]
    assert rows["line"][1] == 3


def test_bytes_that_are_no_text_stay_visible() -> None:
    rows = read(HEADER.encode() + b"A,,caf\xe9\nB,,b\n")
    fix = "save the file as UTF-8 (it looks like Windows-1252)"
    assert rows["read_problem"].to_list() == [f"line 2, column 7: byte \\xe9 is no UTF-8; {fix}", None]
    assert rows["raw"][0] == "A,,caf\\xe9"


def test_an_open_quote_is_looked_behind_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many gigabytes must not be read into memory because one quote is missing."""
    monkeypatch.setattr(tabular, "LONGEST_RECORD", 1000)
    monkeypatch.setattr(tabular, "_LEAST_LOOK", 100)
    rows = read(HEADER + 'A,,"a\n' + "".join(f"B{n},,b\n" for n in range(1000)))
    assert rows["read_problem"].null_count() == 1000
    assert rows["read_problem"][0].endswith("a quote stays open for more than 1,000 characters")
    assert rows["line"].to_list() == list(range(2, 1003))


def test_without_a_header_no_record_has_names() -> None:
    rows = read('"instruction" x,output\nA,a\nB,b\n')
    assert rows["raw"].to_list() == ['"instruction" x,output', "A,a", "B,b"]
    assert rows["read_problem"][2] == "line 3: the columns have no names, as the header is broken"


@pytest.mark.parametrize("content", ["", "\ufeff", HEADER, "\n\n"])
def test_a_table_without_records_has_no_rows(content: str) -> None:
    assert read(content).height == 0


@pytest.mark.parametrize(
    ("name", "mark", "encoding"),
    [("a.tsv", "\t", "utf-8"), ("a.csv", ";", "utf-8-sig"), ("a.csv", ",", "utf-16"), ("a.txt", ",", "utf-32")],
)
def test_delimiters_and_encodings(name: str, mark: str, encoding: str) -> None:
    rows = read(f"instruction{mark}output\nGrüße{mark}你好\n".encode(encoding), name)
    assert rows.select("instruction", "output").rows() == [("Grüße", "你好")]


def test_lists_stand_as_json_in_cells() -> None:
    turns = json.dumps([{"role": "user", "content": "Hi"}]).replace('"', '""')
    rows = read(f'messages,label\n"{turns}",good\n"[oops",bad\n')
    assert rows["turns"][0].to_list() == [{"role": "user", "content": "Hi", "tool_calls": None}]
    assert rows["label"].to_list() == ["good", None]
    assert rows["shape_problem"].to_list() == [None, "field `messages` is not a list of messages"]


def test_a_column_named_twice_is_noticed() -> None:
    assert read("instruction,output,output\nA,a,b\n")["repeated_keys"].to_list() == ["output"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=8), st.sampled_from([",", "\t"]))
def test_what_is_written_is_read_back(rows: list[tuple[str, str, str]], mark: str) -> None:
    quoted = [mark.join('"' + text.replace('"', '""') + '"' for text in row) for row in rows]
    content = HEADER.replace(",", mark) + "".join(f"{row}\n" for row in quoted)
    found = read(content, "a.tsv" if mark == "\t" else "a.csv")
    assert found.select("instruction", "input", "output").rows() == rows
    assert found["raw"].to_list() == quoted
    begins = [2 + "".join(f"{row}\n" for row in quoted[:number]).count("\n") for number in range(len(rows))]
    assert found["line"].to_list() == begins


# --- Parquet


def test_parquet_rows_have_numbers_and_json() -> None:
    table = {"instruction": ["A", None, "Ü"], "output": ["a", "b", None], "n": [1, 2, 3], "category": ["x", "", None]}
    rows = read(parquet(table, row_group_size=2), "a.parquet", chunk_rows=1)
    assert rows["line"].to_list() == [1, 2, 3]
    assert rows.select("instruction", "input", "output").rows() == [("A", "", "a"), ("", "", "b"), ("Ü", "", "")]
    assert rows["topic"].to_list() == ["x", None, None]
    assert json.loads(rows["raw"][2]) == {"instruction": "Ü", "output": None, "n": 3, "category": None}


def test_parquet_chats_with_odd_turns() -> None:
    turn = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": None}]
    call = [{"from": "function_call", "value": '{"name": "f"}'}]
    rows = read(parquet({"conversations": [turn, [], None, call, [*turn, None]]}), "a.parquet")
    assert [turn["content"] for turn in rows["turns"][0]] == ["Hi", ""]
    assert rows["turns"][3][0]["tool_calls"] == '[{"name":"f","arguments":{}}]'
    missing = "field `conversations` is not a list of messages"
    odd = "conversations[2] has no `from` and `value`"
    assert rows["shape_problem"].to_list() == [None, missing, missing, None, odd]


def test_parquet_values_that_are_no_json_are_shown() -> None:
    table = {"q": ["A"], "a": ["b"], "day": [date(2026, 11, 23)], "blob": [b"\x00\xff"]}
    rows = read(parquet(table), "a.parquet", mapping=Mapping(instruction="q", output="a", label="day"))
    assert rows.select("instruction", "label").rows() == [("A", "2026-11-23")]
    assert json.loads(rows["raw"][0])["blob"] == "\x00\\xff"


def test_parquet_with_bytes_that_are_no_text() -> None:
    broken = pa.array([b"A", b"caf\xe9"]).view(pa.string())
    rows = read(parquet({"instruction": broken, "output": pa.array(["a", "b"])}), "a.parquet")
    assert rows["read_problem"].to_list() == [None, "line 2: column 'instruction' holds bytes that are no UTF-8"]
    assert rows["instruction"].to_list() == ["A", None]
    assert "caf\\\\xe9" in rows["raw"][1]


def test_a_broken_row_group_is_one_row() -> None:
    texts = [f"{number} " + "x" * 50 for number in range(300)]
    content = bytearray(parquet({"instruction": texts, "output": texts}, row_group_size=100, compression="zstd"))
    second = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0).data_page_offset
    content[second : second + 40] = b"\xff" * 40
    rows = read(bytes(content), "a.parquet")
    assert rows.height == 201
    problems = rows["read_problem"].drop_nulls().to_list()
    assert len(problems) == 1
    assert problems[0].startswith("line 101: rows 101 to 200 cannot be read: ")


@pytest.mark.parametrize("content", [b"PAR1", b"no Parquet at all", parquet({"a": ["b"]})[:-5]])
def test_no_parquet_is_one_row(content: bytes) -> None:
    rows = read(content, "a.parquet")
    assert rows.height == 1
    assert rows["read_problem"][0].startswith("line 1: no readable Parquet: ")


def test_parquet_from_a_file_that_cannot_seek(tmp_path: Path) -> None:
    class Stream(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self._content = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self._content.readinto(buffer)

    stream = io.BufferedReader(Stream(parquet({"prompt": ["p"], "completion": ["c"]})))
    assert not stream.seekable()
    rows = pl.concat(read_frames(stream, name="a.parquet"))
    assert rows.select("instruction", "input", "output").rows() == [("p", None, "c")]


@pytest.mark.parametrize(("name", "rows"), [("a.parquet", 1), ("a.json", 1), ("a.jsonl", 0), ("a.csv", 0)])
def test_a_file_without_a_byte_is_a_broken_one_where_its_kind_has_no_empty_file(name: str, rows: int) -> None:
    found = [frame["read_problem"].to_list() for frame in read_frames(io.BytesIO(b""), name=name)]
    assert found == [["line 1: the file is empty: a broken upload?"]] * rows
