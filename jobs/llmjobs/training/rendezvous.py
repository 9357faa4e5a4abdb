"""Which of several nodes this one is and where they meet, as the environment tells it. Pure: no torch, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmjobs.contracts.base import JobResult
from llmjobs.contracts.errors import BadConfig

NODES = ("NNODES", "PET_NNODES")
NODE_RANK = ("NODE_RANK", "PET_NODE_RANK", "JOB_COMPLETION_INDEX")
ADDRESS = ("MASTER_ADDR", "PET_MASTER_ADDR")
PORT = ("MASTER_PORT", "PET_MASTER_PORT")
"""Set by hand, by Kubeflow's trainer (``PET_``) or by an Indexed Job of Kubernetes; the first that is set counts."""

DEFAULT_PORT = 29500
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Rendezvous:
    """One node's place among several.

    Attributes:
        nodes: How many train together.
        node_rank: Which one this is; node 0 keeps the checkpoints' lock and publishes.
        address: Name or IP address of node 0, which all nodes can reach.
        port: Free there.
    """

    nodes: int
    node_rank: int
    address: str
    port: int


class NodeResult(JobResult):
    """What a node other than the first hands back: it did its share, and node 0 publishes.

    Attributes:
        version: Of the adapter.
        node_rank: Which node this is.
    """

    name: str
    version: str
    node_rank: int


def rendezvous_of(nodes: int, environ: Mapping[str, str]) -> Rendezvous | None:
    """Return this node's place, or None where one node trains alone.

    Args:
        nodes: ``dist.nodes``.
        environ: The environment.

    Raises:
        BadConfig: A variable is absent, is no such number, or says otherwise than the config.
    """
    _, told = _first(environ, NODES)
    if told:
        variable, count = _number(environ, NODES, "how many nodes there are", range(1, 1 + 64))
        if count != nodes:
            raise BadConfig(f"{variable} ({count}) and dist.nodes ({nodes}) clash: set both to the number of nodes")
    if nodes == 1:
        return None
    _, rank = _number(environ, NODE_RANK, f"which of the {nodes} nodes this is", range(nodes))
    variable, address = _first(environ, ADDRESS)
    if not address:
        raise BadConfig(f"dist.nodes ({nodes}) needs {variable}: set it, on every node, to the address of node 0")
    port = DEFAULT_PORT
    if _first(environ, PORT)[1]:
        _, port = _number(environ, PORT, "the port of node 0", range(1, 1 + _LARGEST_PORT))
    return Rendezvous(nodes, rank, address, port)


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """Return the first variable that is set and its value; the first name and an empty text without one."""
    found = ((name, environ[name].strip()) for name in names if environ.get(name, "").strip())
    return next(found, (names[0], ""))


def _number(environ: Mapping[str, str], names: tuple[str, ...], what: str, allowed: range) -> tuple[str, int]:
    variable, text = _first(environ, names)
    if not text.isascii() or not text.isdigit() or int(text) not in allowed:
        given = f"is {text!r}" if text else "is not set"
        raise BadConfig(f"{variable} {given}: set it to {what}, a number from {allowed[0]} to {allowed[-1]}")
    return variable, int(text)
