"""Set-up in one command: the environment from the lock, the packages of the system, and DeepSpeed's compiled parts.

Runs on any Python 3 with the standard library alone, before there is an environment: ``python3 bootstrap.py run|test``.

* ``run``: ``.venv`` with Python 3.11, ``requirements.txt`` with dependencies, ``models.txt`` without.
* ``test``: the same, and what tests need of the system (Chromium, a C++ compiler, Python's headers), and DeepSpeed's
  CPU communication, compiled once into ``.cache/torch_extensions``.

What is there is left alone: tools are probed, not remembered, and the environment carries a stamp of the files that it
was made from, so that a second call takes a moment.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / ".venv"
BINARIES = ENVIRONMENT / "bin"
PYTHON = BINARIES / "python"
LOCK = REPOSITORY / "requirements.txt"
MODELS = REPOSITORY / "docker" / "local" / "models.txt"
STAMP = ENVIRONMENT / "nightshift.stamp"
EXTENSIONS = REPOSITORY / ".cache" / "torch_extensions"
BASE = "import sys, sysconfig; print(sys.version.split()[0], sysconfig.get_path('include'), sys._base_executable)"


class Need(NamedTuple):
    """Something of the system: how to see that it is there, and the Debian packages that bring it."""

    what: str
    present: Callable[[], bool]
    packages: tuple[str, ...]


def main() -> None:
    """Do the set-up for running, or for testing as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("purpose", choices=("run", "test"))
    purpose = parser.parse_args().purpose
    satisfy([PYTHON_311, ENSUREPIP])
    make_environment()
    if purpose == "test":
        satisfy([CHROMIUM, COMPILER, HEADERS])
        build_extensions()


# --- packages of the system


def find_python() -> str | None:
    """Return a Python 3.11: the environment's own, else one on the PATH."""
    for candidate in (str(PYTHON), "python3.11", "python3", "/usr/bin/python3.11"):
        with suppress(OSError):
            done = run([candidate, "-c", BASE], quiet=True)
            if done.returncode == 0 and done.stdout.startswith("3.11."):
                return candidate
    return None


def has_ensurepip() -> bool:
    """Return whether the environment exists or can be made."""
    python = find_python()
    return PYTHON.exists() or (python is not None and run([python, "-c", "import ensurepip, venv"]).returncode == 0)


def has_headers() -> bool:
    """Return whether ``Python.h`` of the environment's interpreter is there."""
    folder = run([str(PYTHON), "-c", BASE]).stdout.split()[1]
    return Path(folder, "Python.h").exists()


def on_path(*names: str) -> Callable[[], bool]:
    """Return a probe that is true when one of `names` is a command."""
    return lambda: any(shutil.which(name, path=f"{BINARIES}:{os.environ.get('PATH', '')}") for name in names)


PYTHON_311 = Need("Python 3.11", lambda: find_python() is not None, ("python3.11",))
ENSUREPIP = Need("venv of Python 3.11", has_ensurepip, ("python3.11-venv",))
CHROMIUM_COMMANDS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = Need("Chromium", on_path(*CHROMIUM_COMMANDS), ("chromium", "fonts-liberation"))
COMPILER = Need("a C++ compiler", on_path("g++"), ("g++",))
HEADERS = Need("headers of Python 3.11", has_headers, ("python3.11-dev",))


def satisfy(needs: Sequence[Need]) -> None:
    """Install what is missing, as root or with sudo that asks nothing; else print the line to type, and stop."""
    missing = [need for need in needs if not need.present()]
    if not missing:
        return
    packages = sorted({package for need in missing for package in need.packages})
    names = ", ".join(need.what for need in missing)
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    prefix = privilege()
    if prefix is None or not shutil.which("apt-get"):
        typed = f"sudo apt-get update && sudo {line}"
        stop(f"{names} missing. Install with:\n\n    {typed}\n\nand run the same command again.")
    say(f"{names} missing: {' '.join(prefix)} {line}".replace("  ", " "))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], line.split()):
        if subprocess.run([*prefix, *command], env=environment, check=False, stdout=sys.stderr).returncode != 0:
            stop(f"`{' '.join(command)}` failed; see above")
    still = [need.what for need in missing if not need.present()]
    if still:
        stop(f"{', '.join(still)} still missing after `{line}`: is another interpreter or PATH in use?")


