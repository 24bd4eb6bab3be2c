"""The cluster plugins Kubectl and K8SMaster: the package ``kubernetes``, with the cluster's own authority."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

from devenv.testing.errors import CommandFailed, CommandTimeout, NotAvailable, TestingError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, CoreV1Api

    from devenv.testing.objects import Cluster, Host

# One request, in seconds: connect and read.
REQUEST = (10, 60)


class Kubectl:
    """What tests do with a cluster's API. Objects are those of the package ``kubernetes``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.RLock()
        self._client: ApiClient | None = None

    # --- the API ---

    def client(self) -> ApiClient:
        """A client of the package ``kubernetes``, configured by the cluster's kubeconfig and by nothing else."""
        from kubernetes import config

        with self._lock:
            if self._client is None:
                self._client = config.new_client_from_config(str(self._kubeconfig()), persist_config=False)  # type: ignore[no-untyped-call]
            return self._client

    @property
    def core(self) -> CoreV1Api:
        """The core API: pods, services, nodes, secrets, ..."""
        from kubernetes import client

        return client.CoreV1Api(self.client())

    def _kubeconfig(self) -> Path:
        path = self._cluster.kubeconfig
        if path is None or not path.is_file():
            raise NotAvailable(f"{self._cluster.name}: there is no kubeconfig of it")
        return path

    def get_pods(self, namespace: str | None = None, label_selector: str = "") -> list[Any]:
        """Pods of a namespace, or of all."""
        core = self.core
        words: dict[str, Any] = {"label_selector": label_selector, "_request_timeout": REQUEST}
        listed = (
            core.list_namespaced_pod(namespace, **words) if namespace else core.list_pod_for_all_namespaces(**words)
        )
        return list(listed.items)

    def get_nodes(self) -> list[Any]:
        """The cluster's Node objects."""
        return list(self.core.list_node(_request_timeout=REQUEST).items)

    def nodes_by_host(self) -> dict[str, Any]:
        """Node objects by the test's names of hosts. An engine may call a Node by its address and not by its name."""
        found = {node.metadata.name: node for node in self.get_nodes()}
        names = {name: (host.node, *host.addresses) for name, host in self._cluster.hosts.items()}
        return {name: found[own] for name, known in names.items() for own in known if own in found}

    def logs(self, pod: str, namespace: str = "default", container: str = "", *, tail: int | None = None) -> str:
        """What a container has written; of a pod with several, ``container`` names one."""
        words: dict[str, Any] = {"container": container} if container else {}
        if tail is not None:
            words["tail_lines"] = tail
        return str(self.core.read_namespaced_pod_log(pod, namespace, _request_timeout=REQUEST, **words))

    def exec(
        self,
        pod: str,
        command: str | Sequence[str],
        namespace: str = "default",
        container: str = "",
        *,
        timeout: float = 60,
    ) -> str:
        """stdout of a command in a container. Raises CommandFailed for a code other than 0, CommandTimeout."""
        from kubernetes.stream import stream

        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        shown = command if isinstance(command, str) else " ".join(words)
        # A client of its own: the library puts its websocket into the client that it is called with.
        with self._fresh() as api:
            from kubernetes import client

            answer = stream(
                client.CoreV1Api(api).connect_get_namespaced_pod_exec,
                pod, namespace, command=words, stderr=True, stdin=False, stdout=True, tty=False,
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
        """Apply objects on the server's side: the path of a file, the text of one, or one object. Returns them as
        they are then. ``namespace`` is for objects that name none.
        """
        from kubernetes import dynamic

        api = dynamic.DynamicClient(self.client())  # type: ignore[no-untyped-call]
        found = []
        for body in _objects(manifest):
            resource = api.resources.get(api_version=body["apiVersion"], kind=body["kind"])
            space = body.get("metadata", {}).get("namespace", namespace) if resource.namespaced else None
            found.append(
                resource.server_side_apply(
                    body=body, namespace=space, field_manager="devenv-test", force_conflicts=True
                )
            )
        return found

    def delete(self, manifest: str | os.PathLike[str] | Mapping[str, Any], namespace: str = "default") -> None:
        """Delete what `apply` made; what is gone already is no error."""
        from kubernetes import dynamic

        api = dynamic.DynamicClient(self.client())  # type: ignore[no-untyped-call]
        for body in reversed(_objects(manifest)):
            resource = api.resources.get(api_version=body["apiVersion"], kind=body["kind"])
            space = body.get("metadata", {}).get("namespace", namespace) if resource.namespaced else None
            with contextlib.suppress(dynamic.exceptions.NotFoundError):
                resource.delete(name=body["metadata"]["name"], namespace=space)

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
        """Wait until an object has a condition (the type of one of ``status.conditions``, or a function that says so of
        the object); return it. Raises CommandTimeout with what was seen last.
        """
        from kubernetes import dynamic

        resource = dynamic.DynamicClient(self.client()).resources.get(api_version=api_version, kind=kind)  # type: ignore[no-untyped-call]
        space = namespace if resource.namespaced else None
        seen = ""

        def look() -> Any:
            nonlocal seen
            try:
                found = resource.get(name=name, namespace=space)
            except dynamic.exceptions.NotFoundError:
                seen = "it was not there"
                return None
            seen = str(found.to_dict().get("status"))[:600]
            return found if (condition(found) if callable(condition) else _has(found, condition)) else None

        def late() -> CommandTimeout:
            what = condition if isinstance(condition, str) else "the condition"
            return CommandTimeout(self._cluster.name, f"{kind} {name}: {what}; last: {seen}", timeout)

        return wait.until(look, time.monotonic() + timeout, late, pause=0.5)

    # --- conventions ---

    def ping(self, timeout: float = 60) -> None:
        """Wait until the API answers what it has to ask etcd for. Raises CommandTimeout."""
        trouble = ""

        def answers() -> bool:
            nonlocal trouble
            try:
                self._ready(self.client())
            except Exception as error:  # the library's, urllib3's and the system's own
                trouble = f"list namespaces: {error}"
                return False
            return True

        def late() -> CommandTimeout:
            return CommandTimeout(self._cluster.name, trouble, timeout)

        wait.until(answers, time.monotonic() + timeout, late, pause=1)

    def _ready(self, api: ApiClient) -> None:
        from kubernetes import client

        client.CoreV1Api(api).list_namespace(limit=1, _request_timeout=(5, 10))

    def verify_functionality(self) -> None:
        """Every node of the cluster is there and Ready."""
        nodes = self.get_nodes()
        bad = [node.metadata.name for node in nodes if not _has(node, "Ready")]
        if bad:
            raise TestingError(f"{self._cluster.name}: not Ready: {', '.join(bad)}")
        lacking = self._cluster.hosts.keys() - self.nodes_by_host().keys()
        if lacking:
            raise TestingError(f"{self._cluster.name}: no Node object of {', '.join(sorted(lacking))}")

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    @contextlib.contextmanager
    def _fresh(self, host: str = "") -> Iterator[ApiClient]:
        """A client of its own. ``host``: another address of the API than that of the kubeconfig, tried once."""
        from kubernetes import client, config

        settings = client.Configuration()
        config.load_kube_config(str(self._kubeconfig()), client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]
        if host:
            settings.host, settings.retries = host, False
        api = client.ApiClient(settings)
        try:
            yield api
        finally:
            api.close()  # type: ignore[no-untyped-call]

    def is_ready_on(self, address: str) -> bool:
        """Whether the API server of the node with this address is ready."""
        with self._fresh(f"https://{bracketed(address)}:6443") as api:
            try:
                self._ready(api)
            except Exception:  # the library's, urllib3's and the system's own: this one is not ready
                return False
        return True


class K8SMaster:
    """``cluster.K8SMaster()`` is the first host of the cluster whose own API server is ready, whichever that is."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self, timeout: float = 60) -> Host:
        masters, kubectl = self._cluster.masters, self._cluster.Kubectl
        hosts = [self._cluster.hosts[name] for name in masters]
        late = TestingError(f"{self._cluster.name}: no master's API is ready ({', '.join(masters)})")
        found = wait.until(
            lambda: next((host for host in hosts if kubectl.is_ready_on(host.ip)), None),
            time.monotonic() + timeout, lambda: late, pause=1,
        )  # fmt: skip
        assert found is not None
        return found

    def ping(self) -> None:
        self()


def _objects(manifest: str | os.PathLike[str] | Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(manifest, Mapping):
        return [dict(manifest)]
    # A manifest has a colon in its first line that is no comment; a path may have one, but no line break.
    text = manifest if isinstance(manifest, str) and re.search(r"\n|^\s*[{]", manifest) else Path(manifest).read_text()
    found = [body for body in yaml.safe_load_all(text) if body]
    return [item for body in found for item in (body["items"] if body.get("kind") == "List" else [body])]


def _has(found: Any, condition: str) -> bool:
    status = found.to_dict().get("status") or {}
    return any(one.get("type") == condition and one.get("status") == "True" for one in status.get("conditions") or [])
