"""Compiles ``requirements.txt`` from ``requirements.in`` for every machine: no hashes, no index, plain torch.

uv writes ``torch==2.13.0+cpu`` when it found the CPU wheel in a folder of wheels. A machine without that folder could
not install that; the plain version takes whichever is there.
"""

from __future__ import annotations

import re
import subprocess
import sys

from bootstrap import BINARIES, LOCK, REPOSITORY, stop, uv_environment


def main() -> None:
    """Compile the lock and write it."""
    uv = BINARIES / "uv"
    if not uv.exists():
        stop(f"{uv} is missing, and only uv compiles the lock: `{BINARIES / 'pip'} install uv`, then `make lock` again")
    command = [str(uv), "pip", "compile", "--python-version", "3.11", "--quiet", "requirements.in"]
    options = ["--no-emit-find-links", "--no-emit-index-url", "--custom-compile-command", "make lock"]
    done = subprocess.run(
        [*command, *options], env=uv_environment(), capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    if done.returncode != 0:
        stop(f"uv pip compile failed:\n{done.stderr}")
    LOCK.write_text(plain(done.stdout))
    print(f"{LOCK.name}: {len(re.findall('^[a-z0-9].*==', LOCK.read_text(), re.MULTILINE))} packages", file=sys.stderr)


def plain(text: str) -> str:
    """Return the lock without local version labels such as ``+cpu``."""
    return re.sub(r"^([\w.\[\]-]+==[\w.]+)\+\w+", r"\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
