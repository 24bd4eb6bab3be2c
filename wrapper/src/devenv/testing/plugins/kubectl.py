"""The cluster plugins Kubectl and K8SMaster, based on the package ``kubernetes`` and the program kubectl."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

from devenv.environments import api
from devenv.testing.errors import CommandFailed, CommandTimeout, TestingError
from devenv.testing.plugins import programs
from devenv.testing.plugins.kubectl_commands import KubectlCommands
from devenv.testing.plugins.tunnels import Tunnel

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CoreV1Api

    from devenv.testing.objects import Cluster, Host

# Seconds to connect and to read, for one request.
REQUEST = (10, 60)
# The line of `kubectl port-forward` with the local port.
_LISTENS = re.compile(r"^Forwarding from 127\.0\.0\.1:(\d+)", re.MULTILINE)
# Files of a folder of manifests, and kinds that other objects need.
_SUFFIXES = (".json", ".yaml", ".yml")
_FIRST = ("Namespace", "CustomResourceDefinition")


class Kubectl(KubectlCommands):
    """The API of a cluster. Objects are those of the package ``kubernetes``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.RLock()
        self._client: ApiClient | None = None
        self._tunnels: list[Tunnel] = []

    # --- the program ---

    def command(self, *words: str, stdin: str = "", timeout: float = 120) -> str:
        """Return stdout of kubectl with these arguments, run on this machine. Raises CommandFailed, CommandTimeout, and
        NotAvailable without kubectl.
        """
        return programs.execute(self._cluster, "kubectl", words, stdin=stdin, timeout=timeout)

    def port_forward(self, target: str, port: int, namespace: str = "default", *, timeout: float = 30) -> Tunnel:
        """Return an open tunnel to a port of ``pod/NAME``, ``service/NAME`` or ``deployment/NAME``. It ends with the
        test, or when its pod disappears. Raises CommandFailed, CommandTimeout.
        """
        words = ["port-forward", target, f":{port}", "--address=127.0.0.1", f"--namespace={namespace}"]
        argv, variables = programs.argv_of(self._cluster, "kubectl", words)
        # A file, because a pipe that nobody reads would stop kubectl after some connections. The tunnel is closed
        # unless it is returned, also when the test is interrupted.
        with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **variables}
            )
            tunnel = stack.enter_context(Tunnel(target, port, 0, child))

            def output() -> str:
                return os.pread(log.fileno(), 65536, 0).decode(errors="replace")

            wait.until(lambda: _LISTENS.search(output()) or not tunnel.is_open, time.monotonic() + timeout, pause=0.05)
            code, text = child.poll(), output()
            if listening := _LISTENS.search(text):
                tunnel.local_port = int(listening[1])
                self._tunnels.append(tunnel)
                stack.pop_all()
                return tunnel
        if code is None:
            raise CommandTimeout(self._cluster.name, " ".join(words), timeout)
        raise CommandFailed(self._cluster.name, " ".join(words), code, "", text)

    # --- the API ---

    def client(self) -> ApiClient:
        """Return a client of the package ``kubernetes``, configured by the cluster's kubeconfig alone."""
        with self._lock:
            if self._client is None:
                self._client = api.client_of(programs.kubeconfig(self._cluster))
            return self._client

    @property
    def core(self) -> CoreV1Api:
        """The core API: pods, services, nodes, secrets, ..."""
        from kubernetes import client

        return client.CoreV1Api(self.client())

    def get_pods(self, namespace: str | None = None, label_selector: str = "") -> list[Any]:
        """Return the pods of a namespace, or of all."""
        options: dict[str, Any] = {"label_selector": label_selector, "_request_timeout": REQUEST}
        if namespace:
            return list(self.core.list_namespaced_pod(namespace, **options).items)
        return list(self.core.list_pod_for_all_namespaces(**options).items)

    def get_nodes(self) -> list[Any]:
        """Return the cluster's Node objects."""
        return list(self.core.list_node(_request_timeout=REQUEST).items)

    def nodes_by_host(self) -> dict[str, Any]:
        """Return Node objects by the test's host names. With some engines, a Node's name is its address."""
        nodes = {node.metadata.name: node for node in self.get_nodes()}
        hosts = self._cluster.hosts.items()
        return {name: nodes[key] for name, host in hosts for key in (host.node, *host.addresses) if key in nodes}

    def logs(self, pod: str, namespace: str = "default", container: str = "", *, tail: int | None = None) -> str:
        """Return the log of a container, the last ``tail`` lines if given; a pod with several needs ``container``."""
        optional = {"container": container or None, "tail_lines": tail}
        options: dict[str, Any] = {key: value for key, value in optional.items() if value is not None}
        return str(self.core.read_namespaced_pod_log(pod, namespace, _request_timeout=REQUEST, **options))

    def exec(
        self,
        pod: str,
        command: str | Sequence[str],
        namespace: str = "default",
        container: str = "",
        *,
        timeout: float = 60,
    ) -> str:
        """Return stdout of a command in a container. Raises CommandFailed for a code other than 0, CommandTimeout."""
        from kubernetes.stream import stream

        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        shown = command if isinstance(command, str) else " ".join(argv)
        # A separate client, because the library puts its websocket into the client that it is called with.
        with self._fresh() as fresh:
            from kubernetes import client

            answer = stream(
                client.CoreV1Api(fresh).connect_get_namespaced_pod_exec,
                pod, namespace, command=argv, stderr=True, stdin=False, stdout=True, tty=False,
                _preload_content=False, **({"container": container} if container else {}),
            )  # fmt: skip
            try:
                answer.run_forever(timeout=timeout)
                if answer.is_open():
                    raise CommandTimeout(f"pod {namespace}/{pod}", shown, timeout)
                out, err = answer.read_stdout() or "", answer.read_stderr() or ""
                code = answer.returncode
            finally:
                answer.close()
        if code:
            raise CommandFailed(f"pod {namespace}/{pod}", shown, code, out, err)
        return str(out)

    def apply(self, manifest: str | os.PathLike[str] | Mapping[str, Any], namespace: str = "default") -> list[Any]:
        """Apply objects on the server's side and return them: the path of a file or folder, the text of a file, or one
        object. Of a folder, the files *.yml, *.yaml and *.json count, in the order of their names; its namespaces
        and custom resource definitions come first. ``namespace`` is for objects that name none.
        """
        return [
            resource.server_side_apply(body=body, namespace=space, field_manager="devenv-test", force_conflicts=True)
            for body, resource, space in self._resources(_objects(manifest), namespace)
        ]

    def delete(self, manifest: str | os.PathLike[str] | Mapping[str, Any], namespace: str = "default") -> None:
        """Delete the objects of a manifest that exist, the last one first."""
        from kubernetes import dynamic

        for body, resource, space in self._resources(reversed(_objects(manifest)), namespace):
            with contextlib.suppress(dynamic.exceptions.NotFoundError):
                resource.delete(name=body["metadata"]["name"], namespace=space)

    def _resources(
        self, bodies: Iterable[dict[str, Any]], namespace: str
    ) -> Iterator[tuple[dict[str, Any], Any, str | None]]:
        """Yield each object, the resource of its kind, and its namespace if the kind has one."""
        from kubernetes import dynamic

        dynamic_client = dynamic.DynamicClient(self.client())  # type: ignore[no-untyped-call]
        for body in bodies:
            resource = dynamic_client.resources.get(api_version=body["apiVersion"], kind=body["kind"])
            space = body.get("metadata", {}).get("namespace", namespace) if resource.namespaced else None
            yield body, resource, space

    def wait(
        self,
        kind: str,
        name: str,
        condition: str | Callable[[Any], bool] = "Ready",
        *,
        namespace: str = "default",
        api_version: str = "v1",
        timeout: float = 120,
    ) -> Any:
        """Wait until an object has a condition, and return it: a type of ``status.conditions``, or a predicate of the
        object. The condition "delete" is that it does not exist. Raises CommandTimeout with the last status.
        """
        from kubernetes import dynamic

        resource = dynamic.DynamicClient(self.client()).resources.get(api_version=api_version, kind=kind)  # type: ignore[no-untyped-call]
        space = namespace if resource.namespaced else None
        status = ""

        def check() -> Any:
            nonlocal status
            try:
                item = resource.get(name=name, namespace=space)
            except dynamic.exceptions.NotFoundError:
                status = "it did not exist"
                return condition == "delete"
            status = str(item.to_dict().get("status"))[:600]
            return item if (condition(item) if callable(condition) else _has(item, condition)) else None

        def late() -> CommandTimeout:
            shown = condition if isinstance(condition, str) else "the condition"
            return CommandTimeout(self._cluster.name, f"{kind} {name}: {shown}; last: {status}", timeout)

        return wait.until(check, time.monotonic() + timeout, late, pause=0.5)

    # --- conventions ---

    def ping(self, timeout: float = 60) -> None:
        """Wait until the API answers a request for which it needs etcd. Raises CommandTimeout."""
        trouble = ""

        def answers() -> bool:
            nonlocal trouble
            trouble = _trouble(self.client())
            return not trouble

        def late() -> CommandTimeout:
            return CommandTimeout(self._cluster.name, f"list namespaces: {trouble}", timeout)

        wait.until(answers, time.monotonic() + timeout, late, pause=1)

    def verify_functionality(self) -> None:
        """Raise TestingError unless every host of the cluster is a Ready node."""
        not_ready = [node.metadata.name for node in self.get_nodes() if not _has(node, "Ready")]
        if not_ready:
            raise TestingError(f"{self._cluster.name}: not Ready: {', '.join(not_ready)}")
        missing = self._cluster.hosts.keys() - self.nodes_by_host().keys()
        if missing:
            raise TestingError(f"{self._cluster.name}: no Node object for {', '.join(sorted(missing))}")

    def reset_state(self) -> None:
        """Close the tunnels of `port_forward`."""
        tunnels, self._tunnels = self._tunnels, []
        for tunnel in tunnels:
            tunnel.close()

    def close(self) -> None:
        self.reset_state()
        with self._lock:
            if self._client is not None:
                self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    @contextlib.contextmanager
    def _fresh(self, host: str = "") -> Iterator[ApiClient]:
        """Yield a separate client. ``host``: replaces the kubeconfig's API address, without retries."""
        from kubernetes import client

        fresh = client.ApiClient(api.configuration(programs.kubeconfig(self._cluster), host))
        try:
            yield fresh
        finally:
            fresh.close()  # type: ignore[no-untyped-call]

    def is_ready_on(self, address: str) -> bool:
        """Return whether the API server of the node with this address is ready."""
        with self._fresh(f"https://{bracketed(address)}:6443") as fresh:
            return not _trouble(fresh)


