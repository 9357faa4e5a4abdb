"""Small text files of a dataset beside its versions: read whole, replaced whole.

A reader sees the text before or the text after, never half of one. Of two writers at once the later one wins.
"""

from __future__ import annotations

import uuid
from pathlib import PurePosixPath

from llmjobs.lake import Lake


def read_note(lake: Lake, path: str) -> str:
    """Return the text of a file of the lake, or an empty text where there is none.

    Args:
        lake: The lake.
        path: Relative to the lake, for example ``datasets/tickets/withdrawn.json``.
    """
    # An object store's client may hold an old listing; a mark must be read as it is now.
    lake.fs.invalidate_cache()
    try:
        with lake.open(path) as file:
            return bytes(file.read()).decode("utf-8")
    except FileNotFoundError:
        return ""


def write_note(lake: Lake, path: str, text: str) -> None:
    """Replace a file of the lake by `text`; on a local disk by renaming, elsewhere one object is whole by itself."""
    target = _place(lake, path)
    lake.fs.makedirs(str(target.parent), exist_ok=True)
    if "file" not in _protocols(lake):
        lake.fs.pipe_file(str(target), text.encode())
        return
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    lake.fs.pipe_file(str(temporary), text.encode())
    lake.fs.mv(str(temporary), str(target))


def _place(lake: Lake, path: str) -> PurePosixPath:
    import fsspec

    _, place = fsspec.core.url_to_fs(f"{lake.url}/{path}")
    return PurePosixPath(place)


def _protocols(lake: Lake) -> tuple[str, ...]:
    protocol = lake.fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
