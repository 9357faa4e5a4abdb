"""Ask an index a question on the command line: ``python -m llmjobs.embeddings.ask --index guide "..."``.

Prints the passage that answers best with its document, heading, chunk and score, then where else to look.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap

from llmjobs.contracts.embeddings import PUBLIC
from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import connect
from llmjobs.embeddings.search import Hit, search_with_plan
from llmjobs.embeddings.search.filters import parsed

_WIDTH = 100


def main(arguments: list[str] | None = None) -> int:
    """Answer one question; return 0, or the exit code of what went wrong."""
    options = _parser().parse_args(arguments)
    try:
        with connect() as connection:
            hits, plan = search_with_plan(
                connection,
                options.index,
                options.question,
                options.k,
                tenants=options.tenant or [PUBLIC],
                filter=parsed(options.filter),
                mode=options.mode,
                within=options.within,
                source=options.source,
                language=options.language,
            )
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    answer = json.dumps([hit.as_dict() for hit in hits], ensure_ascii=False) if options.json else render(hits)
    sys.stdout.write(answer + "\n")
    if options.explain:  # beside the answer, which may be piped on
        sys.stderr.write(json.dumps(plan.as_dict(), ensure_ascii=False) + "\n")
    return 0


def render(hits: list[Hit]) -> str:
    """Return the hits as text for a terminal."""
    if not hits:
        return "No passage was found."
    best, *others = hits
    lines = [textwrap.indent(best.text, "  "), "", f"  {_source(best)}"]
    if others:
        lines += ["", "Also:", *(f"  {_source(hit)}\n      {_gist(hit)}" for hit in others)]
    return "\n".join(lines)


def _source(hit: Hit) -> str:
    heading = f" · {hit.heading}" if hit.heading else ""
    return f"[{hit.score:.2f}] {hit.document}{heading} · chunk {hit.chunk}"


def _gist(hit: Hit) -> str:
    return textwrap.shorten(hit.text, _WIDTH - 6, placeholder=" ...")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmjobs.embeddings.ask", description="Ask an index a question.")
    parser.add_argument("question")
    parser.add_argument("--index", default="guide", help="name of the index (default: guide)")
    parser.add_argument("-k", type=int, default=3, help="passages to show (default: 3)")
    parser.add_argument("--within", default="", help="only documents whose key begins so")
    parser.add_argument("--source", default="", help="only documents of this source of the index")
    parser.add_argument("--language", default="", help="only documents in this language (ISO 639 code)")
    parser.add_argument("--tenant", action="append", help=f"whose documents; may be repeated (default: {PUBLIC})")
    parser.add_argument("--filter", default="", help='on metadata, JSON: {"year": {"$gte": 2024}, "kind": "note"}')
    parser.add_argument("--mode", choices=("hybrid", "vector", "text"), default="hybrid", help="default: hybrid")
    parser.add_argument("--explain", action="store_true", help="print how it was found on standard error, as JSON")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
