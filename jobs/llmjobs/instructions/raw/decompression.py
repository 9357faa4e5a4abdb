"""Streams the bytes of a file, unpacked where it is packed, and remembers where unpacking broke.

gzip is the standard library's zlib; zstd is pyarrow's, since Python has none before 3.14.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
_PACKED_BYTES = 1 << 16
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
_GZIP_WINDOW = 31
"""zlib's ``wbits`` for a gzip header and the largest window."""


class Blocks:
    """The bytes of a file in blocks of about 1 MiB; iterating reads it once, from its start.

    Args:
        file: Where its bytes come from.
        name: Its suffix ``.gz`` or ``.zst`` says that it is packed; so do its first bytes.

    Attributes:
        problem: Why unpacking ended early; empty while all is well. What came before is whole.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.problem = ""
        self._file = file
        self._head = file.read(len(_ZSTD_MAGIC))
        self._packing = next((packing for end, packing in _SUFFIXES.items() if name.lower().endswith(end)), "")
        if self._head.startswith(_GZIP_MAGIC):
            self._packing = "gzip"
        elif self._head == _ZSTD_MAGIC:
            self._packing = "zstd"

    def __iter__(self) -> Iterator[bytes]:
        if not self._head:
            return iter(())
        return {"": self._plain, "gzip": self._gzip, "zstd": self._zstd}[self._packing]()

    def _plain(self) -> Iterator[bytes]:
        yield self._head + self._file.read(BLOCK_BYTES)
        while block := self._file.read(BLOCK_BYTES):
            yield block

    def _gzip(self) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(_GZIP_WINDOW)
        packed = self._head + self._file.read(_PACKED_BYTES)
        while packed:
            before = unpacker.copy()
            try:
                yield unpacker.decompress(packed)
            except zlib.error as error:
                yield _up_to_the_error(before, packed)
                self._broke("gzip", str(error).partition(": ")[2] or str(error))
                return
            packed = unpacker.unused_data
            if unpacker.eof:
                # gzip files may stand one after another; zeros behind the last are padding (RFC 1952, gzip(1)).
                packed = (packed or self._file.read(_PACKED_BYTES)).lstrip(b"\0")
                unpacker = zlib.decompressobj(_GZIP_WINDOW) if packed else unpacker
            else:
                packed = self._file.read(_PACKED_BYTES)
        if not unpacker.eof:
            self._broke("gzip", "it is cut off")

    def _zstd(self) -> Iterator[bytes]:
        import pyarrow as pa

        packed = _Rejoined(self._head, self._file)
        stream = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
        while True:
            # When unpacking fails, pyarrow loses count of what it has written. 0xff is in no UTF-8 text, so the bytes
            # that were written end where those begin.
            block = bytearray(b"\xff" * BLOCK_BYTES)
            try:
                size = stream.readinto(block)
            except OSError as error:
                if packed.failed:
                    raise
                yield bytes(block.rstrip(b"\xff"))
                cut_off = "Truncated" in str(error)
                self._broke("zstd", "it is cut off" if cut_off else str(error).partition(": ")[2] or str(error))
                return
            if not size:
                return
            yield bytes(memoryview(block)[:size])

    def _broke(self, packing: str, why: str) -> None:
        self.problem = f"the {packing} compression is broken here ({why})"


class _Rejoined:
    """A file whose first bytes were read already, as pyarrow wants one.

    Attributes:
        failed: Whether reading itself raised an error, which is not one of the packed bytes.
    """

    closed = False

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self.failed = False
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`."""
        head, self._head = self._head, b""
        try:
            return head or self._file.read(size)
        except Exception:
            self.failed = True
            raise

    def close(self) -> None:
        """Leave the file open: it is its owner's."""


def _up_to_the_error(unpacker: zlib._Decompress, packed: bytes) -> bytes:
    """Return what can be unpacked of the bytes that hold an error: zlib gives all or nothing a call."""
    parts = []
    for number in range(len(packed)):
        try:
            parts.append(unpacker.decompress(packed[number : number + 1]))
        except zlib.error:
            break
    return b"".join(parts)
