"""What the sources hold now, read only where a stamp says that it may differ from what was read before."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from llmjobs.database.connection import Connection
from llmjobs.embeddings.documents.source import Scan, Source, Unreadable


@dataclass(frozen=True)
class Known:
    """What the last finished run left of a source; see the table ``source_state``."""

    source: str
    settings: bytes | None = None
    manifest: bytes | None = None
    watermark: str = ""
    runs_since_rehash: int = 0


@dataclass
class Survey:
    """What one source holds now.

    Attributes:
        source: Its name.
        settings: Digest of its settings, 32 bytes.
        scan: What it listed.
        changed: Whether anything was read or is gone, or the watermark moved; if not, the rest is empty.
        everything: Whether all containers were read, whatever their stamps.
        manifest: Digest of all stamps; None where the next run must not rely on one.
        read: Containers that were read, with their stamps.
        listed: Their documents: key -> container and content hash.
        unreadable: Documents and containers that could not be read; what the index holds of them stays.
        gone: Containers that were known and are not listed any more.
    """

    source: str
    settings: bytes
    scan: Scan
    changed: bool = False
    everything: bool = False
    manifest: bytes | None = None
    read: dict[str, str] = field(default_factory=dict)
    listed: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)


def known_sources(connection: Connection, index_id: int | None) -> dict[str, Known]:
    """Return what is known of an index's sources, by name."""
    rows = connection.execute(
        "select source, settings, manifest, watermark, runs_since_rehash from source_state where index_id = %s",
        [index_id],
    ).fetchall()
    return {row[0]: Known(*row) for row in rows}


def survey(
    connection: Connection,
    index_id: int | None,
    source: Source,
    known: Known,
    *,
    everything: bool = False,
    retried: Collection[str] = (),
) -> Survey:
    """List a source and read what may differ; opens no transaction, as reading may take long.

    Args:
        connection: For the stamps of the last finished run.
        index_id: The index; None before its first run.
        source: The source.
        known: What the last finished run left of it.
        everything: Read all containers. So it is too after a change of the source's settings.
        retried: Containers to read again whatever their stamps: documents in them failed and are due.
    """
    everything = everything or known.settings != source.settings_digest
    scan = source.scan("" if everything else known.watermark, full=everything)
    found = Survey(source.name, source.settings_digest, scan, everything=everything)
    found.manifest = _manifest(scan)
    if not everything and not retried and found.manifest and found.manifest == known.manifest:
        return found
    stored = _stamps(connection, index_id, source.name, scan)
    due = [one for one, stamp in scan.stamps.items() if everything or not stamp or stored.get(one) != stamp]
    again = [one for one in retried if one in scan.stamps or not scan.complete]
    found.gone = stored.keys() - scan.stamps.keys() if scan.complete else set()
    wanted = dict.fromkeys([*due, *again])
    found.changed = bool(wanted or found.gone or everything or scan.watermark != known.watermark)
    found.changed |= scan.complete and found.manifest != known.manifest
    _read(found, source, wanted, stored)
    return found


def _read(found: Survey, source: Source, containers: Collection[str], stored: Mapping[str, str]) -> None:
    for container, documents in source.hashes(containers) if containers else ():
        # A listing of what changed does not name what is only tried again.
        found.read[container] = found.scan.stamps.get(container, stored.get(container, ""))
        if isinstance(documents, Unreadable):
            found.unreadable.append(documents)
        else:
            found.listed.update((key, (container, content_hash)) for key, content_hash in documents.items())
    if len(found.read) < len(containers):
        found.manifest = None  # some went while they were read; the next run decides


def _manifest(scan: Scan) -> bytes | None:
    """Return the digest of a complete listing, 32 bytes; None where a stamp is empty, for that is equal to none."""
    if not scan.complete or not all(scan.stamps.values()):
        return None
    lines = "\n".join(f"{container}\0{stamp}" for container, stamp in sorted(scan.stamps.items()))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).digest()


def _stamps(connection: Connection, index_id: int | None, source: str, scan: Scan) -> dict[str, str]:
    """Return the stamps of the last finished run: all, or those of what an incremental listing names."""
    query = "select container, stamp from source_container where index_id = %s and source = %s"
    if scan.complete:
        return dict(connection.execute(query, [index_id, source]).fetchall())
    named = list(scan.stamps)
    return dict(connection.execute(query + " and container = any(%s)", [index_id, source, named]).fetchall())
