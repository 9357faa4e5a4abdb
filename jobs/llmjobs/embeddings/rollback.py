"""Let an index's former generation answer again: ``python -m llmjobs.embeddings.rollback --index guide``.

After a new model, other chunks or another storage took over, the generation that answered before is kept up to date for
``rollout.keep_days``. Going back is one transaction, in the middle of the day too; going back once more undoes it.
"""

from __future__ import annotations

import argparse
import sys

from llmjobs.contracts.errors import JobError
from llmjobs.database.connection import connect
from llmjobs.embeddings.generations import Generation, roll_back


def main(arguments: list[str] | None = None) -> int:
    """Roll one index back; return 0, or the exit code of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m llmjobs.embeddings.rollback", description=__doc__.splitlines()[0])
    parser.add_argument("--index", required=True, help="name of the index")
    options = parser.parse_args(arguments)
    try:
        with connect() as connection, connection.transaction():
            now, before = roll_back(connection, options.index)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(
        f"{options.index}: {_named(now)} answers again. {_named(before)} is kept up to date and does not take over by "
        "itself; roll back once more to return to it, and correct the index's YAML before its days are over.\n"
    )
    return 0


def _named(one: Generation) -> str:
    return f"Generation {one.generation_id} ({one.model_settings['name']})"


if __name__ == "__main__":
    sys.exit(main())
