"""Indexes as collections on the command line: ``python -m llmjobs.embeddings.search list``.

    list                                         every index with its counts
    count INDEX [--filter JSON]                  documents
    get INDEX [KEY ...] [--filter JSON]          documents with their chunks, one JSON line each
    upsert INDEX FILE                            JSON lines: key, text; title, metadata, tenant, language, form
    delete INDEX [KEY ...] [--filter JSON]       asks first; --yes does not
    export INDEX FILE                            .jsonl or .parquet, every tenant's documents, vectors included
    import FILE [--as NAME]                      into an index that does not exist yet

Questions are asked with ``python -m llmjobs.embeddings.ask``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmjobs.contracts.embeddings import PUBLIC
from llmjobs.contracts.errors import BadConfig, BadData, JobError
from llmjobs.database.connection import Connection, connect
from llmjobs.embeddings.documents.direct import Given
from llmjobs.embeddings.search import collections
from llmjobs.embeddings.search.exchange import export_index, import_index
from llmjobs.embeddings.search.filters import parsed
from llmjobs.embeddings.search.upserts import upsert


def main(arguments: list[str] | None = None) -> int:
    """Do one command; return 0, or the exit code of what went wrong."""
    options = _parser().parse_args(arguments)
    options.tenant = getattr(options, "tenant", None) or [PUBLIC]
    try:
        with connect() as connection:
            for line in _COMMANDS[options.command](connection, options):
                sys.stdout.write(line + "\n")
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _list(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    return [_json(one.as_dict()) for one in collections.list_collections(connection, tenants=options.tenant)]


def _count(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    return [str(collections.count(connection, options.index, tenants=options.tenant, **_which(options)))]


def _get(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    found = collections.get(
        connection,
        options.index,
        options.keys or None,
        tenants=options.tenant,
        limit=options.limit,
        offset=options.offset,
        **_which(options),
    )
    return [_json(one.as_dict()) for one in found]


def _upsert(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    with sys.stdin if str(options.file) == "-" else options.file.open(encoding="utf-8") as file:
        documents = [_given(line, number) for number, line in enumerate(file, 1) if line.strip()]
    return [_json(asdict(upsert(connection, options.index, documents)))]


def _given(line: str, number: int) -> Given:
    try:
        return Given(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise BadData(f"line {number} is no document: {error}") from error


def _delete(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    if not options.yes:
        sys.stderr.write(
            f"Delete documents of {options.index} for good? A source that still holds them brings them back. [y/N] "
        )
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise BadConfig("nothing was deleted: answer y, or give --yes")
    gone = collections.delete(
        connection, options.index, options.keys or None, tenants=options.tenant, **_which(options)
    )
    return [f"{gone} documents deleted"]


def _export(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    return [f"{export_index(connection, options.index, options.file)} rows in {options.file}"]


def _import(connection: Connection, options: argparse.Namespace) -> Iterable[str]:
    generation = import_index(connection, options.file, options.name)
    return [f"{options.file} answers as generation {generation.generation_id}"]


_COMMANDS = {
    "list": _list,
    "count": _count,
    "get": _get,
    "upsert": _upsert,
    "delete": _delete,
    "export": _export,
    "import": _import,
}


def _which(options: argparse.Namespace) -> dict[str, Any]:
    return {"filter": parsed(options.filter), "within": options.within, "source": options.source}


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmjobs.embeddings.search", description="Indexes as collections.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "count", "get", "delete"):
        command = commands.add_parser(name)
        command.add_argument("--tenant", action="append", help=f"whose documents; may be repeated (default: {PUBLIC})")
        if name != "list":
            command.add_argument("index")
            command.add_argument("--filter", default="", help="JSON, as in ask")
            command.add_argument("--within", default="", help="only documents whose key begins so")
            command.add_argument("--source", default="", help="only documents of this source")
        if name in ("get", "delete"):
            command.add_argument("keys", nargs="*")
        if name == "get":
            command.add_argument("--limit", type=int, default=100)
            command.add_argument("--offset", type=int, default=0)
        if name == "delete":
            command.add_argument("--yes", action="store_true", help="do not ask")
    command = commands.add_parser("upsert")
    command.add_argument("index")
    command.add_argument("file", type=Path, help="- for standard input")
    command = commands.add_parser("export")
    command.add_argument("index")
    command.add_argument("file", type=Path)
    command = commands.add_parser("import")
    command.add_argument("file", type=Path)
    command.add_argument("--as", dest="name", default="", help="name of the index (default: the one in the file)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
