"""The readers against damaged files: no uncaught exception, nothing lost, and the fast way equal to the exact one.

``NIGHTSHIFT_FUZZ_SECONDS`` sets the CPU seconds, 5 without it; ``NIGHTSHIFT_FUZZ_SEED`` the first seed.
"""

import csv
import gzip
import io
import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from llmjobs.instructions.raw.plain_rows import PlainRows
from llmjobs.instructions.raw.reading import read_frames
from llmjobs.instructions.tables import READ

BUDGET_SECONDS = float(os.environ.get("NIGHTSHIFT_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("NIGHTSHIFT_FUZZ_SEED", "0"))

ALPACA = [
    {"instruction": f"Nenne {n} Städte.", "input": "" if n % 3 else "in Grönland\n", "output": f'"Nuuk" \\ {n} 😀'}
    for n in range(12)
]
CHATS = [
    {
        "id": f"c{n}",
        "conversations": [
            {"from": "human", "value": "What is it?"},
            {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'} if n % 3 == 0 else
            {"from": "gpt", "value": "It is\tblue."},
            {"from": "observation", "value": "blue"},
        ],
        "tools": '[{"name": "look"}]',
    }
    for n in range(8)
]  # fmt: skip
MESSAGES = [
    {"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Hello \u2028"}], "label": n}
    for n in range(8)
]
PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b"\n", b"\\", b"\\ud800", b"\x00", b"\xff", b"\xef\xbb\xbf", b"null",
          b": 1e999", b'"instruction"', b'"output": "b"', b"\r\n", b"\\u0069", b" ", b"\t", b";", b'""']  # fmt: skip


def lines(rows: list[Any], **how: Any) -> bytes:
    return "\n".join(json.dumps(row, **how) for row in rows).encode() + b"\n"


def table(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[Any]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows).write_parquet(file, row_group_size=5)
    return file.getvalue()


SEEDS = [
    ("alpaca.jsonl", lines(ALPACA)),
    ("alpaca-utf8.jsonl", lines(ALPACA, ensure_ascii=False)),
    ("chats.jsonl", lines(CHATS)),
    ("messages.jsonl", lines(MESSAGES, ensure_ascii=False)),
    ("alpaca.json", json.dumps(ALPACA, indent=1).encode()),
    ("chats.json", json.dumps(CHATS, ensure_ascii=False).encode()),
    ("utf16.json", json.dumps(ALPACA, ensure_ascii=False).encode("utf-16")),
    ("utf32.jsonl", lines(ALPACA, ensure_ascii=False).decode().encode("utf-32-le")),
    ("alpaca.csv", table(ALPACA)),
    ("alpaca.tsv", table(ALPACA).replace(b",", b"\t")),
    ("alpaca.parquet", parquet(ALPACA)),
    ("chats.parquet", parquet(CHATS)),
    ("alpaca.jsonl.gz", gzip.compress(lines(ALPACA), mtime=0)),
    ("alpaca.csv.gz", gzip.compress(table(ALPACA), mtime=0)),
    ("chats.json.zst", pa.Codec("zstd").compress(json.dumps(CHATS).encode(), asbytes=True)),
    ("alpaca.unknown", lines(ALPACA)),
]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a file with one to four damages: flipped bits, cuts, splices, repeated and foreign pieces."""
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.choice([1, 2, 8, 40, 400]))
        damage = chance.randrange(6)
        if damage == 0 and begin < len(content):
            flipped = content[begin] ^ (1 << chance.randrange(8))
            content = content[:begin] + bytes([flipped]) + content[begin + 1 :]
        elif damage == 1:
            content = content[:begin] + content[end:]
        elif damage == 2:
            content = content[:begin]
        elif damage == 3:
            content = content[:begin] + content[begin:end] * 2 + content[end:]
        elif damage == 4:
            content = content[:begin] + chance.choice(PIECES) + content[begin:]
        else:
            content = content[:begin] + chance.randbytes(end - begin) + content[end:]
    return content


def read(name: str, content: bytes, **sizes: Any) -> pl.DataFrame:
    frames = list(read_frames(io.BytesIO(content), name=name, **sizes))
    for frame in frames:
        assert dict(frame.schema) == READ
    return pl.concat([pl.DataFrame(schema=READ), *frames])


def cases() -> Iterator[tuple[int, str, bytes]]:
    started, seed = time.process_time(), SEED
    while time.process_time() - started < BUDGET_SECONDS:
        name, content = SEEDS[seed % len(SEEDS)]
        yield seed, name, mutated(content, random.Random(seed))
        seed += 1


def check_rows(rows: pl.DataFrame, name: str) -> None:
    problem = rows["read_problem"].is_not_null() | rows["shape_problem"].is_not_null()
    said = rows["turns"].is_not_null() | (rows["instruction"].is_not_null() & rows["output"].is_not_null())
    assert (problem != said).all()
    assert not (rows["read_problem"].is_not_null() & rows["shape_problem"].is_not_null()).any()
    assert rows["line"].is_sorted()
    assert rows["read_problem"].drop_nulls().str.contains(r"^line \d+(, column \d+)?: .").all(), name


@pytest.mark.timeout(0)
def test_damaged_files_are_read_and_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: set[str] = set()
    for seed, name, content in cases():
        try:
            rows = read(name, content)
            check_rows(rows, name)
            with monkeypatch.context() as exactly:
                exactly.setattr(PlainRows, "learn", lambda *_: None)
                # Of a broken row group of Parquet as many rows are read as whole batches come before the damage.
                sizes = {} if "parquet" in name else {"chunk_rows": 3}
                assert read(name, content, **sizes).equals(rows)
        except BaseException as error:
            raise AssertionError(f"{name} with NIGHTSHIFT_FUZZ_SEED={seed}") from error
        tried.add(name)
    assert tried == {name for name, _ in SEEDS} or BUDGET_SECONDS < 1


def test_the_seeds_themselves_are_whole() -> None:
    for name, content in SEEDS:
        rows = read(name, content)
        assert rows.height == (12 if "alpaca" in name or "utf" in name else 8), name
        assert rows["read_problem"].null_count() == rows["shape_problem"].null_count() == rows.height, name
        check_rows(rows, name)
