"""Gives rows their identity: what they are, what they say, and what they were asked, as hashes.

Each is a SHA-256. Tables hold its first 128 bits as one Int128 column, 16 bytes a row, which a million rows afford; the
published rows hold the whole of ``row_id`` as hexadecimal digits.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from llmjobs.contracts.base import digest

_OTHER_SPACES = r"(?-u:[\t\x0b\x0c\r])"
"""White space in ASCII, but for the space and the line break."""

_DIGEST_BYTES, _KEY_BYTES = 32, 16

Digests = npt.NDArray[np.uint8]

_TURNS_OF_ONE_QUESTION = 2

_TURN_END, _FIELD_END = "\x1e", "\x1f"


def identify(rows: pl.DataFrame) -> pl.DataFrame:
    """Add ``row_id`` and the keys to rows that have `messages`.

    * ``row_id`` (Binary, 32 bytes): of the messages as canonical JSON; of rows with tools, of both
    * ``row_key`` (Int128): the first half of it
    * ``said_key``: of all that is said, but for white space and letter case: equal in duplicates
    * ``first_key``: of the first prompt, but for white space and letter case
    * ``prompt_key``: the same; of a chat with several user turns of all of them, since chats that have nothing in
      common may open with the same greeting
    * ``group_key``: of the conversation where the row names one, else `prompt_key`: never on two sides of a split;
      ``group_id`` (Binary, 16 bytes): the same, as it is published

    Args:
        rows: Columns of `tables.EXAMINED`: ``messages``, ``tools``, ``prompt``, ``conversation``, ``source``.
    """
    ids = _digests(_canonical(rows))
    firsts = _digests(normalised(rows["prompt"]))
    prompts = _prompts(rows, firsts)
    groups = _groups(rows, prompts)
    return rows.with_columns(
        row_id=_binary(ids),
        row_key=_keys(ids),
        said_key=said_keys(said(rows)),
        first_key=_keys(firsts),
        prompt_key=_keys(prompts),
        group_key=_keys(groups),
        group_id=_binary(groups[:, :_KEY_BYTES]),
    )


def normalised(texts: pl.Series) -> pl.Series:
    """Return texts in NFC, lower case, each run of white space one space: what duplicates and groups compare."""
    odd = (texts.str.len_bytes() != texts.str.len_chars()).fill_null(value=False)
    if odd.any():
        # Python looks first whether a text is composed already; polars 2.1 composes it, at ten times the cost.
        composed = [unicodedata.normalize("NFC", text) for text in texts.filter(odd)]
        texts = texts.scatter(odd.arg_true(), composed)
    texts = texts.str.to_lowercase().str.replace_all("\n", " ", literal=True)
    # What is looked for by bytes costs half of what the expression over characters does, which few texts then need.
    spaced = odd | texts.str.contains("  ", literal=True) | texts.str.contains(_OTHER_SPACES)
    spaced = spaced.fill_null(value=False)
    if spaced.any():
        # A single space, by far the most frequent run, is left alone.
        plain = texts.filter(spaced).str.replace_all(r"\s\s+|[\s&&[^ ]]", " ")
        texts = texts.scatter(spaced.arg_true(), plain)
    return texts.str.strip_chars()


def said(rows: pl.DataFrame) -> pl.Series:
    """Return all that the turns of each row say, normalised."""
    turn = pl.element().struct
    called = turn.field("tool_calls").fill_null("")
    text = turn.field("role") + _FIELD_END + turn.field("content") + called
    return normalised(rows.select(said=pl.col("messages").list.eval(text).list.join(_TURN_END))["said"])


def said_keys(texts: pl.Series) -> pl.Series:
    """Return the ``said_key`` of what `said` returned."""
    return _keys(_digests(texts))


def key_of(ids: pl.Series) -> pl.Series:
    """Return the keys of hexadecimal ids, of rows or groups: of their first 32 digits."""
    joined = b"".join(ids.str.slice(0, 2 * _KEY_BYTES).str.decode("hex").to_list())
    return _keys(np.frombuffer(joined, dtype=np.uint8).reshape(-1, _KEY_BYTES))


def _canonical(rows: pl.DataFrame) -> pl.Series:
    """Return the rows as canonical JSON: that of `contracts.base.digest`, but made column-wise."""
    turn = pl.element().struct
    # It writes keys in this order, and texts as `json.dumps` does without ASCII escapes: a test holds both together.
    text = pl.struct(content=turn.field("content"), role=turn.field("role")).struct.json_encode()
    calls = pl.col("messages").list.eval(turn.field("tool_calls").is_not_null()).list.any()
    made = rows.select(
        text=pl.concat_str(pl.lit("["), pl.col("messages").list.eval(text).list.join(","), pl.lit("]")),
        odd=calls | pl.col("tools").is_not_null(),
    )
    if not made["odd"].any():
        return made["text"]
    odd = rows.filter(made["odd"]).select("messages", "tools")
    written = [_with_tools(messages, tools) for messages, tools in odd.iter_rows()]
    return made["text"].scatter(made["odd"].arg_true(), written)


def _with_tools(messages: list[dict[str, str | None]], tools: str | None) -> str:
    turns = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return json.dumps({"messages": turns, "tools": tools}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _prompts(rows: pl.DataFrame, firsts: Digests) -> Digests:
    """Return the digests of all user turns where there are several, else those of the first prompts."""
    turn = pl.element().struct
    asked = pl.col("messages").list.eval(turn.field("content").str.strip_chars().filter(turn.field("role") == "user"))
    long = rows.with_row_index("place").filter(pl.col("messages").list.len() > _TURNS_OF_ONE_QUESTION)
    several = long.select("place", asked=asked).filter(pl.col("asked").list.len() > 1)
    if several.is_empty():
        return firsts
    prompts = firsts.copy()
    prompts[several["place"].to_numpy()] = _digests(normalised(several["asked"].list.join(_TURN_END)))
    return prompts


def _groups(rows: pl.DataFrame, prompts: Digests) -> Digests:
    named = rows["conversation"].is_not_null()
    if not named.any():
        return prompts
    names = rows.filter(named).select("source", "conversation").rows()
    found = [bytes.fromhex(digest(["conversation", *name])) for name in names]
    groups = prompts.copy()
    groups[named.to_numpy()] = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)
    return groups


def _digests(texts: pl.Series) -> Digests:
    """Return the SHA-256 of each text, (texts, 32) bytes."""
    sha256 = hashlib.sha256
    joined = b"".join([sha256(text).digest() for text in texts.cast(pl.Binary).to_list()])
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, _DIGEST_BYTES)


def _binary(rows: npt.NDArray[np.uint8]) -> pl.Series:
    """Return rows of bytes, (rows, bytes), as a column."""
    flat = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))]
    )
    return pl.Series(values=flat, dtype=pl.Binary)


def _keys(digests: Digests) -> pl.Series:
    """Return the first 128 bits of each digest as an Int128."""
    halves = np.ascontiguousarray(digests[:, :_KEY_BYTES]).view(">u8")
    native = pl.DataFrame({"high": halves[:, 0].astype("u8").view("i8"), "low": halves[:, 1].astype("u8")})
    high, low = pl.col("high").cast(pl.Int128), pl.col("low").cast(pl.Int128)
    return native.select(key=high * pl.lit(2**64, dtype=pl.Int128) + low)["key"]
