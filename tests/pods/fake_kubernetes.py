"""A Kubernetes API on loopback that runs pods as processes of this machine: enough of one for KubernetesPodOperator.

kmock 0.8 keeps the objects (create, get, patch, list). This adds what it lacks: label selectors, pod logs, exec over a
websocket (``v5.channel.k8s.io``), and a life for pods: Pending, Running, a real process, Succeeded or Failed.

    python tests/pods/fake_kubernetes.py FOLDER [SECRET:KEY=VALUE ...]     writes FOLDER/kubeconfig.json when it serves

A pod's annotations play the faults of a cluster:

    fake/unschedulable: <message>      no node takes it
    fake/waiting: <reason>             its container never starts: ErrImagePull, ...
    fake/oom: "1"                      a SIGKILL of its process counts as OOMKilled
    fake/evicted: <text>               the node is drained once the log says this, with SIGTERM for the process
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import kmock
from aiohttp import web

BASE, SIDECAR = "base", "airflow-xcom-sidecar"
XCOM_FOLDER = "/airflow/xcom"
DEFAULT_GRACE_SECONDS = 30


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Running:
    """What the fake knows of a pod beside its object."""

    folder: Path
    sidecar: bool
    log: list[tuple[datetime, str]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    base_state: dict[str, Any] = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    conditions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return "terminated" in self.base_state

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


@attrs.define(kw_only=True)
class FakeKubernetes(kmock.KubernetesEmulator):
    """The API server, the scheduler and the kubelet in one."""

    folder: Path
    secrets: dict[tuple[str, str], str] = attrs.field(factory=dict)
    pods: dict[str, Running] = attrs.field(factory=dict)
    tasks: set[asyncio.Task[Any]] = attrs.field(factory=set)

    async def __call__(self, raw_request: web.BaseRequest) -> Any:
        match raw_request.method, raw_request.path.strip("/").split("/"):
            case "GET", ["api", "v1", "namespaces", _, "pods", name, "log"]:
                return await self.serve_log(raw_request, name)
            case _, ["api", "v1", "namespaces", _, "pods", name, "exec"]:
                return await self.serve_exec(raw_request, name)
            case "DELETE", ["api", "v1", "namespaces", namespace, "pods", name] if name in self.pods:
                return await self.serve_pod_deletion(raw_request, namespace, name)
            case "GET", ["api", "v1", "namespaces", namespace, "pods"] if "watch" not in raw_request.query:
                return self.serve_pod_list(namespace, raw_request.query.get("labelSelector", ""))
            case "POST", ["api", "v1", "namespaces", namespace, "pods"]:
                response = await super().__call__(raw_request)
                pod = json.loads(await raw_request.read())
                identity = {"metadata": {"uid": str(uuid.uuid4())}}
                self.objects["v1/pods", namespace, pod["metadata"]["name"]].patch(identity)
                self.keep(self.live(namespace, pod))
                return response
        return await super().__call__(raw_request)

    def keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- life of a pod

    async def live(self, namespace: str, pod: dict[str, Any]) -> None:
        name, notes = pod["metadata"]["name"], pod["metadata"].get("annotations", {})
        containers = [one["name"] for one in pod["spec"]["containers"]]
        running = Running(folder=self.folder / name, sidecar=SIDECAR in containers)
        running.folder.mkdir(parents=True)
        self.pods[name] = running
        scheduled = {"type": "PodScheduled", "status": "True"}
        if "fake/unschedulable" in notes:
            why = {"reason": "Unschedulable", "message": notes["fake/unschedulable"]}
            running.conditions = [{**scheduled, "status": "False", **why}]
            await self.show(namespace, name, "Pending", statuses=False)
            return
        running.conditions = [scheduled]
        container = next(one for one in pod["spec"]["containers"] if one["name"] == BASE)
        environ, missing = self.environment_of(container)
        self.mount_claims(pod["spec"].get("volumes", []), container, environ)
        waiting = notes.get("fake/waiting") or ("CreateContainerConfigError" if missing else "")
        if waiting:
            running.base_state = {"waiting": {"reason": waiting, "message": missing or "played by the fake"}}
            await self.show(namespace, name, "Pending")
            return
        await self.run(namespace, name, container, environ, notes)

    async def run(
        self, namespace: str, name: str, container: dict[str, Any], environ: dict[str, str], notes: dict[str, str]
    ) -> None:
        running = self.pods[name]
        command = [*container.get("command", []), *container.get("args", [])]
        command = [sys.executable if part == "python" else part for part in command]
        running.process = await asyncio.create_subprocess_exec(
            *command,
            env={**environ, "LLMJOBS_RESULT": str(running.folder / "return.json")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        running.base_state = {"running": {"startedAt": now()}}
        await self.show(namespace, name, "Running")
        assert running.process.stdout is not None
        async for raw in running.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            running.log.append((datetime.now(UTC), line))
            running.changed.set()
            if notes.get("fake/evicted", "\n") in line:
                drained = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
                running.conditions.append({"type": "DisruptionTarget", "status": "True", **drained})
                running.signal(signal.SIGTERM)
        code = await running.process.wait()
        reason = "Completed" if code == 0 else "Error"
        if code == -signal.SIGKILL and "fake/oom" in notes:
            reason = "OOMKilled"
        running.base_state = {
            "terminated": {
                "exitCode": code if code >= 0 else 128 - code,
                "reason": reason,
                "finishedAt": now(),
                # FallbackToLogsOnError: at most 80 lines or 2048 bytes of the log.
                "message": "\n".join(line for _, line in running.log)[-2048:] if code else "",
            }
        }
        running.changed.set()
        await self.settle(namespace, name)

    async def settle(self, namespace: str, name: str) -> None:
        """A pod ends when all of its containers have; its phase is the worst of theirs."""
        running = self.pods[name]
        ended = running.done and not running.sidecar
        failed = running.done and running.base_state["terminated"]["exitCode"] != 0
        await self.show(namespace, name, ("Failed" if failed else "Succeeded") if ended else "Running")

    async def show(self, namespace: str, name: str, phase: str, *, statuses: bool = True) -> None:
        running = self.pods[name]
        sidecar = {"running": {}} if running.sidecar else {"terminated": {"exitCode": 0}}
        if "running" not in running.base_state and not running.done:
            sidecar = {"waiting": {}}
        states = {BASE: running.base_state, SIDECAR: sidecar}
        shown = [
            {"name": one, "state": state, "ready": False, "restartCount": 0, "image": "", "imageID": ""}
            for one, state in states.items()
        ]
        patch = {"phase": phase, "conditions": running.conditions, "startTime": now()}
        async with self._lock:
            self.objects["v1/pods", namespace, name].patch(
                {"status": {**patch, **({"containerStatuses": shown} if statuses else {})}}
            )

    def environment_of(self, container: dict[str, Any]) -> tuple[dict[str, str], str]:
        """Return the container's variables, and what is missing for them."""
        found = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                found[variable["name"]] = variable.get("value", "")
                continue
            key = (reference["name"], reference["key"])
            if key not in self.secrets:
                return {}, f"secret {key[0]!r} has no key {key[1]!r}"
            found[variable["name"]] = self.secrets[key]
        return found, ""

    def mount_claims(self, volumes: list[dict[str, Any]], container: dict[str, Any], environ: dict[str, str]) -> None:
        """Give a process what its pod would find: folders of claims, and node 0 under its name on this machine."""
        claims = {one["name"]: one["persistentVolumeClaim"] for one in volumes if "persistentVolumeClaim" in one}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in claims:
                continue
            folder = self.folder / "claims" / claims[mount["name"]]["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            environ.update({name: str(folder) for name, value in environ.items() if value == mount["mountPath"]})
        if (first := environ.get("MASTER_ADDR", "")) and self.serves(first):
            environ["MASTER_ADDR"] = "127.0.0.1"

    def serves(self, name: str) -> bool:
        """Return whether a headless Service gives a pod this name."""
        host, _, service = name.partition(".")
        kept = [one for (resource, _, _), one in self.objects.items() if str(resource.plural) == "pods"]
        found = [one.raw["spec"] for one in kept if not one.deleted and one.raw["spec"].get("hostname") == host]
        return any(spec.get("subdomain") == service for spec in found)

    # --- requests that kmock does not serve

    def serve_pod_list(self, namespace: str, selector: str) -> web.Response:
        pods = [
            pod.raw
            for (resource, space, _), pod in self.objects.items()
            if str(resource.plural) == "pods" and space == namespace and not pod.deleted
        ]
        found = [pod for pod in pods if matches(pod["metadata"].get("labels", {}), selector)]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found})

    async def serve_pod_deletion(self, request: web.BaseRequest, namespace: str, name: str) -> web.Response:
        body = await request.read()
        given = (json.loads(body) if body else {}).get("gracePeriodSeconds")
        grace = float(request.query.get("gracePeriodSeconds", given or DEFAULT_GRACE_SECONDS))
        pod = self.objects["v1/pods", namespace, name]
        if pod.deleted:
            return web.json_response({"kind": "Status", "status": "Failure", "code": 404}, status=404)
        pod.patch({"metadata": {"deletionTimestamp": now()}})
        raw = dict(pod.raw)
        self.keep(self.delete(namespace, name, grace))
        return web.json_response(raw)

    async def delete(self, namespace: str, name: str, grace: float) -> None:
        running = self.pods[name]
        running.signal(signal.SIGTERM)
        if running.process is not None:
            try:
                await asyncio.wait_for(running.process.wait(), grace)
            except TimeoutError:
                running.signal(signal.SIGKILL)
                await running.process.wait()
        async with self._lock:
            self.objects["v1/pods", namespace, name].delete()

    async def serve_log(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        running = self.pods[name]
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow, stamped = request.query.get("follow") == "True", request.query.get("timestamps") == "True"
        since = datetime.now(UTC) - timedelta(seconds=float(request.query.get("sinceSeconds", 1e9)))
        position = 0
        while True:
            running.changed.clear()
            done = running.done
            for at, line in running.log[position:]:
                if at >= since:
                    stamp = f"{at.isoformat().replace('+00:00', 'Z')} " if stamped else ""
                    await response.write(f"{stamp}{line}\n".encode())
            position = len(running.log)
            if done or not follow:
                await response.write_eof()
                return response
            await running.changed.wait()

    async def serve_exec(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        running, command = self.pods[name], request.query.getall("command")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        if len(command) == 1:  # an interactive shell: the operator ends the sidecar through it
            typed = (await socket.receive()).data
            assert "kill -2" in (typed if isinstance(typed, str) else typed.decode()), typed
            running.sidecar = False
        else:
            script = command[-1].replace(XCOM_FOLDER, str(running.folder))
            shell = await asyncio.create_subprocess_exec(*command[:-1], script, stdout=asyncio.subprocess.PIPE)
            output, _ = await shell.communicate()
            await socket.send_bytes(b"\x01" + output)
        await socket.send_bytes(b"\x03" + json.dumps({"metadata": {}, "status": "Success"}).encode())
        await socket.close()
        if not running.sidecar:
            namespace = request.path.split("/")[4]
            await self.settle(namespace, name)
        return socket


def matches(labels: dict[str, str], selector: str) -> bool:
    """Return whether labels satisfy a selector of the forms ``a=b``, ``a!=b``, ``a`` and ``!a``."""
    for part in filter(None, selector.split(",")):
        key, sign, value = part.partition("!=")
        if sign:
            fits = labels.get(key) != value
        elif part.startswith("!"):
            fits = part[1:] not in labels
        else:
            key, sign, value = part.partition("=")
            fits = labels.get(key) == value if sign else key in labels
        if not fits:
            return False
    return True


async def serve(folder: Path, secrets: dict[tuple[str, str], str]) -> None:
    """Serve until SIGTERM, then end what still runs."""
    fake = FakeKubernetes(folder=folder, secrets=secrets)
    fake.resources.load_bundled()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with fake, kmock.Server(fake, "127.0.0.1", 0) as server:
        cluster = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "fake", "user": {}}],
            "current-context": "fake",
        }
        temporary = folder / "kubeconfig.tmp"
        temporary.write_text(json.dumps(config))
        temporary.rename(folder / "kubeconfig.json")
        await stop.wait()
        for running in fake.pods.values():
            running.signal(signal.SIGKILL)


def main(arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments[1:]]
    secrets = {(left.split(":")[0], left.split(":")[1]): value for left, _, value in pairs}
    asyncio.run(serve(Path(arguments[0]), secrets))


if __name__ == "__main__":
    main(sys.argv[1:])
