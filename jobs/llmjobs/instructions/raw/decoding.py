r"""Turns the bytes of any Unicode file into UTF-8, and keeps bytes that are no text visible.

A byte that is no text becomes the lone surrogate U+DC00 + byte: no file can hold one otherwise, parsers pass over it,
and `shown` writes it as ``\xff``. For UTF-8 that is Python's own handler ``surrogateescape`` (PEP 383).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain

_MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_UNMARKED = {
    (True, False, False, False): "utf-32-le",
    (False, False, False, True): "utf-32-be",
    (True, False, True, False): "utf-16-le",
    (False, True, False, True): "utf-16-be",
}
"""Which of the first four bytes are not zero, in a text that begins with two ASCII characters (RFC 4627, section 3)."""

_PATTERN_BYTES, _HEAD_BYTES = 4, 1024
_BAD = re.compile("[\udc00-\udcff]")
_BAD_RUN = re.compile("[\udc00-\udcff]+")
_SIGNS = b"\x80\x82\x84\x85\x91\x92\x93\x94\x95\x96\x97\xa3\xa7\xa9\xab\xae\xb0\xb4\xbb"
"""Quotes, dashes and other signs of Windows-1252 that stand in texts, beside its letters."""


class Utf8:
    """The bytes of a text file as UTF-8, without byte order mark, in blocks; iterating reads it once.

    Attributes:
        errors: Error handler with which a part of it decodes to a text that holds U+DC00 + byte for each byte that is
            no text.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._head = b""
        for block in self._blocks:
            self._head += block
            if len(self._head) >= _HEAD_BYTES:
                break
        mark, self._encoding = _encoding_of(self._head)
        self._head = self._head[len(mark) :]
        self.errors = "surrogateescape" if self._encoding == "utf-8" else "surrogatepass"

    def __iter__(self) -> Iterator[bytes]:
        blocks = chain([self._head], self._blocks)
        return blocks if self._encoding == "utf-8" else self._translated(blocks)

    def text(self, line: bytes) -> str:
        """Return a line of the file as text."""
        return line.decode("utf-8", self.errors)

    def _translated(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(self._encoding)(errors=_HANDLER)
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def texts(blocks: Iterable[bytes], errors: str) -> Iterator[str]:
    """Yield UTF-8 blocks as text; characters may straddle blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors=errors)
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def bad_byte(text: str, begin: int = 0) -> int:
    """Return the position of the first byte at or after `begin` that is no text; -1 where there is none."""
    # Encoding is a scan in C; the search is not, and hardly any text needs it.
    try:
        text.encode()
    except UnicodeEncodeError:
        match = _BAD.search(text, begin)
        return match.start() if match else -1
    return -1


def shown(text: str) -> str:
    r"""Return a text with bytes that are no text as ``\xff``."""
    return text if bad_byte(text) < 0 else _BAD.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)


def no_utf8(text: str, position: int) -> str:
    """Return what is wrong with the byte at a position of a text, and how to mend the file where that is clear."""
    problem = f"byte {shown(text[position])} is no UTF-8"
    run = _BAD_RUN.match(text, position)
    byte = bytes(ord(bad) - 0xDC00 for bad in run[0]) if run else b""
    letter = byte.decode("cp1252", "replace")
    # Alone: several are a cut-off character of UTF-8, or one of GBK. 0xff is a letter hardly any text has.
    if len(letter) == 1 and 0x7F < byte[0] < 0xFF and (letter.isalpha() or byte in _SIGNS):
        return f"{problem}; save the file as UTF-8 (it looks like Windows-1252)"
    return problem


def _encoding_of(head: bytes) -> tuple[bytes, str]:
    """Return the byte order mark and the encoding of a file that begins with `head`."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return mark, encoding
    pattern = tuple(byte != 0 for byte in head[:_PATTERN_BYTES])
    encoding = _UNMARKED.get(pattern, "utf-8")  # type: ignore[arg-type]
    # Zeros may begin a UTF-8 file too. One byte in four of UTF-32 is zero, and of UTF-16 that of any brace or comma.
    more = head[_PATTERN_BYTES:_HEAD_BYTES]
    least = len(more) // 4 if encoding.startswith("utf-32") else min(len(more), 1)
    return b"", encoding if more.count(0) >= least else "utf-8"


def _kept(error: UnicodeError) -> tuple[str, int]:
    """Keep bytes that are no text: the handler of `codecs` for encodings that ``surrogateescape`` does not serve."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


_HANDLER = "nightshift.keep"
codecs.register_error(_HANDLER, _kept)