def privilege() -> list[str] | None:
    """Return what to put before a command that needs root: nothing, sudo, or None when there is no way."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and run(["sudo", "-n", "true"], quiet=True).returncode == 0:
        return ["sudo", "-n"]
    return None


# --- the environment


def make_environment() -> None:
    """Bring ``.venv`` to the lock, unless its stamp says that it is there already."""
    python = find_python()
    assert python is not None
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == stamp():
        return
    if not fits():
        say(f"making {ENVIRONMENT.relative_to(REPOSITORY)} with {python}")
        must(run([python, "-m", "venv", "--clear", str(ENVIRONMENT)]), "making the environment")
    STAMP.unlink(missing_ok=True)
    install = installer()
    say(f"installing {LOCK.name} (a few minutes where nothing is cached)")
    install(["-r", str(LOCK)])
    install(["--no-deps", "-r", str(MODELS)])
    STAMP.write_text(stamp())


def fits() -> bool:
    """Return whether the environment is a whole one of Python 3.11, rather than one whose making was interrupted."""
    if not PYTHON.exists():
        return False
    version, pip = run([str(PYTHON), "-c", BASE]), run([str(PYTHON), "-m", "pip", "--version"])
    return version.stdout.startswith("3.11.") and pip.returncode == 0


def stamp() -> str:
    """Return what the environment is made from: the lock, the model packages and the interpreter."""
    digest = hashlib.sha256(LOCK.read_bytes() + MODELS.read_bytes())
    digest.update(run([str(PYTHON), "-c", BASE]).stdout.encode())
    return digest.hexdigest()


def installer() -> Callable[[Sequence[str]], None]:
    """Return a function that installs: uv when it can be had (much faster), with pip for what uv cannot do here."""
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    uv = [str(BINARIES / "uv"), "pip", "install", "--python", str(PYTHON)]
    with_uv = (BINARIES / "uv").exists() or run([*pip, "--quiet", "uv"]).returncode == 0
    environment = uv_environment()

    def install(arguments: Sequence[str]) -> None:
        if with_uv and subprocess.run([*uv, *arguments], env=environment, check=False).returncode == 0:
            return
        say("with pip" + (", because uv failed" if with_uv else ", because uv cannot be had"))
        if subprocess.run([*pip, *arguments], check=False).returncode != 0:
            stop("pip failed; see above")

    return install


UV_VARIABLES = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
"""Option of pip -> uv's variable for the same."""


def uv_environment() -> dict[str, str]:
    """Return the environment for uv, which does not read pip's configuration: wheels, index and certificate by hand.

    A folder of wheels (``pip config set global.find-links ...``) is how a machine without a GPU gets torch's CPU wheel
    under the plain version of the lock.
    """
    values = dict(os.environ)
    for option, variable in UV_VARIABLES.items():
        if not values.get(variable) and (found := pip_option(option)):
            values[variable] = ",".join(found.split()) if option == "find-links" else found
    return values


def pip_option(name: str) -> str:
    """Return one option of pip: from the environment, else from its configuration, else nothing.

    ``pip config list`` and not ``get``: ``get`` does not read the file that ``PIP_CONFIG_FILE`` names (pip 23.2).
    """
    listed = run([str(PYTHON), "-m", "pip", "config", "list"], quiet=True).stdout.splitlines()
    values = dict(line.split("=", 1) for line in listed if "=" in line)
    for scope in (":env:", "install", "global"):
        if f"{scope}.{name}" in values:
            return str(ast.literal_eval(values[f"{scope}.{name}"]))
    return ""


# --- DeepSpeed's CPU communication


def build_extensions() -> None:
    """Compile DeepSpeed's CPU communication once; it would do so inside the first ZeRO run, for minutes.

    Its other CPU operator, ``cpu_adam``, is for optimizers that are offloaded, which Nightshift never does on a CPU.
    """
    name = "deepspeed_shm_comm"
    if (EXTENSIONS / name / f"{name}.so").exists():
        return
    say("compiling DeepSpeed's CPU communication, once (a minute or two)")
    EXTENSIONS.mkdir(parents=True, exist_ok=True)
    values = {"MAX_JOBS": "2", "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(EXTENSIONS)}
    environment = {**os.environ, **values, "PATH": f"{BINARIES}:{os.environ.get('PATH', '')}"}
    code = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()"
    done = subprocess.run(
        [str(PYTHON), "-c", code], env=environment, check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    must(done, f"compiling {name}")


# --- small things


def run(command: Sequence[str], *, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output."""
    errors = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)


def must(done: subprocess.CompletedProcess[str], what: str) -> None:
    """Stop when a step failed, with the end of what it said."""
    if done.returncode != 0:
        stop(f"{what} failed:\n{((done.stdout or '') + (done.stderr or ''))[-2000:]}")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"set-up: {text}", flush=True)


def stop(text: str) -> NoReturn:
    """Print what is wrong and what to do, and end."""
    print(f"set-up: {text}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