class K8SMaster:
    """``cluster.K8SMaster()`` returns the first host of the cluster whose own API server is ready."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self, timeout: float = 60) -> Host:
        masters, kubectl = self._cluster.masters, self._cluster.Kubectl
        hosts = [self._cluster.hosts[name] for name in masters]
        late = TestingError(f"{self._cluster.name}: no master's API is ready ({', '.join(masters)})")
        ready = wait.until(
            lambda: next((host for host in hosts if kubectl.is_ready_on(host.ip)), None),
            time.monotonic() + timeout, lambda: late, pause=1,
        )  # fmt: skip
        assert ready is not None
        return ready

    def ping(self) -> None:
        self()


def _objects(manifest: str | os.PathLike[str] | Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(manifest, Mapping):
        return _items([dict(manifest)])
    # The text of a manifest has a line break or is JSON; a path has no line break.
    if isinstance(manifest, str) and re.search(r"\n|^\s*[{]", manifest):
        return _parsed(manifest)
    path = Path(manifest)
    if not path.is_dir():
        return _parsed(path.read_text())
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    bodies = [body for file in files for body in _parsed(file.read_text())]
    if not bodies:
        raise TestingError(f"{path}: no object in files *.yml, *.yaml, *.json")
    return sorted(bodies, key=lambda body: body["kind"] not in _FIRST)


def _parsed(text: str) -> list[dict[str, Any]]:
    return _items(body for body in yaml.safe_load_all(text) if body)


def _items(bodies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects, those of lists one by one."""
    return [item for body in bodies for item in (body["items"] if body.get("kind") == "List" else [body])]


def _trouble(api: ApiClient) -> str:
    """Return why the API does not answer, or an empty string."""
    from kubernetes import client

    try:
        client.CoreV1Api(api).list_namespace(limit=1, _request_timeout=(5, 10))
    except Exception as error:  # of the library, urllib3 or the system
        return str(error) or type(error).__name__
    return ""


def _has(item: Any, condition: str) -> bool:
    status = item.to_dict().get("status") or {}
    return any(
        entry.get("type") == condition and entry.get("status") == "True" for entry in status.get("conditions") or []
    )
