"""Records a service's process (pid and start time), then becomes the service.

``exec`` keeps pid and start time, so the record holds for the service itself and outlives a kill -9 of whatever
started it. Run by path, not as a module: it must not import anything but the standard library and psutil.

Usage: ``python launch.py RECORD NAME [--user USER] -- COMMAND...``
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from pathlib import Path


def main() -> None:
    """Record this process and replace it by the command."""
    at = sys.argv.index("--")
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=Path)
    parser.add_argument("name")
    parser.add_argument("--user")
    options = parser.parse_args(sys.argv[1:at])
    command = sys.argv[at + 1 :]
    write_record(options.record, options.name)
    environment = dict(os.environ)
    if options.user:
        become(options.user)
        # Another user's process: it gets the marker by which it is found, and none of the secrets.
        environment = {name: environment[name] for name in ("PATH", "NIGHTSHIFT_STACK", "NIGHTSHIFT_HOME")}
        os.chdir("/")
    os.execvpe(command[0], command, environment)  # noqa: S606  no shell is meant


def write_record(path: Path, name: str) -> None:
    """Write the record of this process to `path`, in one step."""
    import psutil

    values = {"pid": os.getpid(), "started_at": psutil.Process().create_time(), "what": name}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)


def become(user: str) -> None:
    """Give up root for `user`, for good."""
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    main()
