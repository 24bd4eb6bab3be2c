"""A test double of the program `gravity`, which cannot be downloaded any more.

It implements the documented commands, texts, JSON and exit codes of Gravity 7.0 on a node of a real cluster: kubeadm
replaces what Gravity runs in its container. As there, the cluster has an image store and a registry of its own
(planet.py) and answers as Kubernetes 1.17 does (api.py). With GRAVITY_DOUBLE_PAPER (a folder in place of the network)
the cluster exists only in files, which is fast; GRAVITY_DOUBLE_ROOT is then the node's root.

Needs only Python's standard library. Faults on demand: FAULTS, or the file /etc/gravity-double.json.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from doubles.gravity.base import (
    BEGUN,
    EXPANDS,
    LOCAL,
    MASTERS,
    PAPER,
    PAUSE,
    PLANET,
    PORT,
    REGISTRY,
    VERSION,
    Error,
    Json,
    addresses,
    emit,
    fail_on_demand,
    hostname,
    named_fault,
    now,
    path,
    read,
    sh,
    write,
)

if not PAPER:
    # Slow to load, and not needed for a cluster in files.
    from doubles.gravity import api, planet

# The file that runs, which is a zip archive.
PROGRAM = os.path.realpath(sys.argv[0])

# --- the cluster's own state -----------------------------------------------------------------------------------------


class Paper:
    """A cluster in a folder, without machines."""

    def __init__(self) -> None:
        self._file = os.path.join(PAPER, "cluster.json")

    def load(self) -> Json:
        try:
            with open(self._file, encoding="utf-8") as stream:
                return dict(json.load(stream))
        except (OSError, ValueError):
            return {}

    def view(self) -> Json:
        """Return the state that the cluster reports, {} if it is unreachable."""
        state = self.load()
        return {} if state.get("down") else state

    @contextlib.contextmanager
    def change(self) -> Iterator[Json]:
        os.makedirs(PAPER, exist_ok=True)
        with open(os.path.join(PAPER, "lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.load()
            yield state
            with open(self._file + ".new", "w", encoding="utf-8") as stream:
                json.dump(state, stream)
            os.replace(self._file + ".new", self._file)

    def health(self, state: Json) -> dict[str, str]:
        """Return healthy, degraded or offline by address."""
        reported = state.get("health", {})
        return {node["ip"]: reported.get(node["ip"], "healthy") for node in state["nodes"]}

    def init(self, node: Json, options: Json) -> None:
        time.sleep(PAUSE / 10)

    def invite(self, master: bool) -> Json:
        return {}

    def join(self, node: Json, invitation: Json) -> None:
        time.sleep(PAUSE / 10)

    def forget(self, node: Json, answers: bool) -> None:
        return

    def clean(self) -> None:
        return

    def stop(self) -> None:
        return

    def start(self) -> None:
        return

    def move(self, node: Json, old: str) -> None:
        return

    def announce(self, names: list[str]) -> None:
        return

    def account(self, user: str) -> Json:
        """Return a kubeconfig of a user."""
        return {}

    def send(self, peer: str, verb: str, request: Json) -> Json:
        state = self.load()
        masters = [node["ip"] for node in state.get("nodes", []) if node["role"] == "master"]
        if peer not in masters or state.get("down"):
            raise Error(f"failed to reach {peer}")
        return Site(self).answer(verb, request)

    def spawn(self, *words: str) -> None:
        work(self, list(words))

    def leader(self) -> str:
        """Return the active master: the first one that answers."""
        return str(self.load()["nodes"][0]["ip"])

    def images(self) -> list[Json]:
        """Return the images in the cluster's registry."""
        return [{"repository": name, "tags": tags} for name, tags in self.load().get("registry", {}).items()]

    def execute(self, command: list[str], interactive: bool) -> int:
        if command[:1] == ["docker"]:
            return self._docker(command[1:])
        if command[:1] != ["kubectl"]:
            return subprocess.run(command, check=False).returncode
        if "apply" in command:
            with self.change() as state:
                state["applied"] = json.load(sys.stdin)
            emit("applied")
        elif "secret" in command:
            reported = {
                "token": base64.b64encode(b"account-token").decode(),
                "ca.crt": base64.b64encode(b"ca").decode(),
            }
            emit(json.dumps({"data": reported if self.load().get("applied") else {}}))
        return 0

    def _docker(self, words: list[str]) -> int:
        fail_on_demand(f"docker {words[0]}")
        with self.change() as state:
            loaded, registry = state.setdefault("docker", []), state.setdefault("registry", {})
            if words[0] == "load":
                import tarfile

                with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
                    stream = next(archive.extractfile(entry) for entry in archive if entry.name == "manifest.json")
                    loaded += [tag for entry in json.load(stream) for tag in entry["RepoTags"]] if stream else []
            elif words[1] not in loaded:
                raise Error(f"Error response from daemon: No such image: {words[1]}", 1)
            elif words[0] == "tag":
                loaded.append(words[2])
            elif words[1].startswith(REGISTRY + "/"):
                name, _, tag = words[1].removeprefix(REGISTRY + "/").rpartition(":")
                registry.setdefault(name, []).append(tag)
            else:
                raise Error("denied: requested access to the resource is denied", 1)
        return 0


class Machines(Paper):
    """A real cluster, which kubeadm creates with the binaries and images of the node."""

    ADMIN = "/etc/kubernetes/admin.conf"
    KEEPER = ("--namespace=kube-system",)
    NAME = "gravity-site"

    def __init__(self) -> None:
        super().__init__()
        self._seen: tuple[float, list[Json]] = (0.0, [])

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 60) -> str:
        return sh("kubectl", f"--kubeconfig={self.ADMIN}", *words, stdin=stdin, timeout=timeout)

    # The shared state of all masters is a Secret in the cluster.

    def _get(self) -> Json:
        try:
            return dict(json.loads(self.kubectl(*self.KEEPER, "get", "secret", self.NAME, "--output=json")))
        except (Error, subprocess.TimeoutExpired):
            return {}

    def load(self) -> Json:
        if not os.path.exists(self.ADMIN):
            return self._load_from_peer()
        secret = self._get()
        return dict(json.loads(base64.b64decode(secret["data"]["state"]))) if secret else {}

    def _load_from_peer(self) -> Json:
        local = read(LOCAL)
        for peer in local.get("peers", []):
            with contextlib.suppress(Error):
                return dict(self.send(peer, "state", {"token": local["secret"]})["state"])
        return {}

    @contextlib.contextmanager
    def change(self) -> Iterator[Json]:
        # Only masters write, and rarely; Kubernetes refuses a conflicting write.
        secret = self._get()
        state: Json = json.loads(base64.b64decode(secret["data"]["state"])) if secret else {}
        yield state
        body = secret or {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.NAME}}
        body["data"] = {"state": base64.b64encode(json.dumps(state).encode()).decode()}
        self.kubectl(*self.KEEPER, "replace" if secret else "create", "--filename=-", stdin=json.dumps(body))

    def nodes(self) -> list[Json]:
        """Return the Node objects, at most some seconds old."""
        if time.monotonic() - self._seen[0] > 3:
            listed = json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]
            self._seen = (time.monotonic(), listed)
        return self._seen[1]

    def health(self, state: Json) -> dict[str, str]:
        reported = {"True": "healthy", "False": "degraded"}
        if not os.path.exists(self.ADMIN):
            local = read(LOCAL)
            for peer in local.get("peers", []):
                with contextlib.suppress(Error):
                    return dict(self.send(peer, "health", {"token": local["secret"]})["health"])
            return {}
        ready = {}
        for node in self.nodes():
            conditions = {entry["type"]: entry["status"] for entry in node["status"].get("conditions", [])}
            ready[node["metadata"]["name"]] = reported.get(conditions.get("Ready", ""), "offline")
        return {node["ip"]: ready.get(node["ip"], "offline") for node in state["nodes"]}

    # kubeadm

    def _prepare(self, options: Json) -> None:
        images = sh("kubeadm", "config", "images", "list", "--kubernetes-version", options["kubernetes"]).split()
        pause = next(name for name in images if "/pause:" in name)
        planet.configure(pause, _cgroup_driver() == "systemd")
        write(f"etc/systemd/system/{RUNTIME}", RUNTIME_UNIT, 0o644)
        if not os.path.exists("/etc/systemd/system/kubelet.service"):
            write("etc/systemd/system/kubelet.service", KUBELET_UNIT, 0o644)
        write("etc/systemd/system/gravity-agent.service", AGENT_UNIT, 0o644)
        sh("systemctl", "daemon-reload")
        is_new = not planet.has_store()
        if is_new:
            sh("systemctl", "stop", "kubelet.service", RUNTIME)
            planet.create_store()
        sh("systemctl", "enable", "--now", RUNTIME)
        if is_new:
            planet.keep_only(images)
        sh("systemctl", "enable", "kubelet.service")

    def _registration(self, node: Json) -> Json:
        gravity_labels = {"gravitational.io/advertise-ip": node["ip"], "gravitational.io/k8s-role": node["role"]}
        labels = {**gravity_labels, "role": node["profile"], **node.get("labels", {})}
        labels = {key: value for key, value in labels.items() if not key.startswith("node-role.kubernetes.io/")}
        return {
            "name": node["ip"],
            "criSocket": f"unix://{planet.SOCKET}",
            "imagePullPolicy": "IfNotPresent",
            "taints": node.get("taints", []),
            "ignorePreflightErrors": ["all"],
            "kubeletExtraArgs": [
                {"name": "node-ip", "value": node["ip"]},
                {"name": "node-labels", "value": ",".join(f"{key}={value}" for key, value in labels.items())},
            ],
        }

    def _documents(self, node: Json, options: Json) -> str:
        version = "kubeadm.k8s.io/v1beta4"
        init = {
            "apiVersion": version,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": node["ip"], "bindPort": api.BEHIND},
            "nodeRegistration": self._registration(node),
            "skipPhases": ["show-join-command"],
        }
        cluster = {
            "apiVersion": version,
            "kind": "ClusterConfiguration",
            "clusterName": options["cluster"],
            "kubernetesVersion": options["kubernetes"],
            "controlPlaneEndpoint": f"{node['ip']}:{api.BEHIND}",
            "encryptionAlgorithm": "ECDSA-P256",
            "networking": {"podSubnet": options["pods"], "serviceSubnet": options["services"]},
            "apiServer": {"certSANs": ["leader.telekube.local", "127.0.0.1", *options.get("names", [])]},
        }
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": _cgroup_driver(),
            "failCgroupV1": False,
            "failSwapOn": False,
            "resolvConf": "/run/devenv/resolv.conf"
            if os.path.exists("/run/devenv/resolv.conf")
            else "/etc/resolv.conf",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "100Mi",
                **dict.fromkeys(
                    ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"), "0%"
                ),
            },
        }
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
        return "\n---\n".join(json.dumps(entry) for entry in (init, cluster, kubelet, proxy))

    def init(self, node: Json, options: Json) -> None:
        options["kubernetes"] = sh("kubeadm", "version", "--output=short").strip()
        self._prepare(options)
        with _config(self._documents(node, options)) as config:
            sh("kubeadm", "init", "--config", config, timeout=600)
        self._network(options)
        sh("systemctl", "enable", "gravity-agent.service")

    def _network(self, options: Json) -> None:
        """Configure the pod network of this node once its range is known; the agent sets the routes to others."""
        address = read(LOCAL)["ip"]
        config = self.ADMIN if os.path.exists(self.ADMIN) else "/etc/kubernetes/kubelet.conf"
        for _ in range(300):
            with contextlib.suppress(Error):
                shown = json.loads(sh("kubectl", f"--kubeconfig={config}", "get", "node", address, "--output=json"))
                if shown["spec"].get("podCIDR"):
                    break
            time.sleep(0.5)
        else:
            raise Error(f"node {address} got no range for pods")
        conflist = {
            "cniVersion": "1.0.0",
            "name": "gravity",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": shown["spec"]["podCIDR"]}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        write("etc/cni/net.d/10-gravity.conflist", json.dumps(conflist), 0o644)
        sh("nft", "--file", "-", stdin=MASQUERADE.format(pods=options["pods"]))
        planet.trust(read(LOCAL)["peers"][0])

    def invite(self, master: bool) -> Json:
        reported: Json = {"token": sh("kubeadm", "token", "create", "--ttl=30m").strip(), "key": ""}
        config = json.loads(self.kubectl(*self.KEEPER, "get", "configmap", "kubeadm-config", "--output=json"))
        reported["endpoint"] = re.findall(r"controlPlaneEndpoint: (\S+)", config["data"]["ClusterConfiguration"])[0]
        reported["options"] = self.load()["options"]
        if master:
            reported["key"] = secrets.token_hex(32)
            cluster = f"{config['data']['ClusterConfiguration']}\n---\n"
            init = {
                "apiVersion": "kubeadm.k8s.io/v1beta4",
                "kind": "InitConfiguration",
                # Of the API server itself: what listens on its usual port does not know kubeadm's certificates.
                "localAPIEndpoint": {"advertiseAddress": read(LOCAL)["ip"], "bindPort": api.BEHIND},
                "certificateKey": reported["key"],
            }
            with _config(cluster + json.dumps(init)) as path_:
                words = ("kubeadm", "init", "phase", "upload-certs", "--upload-certs", "--skip-certificate-key-print")
                sh(*words, "--config", path_)
        return reported

    def join(self, node: Json, invitation: Json) -> None:
        self._prepare(invitation["options"])
        body: Json = {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "JoinConfiguration",
            "discovery": {
                "bootstrapToken": {
                    "token": invitation["token"],
                    "apiServerEndpoint": invitation["endpoint"],
                    "unsafeSkipCAVerification": True,
                }
            },
            "nodeRegistration": self._registration(node),
        }
        if node["role"] == "master":
            local = {"advertiseAddress": node["ip"], "bindPort": api.BEHIND}
            body["controlPlane"] = {"certificateKey": invitation["key"], "localAPIEndpoint": local}
        with _config(json.dumps(body)) as config:
            sh("kubeadm", "join", "--config", config, timeout=600)
        self._network(invitation["options"])
        sh("systemctl", "enable", "gravity-agent.service")

    def forget(self, node: Json, answers: bool) -> None:
        with contextlib.suppress(Error):
            words = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
            if answers:
                self.kubectl("drain", node["ip"], *words, timeout=90)
        if answers:
            with contextlib.suppress(Error):
                self.send(node["ip"], "clean", {"token": self.load()["token"]})
        if node["role"] == "master":
            pki = "/etc/kubernetes/pki/etcd/"
            etcdctl = (
                "etcdctl",
                f"--cacert={pki}ca.crt",
                f"--cert={pki}healthcheck-client.crt",
                f"--key={pki}healthcheck-client.key",
                f"--endpoints=https://{read(LOCAL)['ip']}:2379",
            )
            for member in json.loads(sh(*etcdctl, "member", "list", "--write-out=json"))["members"]:
                if f"https://{node['ip']}:2380" in member["peerURLs"]:
                    sh(*etcdctl, "member", "remove", format(member["ID"], "x"))
        self.kubectl("delete", "node", node["ip"], "--ignore-not-found", "--wait=true")

    def clean(self) -> None:
        subprocess.run(["systemctl", "disable", "--now", "gravity-agent.service"], capture_output=True, check=False)
        subprocess.run(["systemctl", "stop", "kubelet.service"], capture_output=True, check=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path("etc/cni/net.d/10-gravity.conflist"))
        subprocess.run(["systemctl", "start", RUNTIME], capture_output=True, check=False)
        words = ("kubeadm", "reset", "--force", f"--cri-socket=unix://{planet.SOCKET}")
        subprocess.run(words, capture_output=True, check=False, timeout=300)
        subprocess.run(["systemctl", "disable", "--now", RUNTIME], capture_output=True, check=False)
        for name in (RUNTIME, "gravity-agent.service"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path(f"etc/systemd/system/{name}"))
        for folder in ("etc/gravity", "var/lib/etcd", "var/lib/kubelet", "etc/kubernetes", planet.STORE.lstrip("/")):
            shutil.rmtree(path(folder), ignore_errors=True)
        subprocess.run(["nft", "delete", "table", "inet", "gravity_pods"], capture_output=True, check=False)
        subprocess.run(["ip", "route", "flush", "proto", ROUTES], capture_output=True, check=False)
        sh("systemctl", "daemon-reload")

    def stop(self) -> None:
        sh("systemctl", "stop", "gravity-agent.service", "kubelet.service")
        planet.stop_tasks()
        sh("systemctl", "stop", RUNTIME)

    def start(self) -> None:
        # A machine from an image has no image store yet.
        self._prepare(read(LOCAL)["options"])
        sh("systemctl", "start", RUNTIME, "kubelet.service", "gravity-agent.service")
        self._wait_for_api()

    def _wait_for_api(self) -> None:
        for _ in range(240):
            with contextlib.suppress(Error):
                self.kubectl("get", "--raw=/readyz")
                return
            time.sleep(0.5)
        raise Error("the API server does not answer")

    def move(self, node: Json, old: str) -> None:
        """Recreate everything with the address, the Node included, because the address is its name."""
        options = read(LOCAL)["options"]
        self._prepare(options)
        for name in ("apiserver", "etcd/server", "etcd/peer"):
            for kind in ("crt", "key"):
                os.unlink(f"/etc/kubernetes/pki/{name}.{kind}")
        for name in ("admin", "super-admin", "controller-manager", "scheduler", "kubelet"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/etc/kubernetes/{name}.conf")
        shutil.rmtree("/var/lib/kubelet/pki", ignore_errors=True)
        with _config(self._documents(node, options)) as config:

            def phase(*words: str) -> None:
                sh("kubeadm", "init", "phase", *words, "--config", config)

            for name in ("apiserver", "etcd-server", "etcd-peer"):
                phase("certs", name)
            phase("kubeconfig", "all")
            phase("etcd", "local")
            phase("control-plane", "all")
            phase("kubelet-start")
            self._wait_for_api()
            phase("upload-config", "all")
            phase("bootstrap-token")
            phase("addon", "kube-proxy")
        pki = "/etc/kubernetes/pki/etcd/"
        etcdctl = ("etcdctl", f"--cacert={pki}ca.crt", f"--cert={pki}healthcheck-client.crt")
        etcdctl = (*etcdctl, f"--key={pki}healthcheck-client.key", f"--endpoints=https://{node['ip']}:2379")
        (entry,) = json.loads(sh(*etcdctl, "member", "list", "--write-out=json"))["members"]
        sh(*etcdctl, "member", "update", format(entry["ID"], "x"), f"--peer-urls=https://{node['ip']}:2380")
        self.kubectl("delete", "node", old, "--ignore-not-found", "--wait=true")
        self.kubectl(
            "delete", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={old}", "--force", "--wait=false"
        )
        self._network(options)
        sh("systemctl", "start", "gravity-agent.service")

    def announce(self, names: list[str]) -> None:
        """Serve a certificate with further names; the controllers of this master restart."""
        for kind in ("crt", "key"):
            os.unlink(f"/etc/kubernetes/pki/apiserver.{kind}")
        local = read(LOCAL)
        options = {**local["options"], "names": [name.partition(":")[0] for name in names]}
        write(LOCAL, json.dumps({**local, "options": options}))
        with _config(self._documents(local["node"], options)) as config:
            sh("kubeadm", "init", "phase", "certs", "apiserver", "--config", config)
        sh("systemctl", "restart", "gravity-agent.service")

    def account(self, user: str) -> Json:
        name = "tsh-" + re.sub(r"[^a-z0-9]", "-", user.lower())
        for words in (
            ("--namespace=kube-system", "create", "serviceaccount", name),
            (
                "create",
                "clusterrolebinding",
                name,
                "--clusterrole=cluster-admin",
                f"--serviceaccount=kube-system:{name}",
            ),
        ):
            with contextlib.suppress(Error):
                self.kubectl(*words)
        token = self.kubectl("--namespace=kube-system", "create", "token", name, "--duration=12h").strip()
        with open(planet.CA, "rb") as stream:
            authority = base64.b64encode(stream.read()).decode()
        server = f"https://{read(LOCAL)['ip']}:{api.PORT}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"certificate-authority-data": authority, "server": server}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "current-context": "lab",
        }

    # Requests to other nodes

    def send(self, peer: str, verb: str, request: Json) -> Json:
        import ssl  # not needed for a cluster in files, and slow to load
        import urllib.request

        # A joining node has no CA yet; the token authenticates it, as documented.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        body = urllib.request.Request(f"https://{peer}:{PORT}/{verb}", json.dumps(request).encode())
        try:
            with urllib.request.urlopen(body, timeout=120, context=context) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError) as error:
            raise Error(f"failed to reach {peer}: {error}") from None

    def leader(self) -> str:
        local = read(LOCAL)
        for peer in local["peers"]:
            with contextlib.suppress(Error):
                self.send(peer, "health", {"token": local["secret"]})
                return str(peer)
        raise Error("there is no active master")

    def images(self) -> list[Json]:
        return planet.contents(self.leader())

    def spawn(self, *words: str) -> None:
        argv = ["systemd-run", "--collect", "--quiet", sys.executable, "-SE", PROGRAM, "_work", *words]
        sh(*argv)

    def execute(self, command: list[str], interactive: bool) -> int:
        if not read(LOCAL).get("running"):
            raise Error("no running container found")
        if command[:1] == ["docker"]:
            planet.trust(self.leader())
            return planet.docker(command[1:])
        environment = {**os.environ, "KUBECONFIG": self.ADMIN}
        stdin = None if interactive else subprocess.DEVNULL
        return subprocess.run(command, env=environment, stdin=stdin, check=False).returncode


ROUTES = "178"

RUNTIME = "gravity-runtime.service"

RUNTIME_UNIT = """[Unit]
Description=Container runtime of the stand-in for Gravity
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd --config /etc/gravity/containerd.toml
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
KillMode=process
Delegate=yes
TasksMax=infinity
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""

KUBELET_UNIT = """[Unit]
Description=kubelet of the stand-in for Gravity
After=gravity-runtime.service
Wants=gravity-runtime.service
ConditionPathExists=/var/lib/kubelet/config.yaml
StartLimitIntervalSec=0
[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
  --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""

AGENT_UNIT = """[Unit]
Description=Agent of the stand-in for Gravity
After=kubelet.service
[Service]
ExecStart=/usr/bin/gravity _agent
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""

MASQUERADE = """table inet gravity_pods
delete table inet gravity_pods
table inet gravity_pods {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pods} ip daddr != {pods} masquerade
  }}
}}
"""


def _cgroup_driver() -> str:
    return "systemd" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "cgroupfs"


@contextlib.contextmanager
def _config(text: str) -> Iterator[str]:
    name = f"run/gravity-{uuid.uuid4()}.yml"
    write(name, text)
    try:
        yield path(name)
    finally:
        os.unlink(path(name))


# --- what masters answer ---------------------------------------------------------------------------------------------


class Site:
    """The requests of nodes to a master."""

    def __init__(self, backend: Paper) -> None:
        self._backend = backend

    def answer(self, verb: str, request: Json) -> Json:
        state = self._backend.load()
        if not state or request.get("token") != state["token"]:
            return {"error": "bad secret token"}
        handlers: dict[str, Callable[[Json, Json], Json]] = {
            "expand": self._expand,
            "expanded": self._expanded,
            "state": lambda state, request: {"state": state},
            "health": lambda state, request: {"health": self._backend.health(state)},
            "clean": self._clean,
            "shrink": self._shrink,
        }
        return handlers[verb](state, request)

    def _expand(self, state: Json, request: Json) -> Json:
        """Admit a node: return the operation's id and its data, or a text as ``error`` or ``wait`` (try again)."""
        health = self._backend.health(state)
        give_up(state, request["ip"])
        refused = refuse_expand(state, request, health)
        if refused:
            return refused
        profile = profiles(state)[request["role"]]
        role = service_role(profile, state)
        operation = new_operation("operation_expand", "expand_initiated")
        operation["server"] = {"ip": request["ip"], "role": role, "hostname": request["hostname"]}
        with self._backend.change() as changed:
            give_up(changed, request["ip"])
            again = refuse_expand(changed, request, health)
            if again:
                return again
            changed["operations"].append(operation)
        node = {
            "hostname": request["hostname"],
            "ip": request["ip"],
            "role": role,
            "profile": request["role"],
            "labels": profile.get("labels") or {},
            "taints": profile.get("taints") or [],
        }
        masters = [entry["ip"] for entry in state["nodes"] if entry["role"] == "master"]
        return {
            "operation": operation["id"],
            "node": node,
            "peers": masters,
            "invitation": self._backend.invite(role == "master"),
            "options": state["options"],
        }

    def _expanded(self, state: Json, request: Json) -> Json:
        degraded = named_fault("degraded_after_join")
        with self._backend.change() as changed:
            finish(changed, request["operation"], "completed" if request.get("node") else "failed")
            if request.get("node"):
                changed["nodes"].append(request["node"])
            if degraded and request.get("node"):
                changed["degraded"] = int(degraded.get("answers", 3))
        return {}

    def _clean(self, state: Json, request: Json) -> Json:
        self._backend.spawn("clean")
        return {}

    def _shrink(self, state: Json, request: Json) -> Json:
        node = next((node for node in state["nodes"] if node["ip"] == request["ip"]), None)
        if node is None:
            return {"error": "this server is not a part of the running cluster"}
        return {"operation": launch_remove(self._backend, node, answers=False)}


def profiles(state: Json) -> dict[str, Json]:
    return {entry["name"]: entry for entry in state["manifest"]["nodeProfiles"]}


def service_role(profile: Json, state: Json) -> str:
    """Return the role of the profile; without one, the first three nodes are masters."""
    if profile.get("serviceRole"):
        return str(profile["serviceRole"])
    for role in ("master", "node"):
        if (profile.get("labels") or {}).get(f"node-role.kubernetes.io/{role}") == "true":
            return role
    masters = [node for node in state.get("nodes", []) if node["role"] == "master"]
    return "master" if len(masters) < MASTERS else "node"


def refuse_expand(state: Json, request: Json, health: dict[str, str]) -> Json:
    known = profiles(state)
    if request["role"] not in known:
        return {"error": f'specified node role "{request["role"]}" is not defined in the application manifest'}
    if request["hostname"] in [node["hostname"] for node in state["nodes"]]:
        return {"error": f'One of existing servers already has hostname "{request["hostname"]}"'}
    profile = known[request["role"]]
    if profile.get("expandPolicy") == "fixed":
        return {"error": f'server profile "{request["role"]}" does not allow expansion'}
    running = [entry for entry in state["operations"] if entry["state"] not in ("completed", "failed")]
    others = [entry for entry in running if entry["type"] != "operation_expand"]
    if others:
        return {"wait": f"Waiting for another operation to complete at {others[0]['id']}"}
    joining = [entry["server"] for entry in running]
    for entry in joining:
        if entry["role"] == "master":
            return {"wait": f"can't launch another expand while master node {entry['ip']} is joining"}
    if joining and service_role(profile, state) == "master":
        return {"wait": "can't join master node while another node is joining"}
    if len(joining) >= EXPANDS:
        return {"wait": "can only add one node at a time"}
    if any(state_ != "healthy" for state_ in health.values()):
        return {"wait": "Cluster is degraded, waiting for it to become healthy"}
    return {}


def give_up(state: Json, address: str) -> None:
    """End an earlier attempt of this node to join."""
    for entry in state["operations"]:
        if entry.get("server", {}).get("ip") == address and entry["state"] not in ("completed", "failed"):
            entry["state"] = "failed"


def new_operation(kind: str, state: str) -> Json:
    return {
        "type": kind,
        "id": str(uuid.uuid4()),
        "state": state,
        "created": now(),
        "progress": {"message": "Operation has started", "completion": 0, "created": now()},
    }


def finish(state: Json, identity: str, result: str = "completed") -> None:
    for entry in state["operations"]:
        if entry["id"] == identity and not entry.get("silent"):
            entry["state"] = result
            entry["progress"] = {"message": f"Operation has {result}", "completion": 100, "created": now()}


def launch(backend: Paper, kind: str, state: str) -> str:
    operation = new_operation(kind, state)
    operation["silent"] = bool(named_fault("silent_operation"))
    with backend.change() as changed:
        changed["operations"].append(operation)
    return str(operation["id"])


def launch_remove(backend: Paper, node: Json, answers: bool) -> str:
    identity = launch(backend, "operation_shrink", "shrink_in_progress")
    backend.spawn("remove", node["ip"], identity, "yes" if answers else "no")
    return identity


def work(backend: Paper, words: list[str]) -> None:
    """Do the work that continues after the command has returned."""
    verb, arguments = words[0], words[1:]
    if verb == "clean":
        forget_locally(backend)
    elif verb == "remove":
        address, identity, answers = arguments
        node = next(entry for entry in backend.load()["nodes"] if entry["ip"] == address)
        result = "failed" if named_fault("failed_operation") else "completed"
        if result == "completed":
            backend.forget(node, answers == "yes")
        with backend.change() as state:
            if result == "completed":
                state["nodes"] = [entry for entry in state["nodes"] if entry["ip"] != address]
            finish(state, identity, result)
    elif verb == "upgrade":
        with backend.change() as state:
            state["application"] = state.pop("uploaded")
            finish(state, arguments[0])


def forget_locally(backend: Paper) -> None:
    os.makedirs(path("run"), exist_ok=True)
    # Commands of the node and of the cluster may run at the same time.
    with open(path("run/gravity-clean.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path("var/lib/gravity")):
            backend.clean()
            _forget_files()


def _forget_files() -> None:
    shutil.rmtree(path("var/lib/gravity"), ignore_errors=True)
    for name in (PLANET, "usr/bin/gravity"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path(name))


# --- commands --------------------------------------------------------------------------------------------------------


def require_address(address: str) -> None:
    if address not in addresses():
        raise Error(f"{address} matches none of the available addresses {', '.join(addresses())}")


def put_program() -> None:
    """Copy the program to its place in an installation."""
    target = path("usr/bin/gravity")
    if os.path.realpath(target) == PROGRAM:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(PROGRAM, target + ".new")
    os.chmod(target + ".new", 0o755)
    os.replace(target + ".new", target)


def remember(local: Json) -> None:
    write(LOCAL, json.dumps(local))
    write(PLANET, "# Container of the stand-in for Gravity.\n", 0o644)
    put_program()


def check(backend: Paper, arguments: argparse.Namespace) -> int:
    with open(arguments.manifest, encoding="utf-8") as stream:
        manifest = json.load(stream)
    if arguments.profile and arguments.profile not in [entry["name"] for entry in manifest["nodeProfiles"]]:
        raise Error(f'server role "{arguments.profile}" not found')
    for name in ("br_netfilter", "overlay", "ebtable_filter", "ip_tables", "iptable_filter", "iptable_nat"):
        emit(f"[✓] kernel module {name}")
    return 0


def install(backend: Paper, arguments: argparse.Namespace) -> int:
    if os.path.isdir(path("var/lib/gravity/local")):
        raise Error(f"detected previous installation state in {path('var/lib/gravity')}, please clean it up first")
    with open(os.path.join(arguments.path, "app.yaml"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    require_address(arguments.advertise_addr)
    if arguments.token and not 6 <= len(arguments.token) <= 128:
        raise Error(f"install token is too {'short' if len(arguments.token) < 6 else 'long'}")
    flavors = {entry["name"]: entry for entry in manifest["installer"]["flavors"]["items"]}
    flavor = flavors.get(arguments.flavor or manifest["installer"]["flavors"].get("default", ""))
    if flavor is None:
        raise Error(f'install flavor "{arguments.flavor}" not found')
    known = {entry["name"]: entry for entry in manifest["nodeProfiles"]}
    role = arguments.role or flavor["nodes"][0]["profile"]
    if role not in known:
        raise Error(f'server role "{role}" not found')
    if sum(entry["count"] for entry in flavor["nodes"]) > 1:
        emit("Waiting for agents to join")
        while True:
            time.sleep(60)
    options = {
        "cluster": arguments.cluster,
        "pods": arguments.pod_network_cidr,
        "services": arguments.service_cidr,
    }
    state: Json = {
        "application": manifest["metadata"],
        "cluster": arguments.cluster,
        "state": "active",
        "token": arguments.token or secrets.token_hex(16),
        "manifest": manifest,
        "nodes": [],
        "operations": [],
        "options": options,
        "authgateway": {},
    }
    node = {
        "hostname": hostname(),
        "ip": arguments.advertise_addr,
        "profile": role,
        "labels": known[role].get("labels") or {},
        "taints": known[role].get("taints") or [],
        "role": service_role(known[role], state),
    }
    if node["role"] != "master":
        raise Error(f'profile "{role}" makes no master')
    emit("Starting installer")
    write(LOCAL, json.dumps({"ip": node["ip"], "secret": state["token"], "peers": [node["ip"]], "options": options}))
    fail_on_demand("install-later")
    backend.init(node, options)
    operation = new_operation("operation_install", "completed")
    operation["progress"] = {"message": "Operation has completed", "completion": 100, "created": now()}
    state.update(nodes=[node], operations=[operation])
    with backend.change() as changed:
        changed.update(state)
    remember(
        {
            "ip": node["ip"],
            "secret": state["token"],
            "peers": [node["ip"]],
            "options": options,
            "role": "master",
            "running": True,
            "node": node,
        }
    )
    if not PAPER:
        sh("systemctl", "start", "gravity-agent.service")
    emit(f"Operation ({operation['id']}) finished")
    emit("The cluster has been installed")
    return 0


def resume(backend: Paper, arguments: argparse.Namespace) -> int:
    """Continue the interrupted installation."""
    begun = read(BEGUN)
    if not begun:
        raise Error("no operation to resume")
    os.chdir(begun["cwd"])
    return install(backend, parser().parse_args(begun["argv"]))


def join(backend: Paper, arguments: argparse.Namespace) -> int:
    if os.path.isdir(path("var/lib/gravity/local")):
        raise Error(f"detected previous installation state in {path('var/lib/gravity')}, please clean it up first")
    require_address(arguments.advertise_addr)
    request = {
        "token": arguments.token,
        "ip": arguments.advertise_addr,
        "hostname": hostname(),
        "role": arguments.role,
    }
    peers = arguments.peers.split(",")
    while True:
        answer, peer = _send_any(backend, peers, "expand", request)
        if "error" in answer:
            raise Error(answer["error"])
        if "wait" not in answer:
            break
        emit(answer["wait"])
        time.sleep(PAUSE)
    emit(f'Joining cluster, operation "{answer["operation"]}"')
    node = answer["node"]
    local = {"ip": node["ip"], "secret": arguments.token, "peers": answer["peers"], "options": answer["options"]}
    write(LOCAL, json.dumps(local))
    reported = {"token": arguments.token, "operation": answer["operation"]}
    try:
        backend.join(node, answer["invitation"])
    except Error:
        backend.send(peer, "expanded", reported)
        raise
    remember({**local, "role": node["role"], "running": True, "node": node})
    while "wait" in backend.send(peer, "expanded", {**reported, "node": node}):
        time.sleep(PAUSE)
    if not PAPER:
        sh("systemctl", "start", "gravity-agent.service")
    emit("Joined")
    return 0


def _send_any(backend: Paper, peers: list[str], verb: str, request: Json) -> tuple[Json, str]:
    while True:
        for peer in peers:
            try:
                return backend.send(peer, verb, request), peer
            except Error as error:
                emit(f"still waiting: {error}")
        # Forever, like the real one.
        time.sleep(PAUSE)


def _degraded() -> int:
    """Print the status of an unreachable cluster."""
    sys.stdout.write(json.dumps({"cluster": {"application": {}, "state": "degraded", "system_status": 2, "nodes": []}}))
    raise Error("degraded")


def status(backend: Paper, arguments: argparse.Namespace) -> int:
    local = read(LOCAL)
    if not local:
        raise Error("no cluster found on this node")
    if local["ip"] not in addresses():
        raise Error(
            f"cluster node is configured with advertise address {local['ip']} which is not present on the machine"
        )
    if not local.get("running"):
        return _degraded()
    state = backend.view()
    if not state:
        return _degraded()
    if arguments.operation_id:
        operation = next((entry for entry in state["operations"] if entry["id"] == arguments.operation_id), None)
        if operation is None:
            raise Error(f'operation "{arguments.operation_id}" not found')
        if not (operation.get("silent") and named_fault("mute")):
            emit(operation["state"])
        return 0
    if arguments.token:
        sys.stdout.write(state["token"])
        return 0
    health = backend.health(state)
    forced = state.get("degraded", 0) > 0 and os.path.exists(path(PLANET))
    if forced and (PAPER or os.path.exists("/etc/kubernetes/admin.conf")):
        with contextlib.suppress(Error), backend.change() as changed:
            changed["degraded"] = max(changed.get("degraded", 0) - 1, 0)
    document = shown_status(state, health, forced)
    sys.stdout.write(json.dumps(document))
    if document["cluster"]["system_status"] != 1:
        raise Error("degraded")
    return 0


_STATES = {"operation_expand": "expanding", "operation_shrink": "shrinking", "operation_update": "updating"}


def shown_status(state: Json, health: dict[str, str], forced: bool) -> Json:
    keys = ("type", "id", "state", "created", "progress")
    running = [entry for entry in state["operations"] if entry["state"] not in ("completed", "failed")]
    ended = [entry for entry in state["operations"] if entry["state"] in ("completed", "failed")]
    degraded = forced or any(entry != "healthy" for entry in health.values())
    nodes = []
    for node in state["nodes"]:
        reported = {"hostname": node["hostname"], "advertise_ip": node["ip"], "role": node["role"]}
        reported |= {"profile": node["profile"], "status": health.get(node["ip"], "offline")}
        if reported["status"] != "healthy":
            reported["failed_probes"] = ["node is not ready"]
        nodes.append(reported)
    if forced:
        nodes[0] |= {"status": "degraded", "failed_probes": ["etcd cluster is unhealthy"]}
    cluster: Json = {
        "application": {"repository": "gravitational.io", **state["application"]},
        "state": _STATES.get(running[0]["type"], "active") if running else "active",
        "domain": state["cluster"],
        "token": {"token": state["token"], "expires": "0001-01-01T00:00:00Z", "type": "expand"},
        "active_operations": [{key: entry[key] for key in keys} for entry in running],
        "endpoints": {
            "applications": {"endpoints": []},
            "cluster": {
                "auth_gateway": [f"{node['ip']}:{PORT}" for node in state["nodes"] if node["role"] == "master"],
                "ui": [f"https://{node['ip']}:{PORT}" for node in state["nodes"] if node["role"] == "master"],
            },
        },
        "Extension": None,
        "server_version": {"version": VERSION},
        "client_version": {"version": VERSION},
        "system_status": 2 if degraded else 1,
        "nodes": nodes,
    }
    if ended:
        cluster["operation"] = {key: ended[-1][key] for key in keys}
    if degraded and forced:
        # Observed: the status then has fewer keys.
        for key in ("token", "domain", "operation"):
            cluster.pop(key, None)
        cluster["state"] = "degraded"
    return {"cluster": cluster}


def leave(backend: Paper, arguments: argparse.Namespace) -> int:
    local = read(LOCAL)
    if arguments.force:
        if not local and not os.path.isdir(path("var/lib/gravity")):
            raise Error("this server is not a part of the running cluster")
        if PAPER and [node["ip"] for node in backend.load().get("nodes", [])] == [local.get("ip")]:
            with backend.change() as state:
                state.clear()
        forget_locally(backend)
        return 0
    state = backend.view() if local.get("running") else {}
    if not local:
        raise Error("no running cluster detected, please use --force flag to clean up the local state")
    if not state:
        raise Error(
            "Detected local Gravity state on the node but the cluster is inaccessible, use --force to clean it up"
        )
    if local["ip"] not in [node["ip"] for node in state["nodes"]]:
        raise Error("this server is not a part of the running cluster")
    peers = [node["ip"] for node in state["nodes"] if node["role"] == "master" and node["ip"] != local["ip"]]
    if not peers:
        forget_locally(backend)
        return 0
    answer, _ = _send_any(backend, peers, "shrink", {"token": state["token"], "ip": local["ip"]})
    if "error" in answer:
        raise Error(answer["error"])
    emit(f"launched operation \"{answer['operation']}\", use 'gravity status' to poll its progress")
    forget_locally(backend)
    return 0


def remove(backend: Paper, arguments: argparse.Namespace) -> int:
    state = backend.load()
    desired = (arguments.node,)
    node = next(
        (entry for entry in state.get("nodes", []) if entry["ip"] in desired or entry["hostname"] in desired), None
    )
    if node is None:
        raise Error(f'server "{arguments.node}" not found')
    if any(entry["state"] not in ("completed", "failed") for entry in state["operations"]):
        raise Error(f"Waiting for another operation to complete at {state['cluster']}")
    identity = launch_remove(backend, node, answers=not arguments.force)
    emit(f"launched operation \"{identity}\", use 'gravity status' to poll its progress")
    return 0


def stop(backend: Paper, arguments: argparse.Namespace) -> int:
    local = read(LOCAL)
    if not local:
        raise Error("Gravity doesn't appear to be installed on this node")
    if local.get("running"):
        backend.stop()
        write(LOCAL, json.dumps({**local, "running": False}))
    emit("Gravity services have been stopped and disabled")
    return 0


def start(backend: Paper, arguments: argparse.Namespace) -> int:
    local = read(LOCAL)
    if not local or not os.path.exists(path(PLANET)):
        raise Error("Gravity doesn't appear to be installed on this node")
    desired = arguments.advertise_addr
    if not desired:
        backend.start()
        write(LOCAL, json.dumps({**local, "running": True}))
        emit("Gravity services have been enabled and started")
        return 0
    require_address(desired)
    if desired == local["ip"]:
        raise Error(f"This node is already using advertise address {desired}")
    if local.get("running"):
        raise Error("Gravity appears to be running on this node. Please stop it first using 'gravity stop'")
    if local.get("role") != "master" or len(local["peers"]) > 1:
        raise Error("Only single-node clusters can be reconfigured")
    state = backend.load() if PAPER else {}
    if len(state.get("nodes", [])) > 1:
        raise Error("Only single-node clusters can be reconfigured")
    old = local["ip"]
    moved = {**local, "ip": desired, "peers": [desired], "running": True, "node": {**local["node"], "ip": desired}}
    write(LOCAL, json.dumps(moved))
    backend.move({**local["node"], "ip": desired, "hostname": hostname()}, old)
    with backend.change() as changed:
        for entry in changed["nodes"]:
            entry["ip"] = desired if entry["ip"] == old else entry["ip"]
            entry["hostname"] = hostname()
        changed["operations"].append(new_operation("operation_reconfigure", "completed"))
    emit("The node has been reconfigured")
    return 0


# Resources that the tests use, and what their spec must have.
RESOURCES = {"authgateway": ("public_addr",), "user": ("type", "password", "roles")}


def resource(backend: Paper, arguments: argparse.Namespace) -> int:
    state = backend.load()
    if arguments.verb == "get":
        document = state.get(arguments.what) or {}
        emit(json.dumps([document] if document else []))
        return 0
    with open(arguments.what, encoding="utf-8") as stream:
        desired = json.load(stream)
    required = RESOURCES.get(desired.get("kind", ""))
    if required is None:
        raise Error(f"unsupported resource {desired.get('kind')!r}, supported are: {', '.join(sorted(RESOURCES))}")
    if missing := [key for key in required if not desired.get("spec", {}).get(key)]:
        raise Error(f"{desired['kind']}: spec.{missing[0]} is missing")
    if desired["kind"] == "authgateway" and any(
        entry["state"] not in ("completed", "failed") for entry in state["operations"]
    ):
        raise Error("authgateway can be updated on active clusters only")
    if state.get(desired["kind"]) and not arguments.force:
        raise Error(f"{desired['kind']} already exists")
    with backend.change() as changed:
        changed[desired["kind"]] = desired
    if desired["kind"] == "authgateway":
        backend.announce(desired["spec"]["public_addr"])
    emit(f"Created {desired['kind']}")
    return 0


def upload(backend: Paper, arguments: argparse.Namespace) -> int:
    with open("app.yaml", encoding="utf-8") as stream:
        manifest = json.load(stream)
    with backend.change() as state:
        state["uploaded"] = manifest["metadata"]
    emit(f"{manifest['metadata']['name']}:{manifest['metadata']['version']} has been uploaded")
    return 0


def upgrade(backend: Paper, arguments: argparse.Namespace) -> int:
    if "uploaded" not in backend.load():
        raise Error("no application has been uploaded")
    identity = launch(backend, "operation_update", "update_in_progress")
    backend.spawn("upgrade", identity)
    emit(f"updating the cluster, operation ({identity}) has been started in background")
    return 0


def report(backend: Paper, arguments: argparse.Namespace) -> int:
    import tarfile

    with tarfile.open(arguments.file, "w:gz") as archive:
        for name in (PLANET, "var/log/gravity-install.log"):
            if os.path.exists(path(name)):
                archive.add(path(name), os.path.basename(name))
    return 0


def registry(backend: Paper, arguments: argparse.Namespace) -> int:
    if not read(LOCAL).get("running"):
        raise Error("no cluster found on this node")
    rows = backend.images()
    lines = [f"{row['repository']}   {', '.join(row['tags'])}" for row in rows]
    emit(json.dumps(rows) if arguments.format == "json" else "\n".join(["Image   Tags", *lines]))
    return 0


def agent(backend: Paper, arguments: argparse.Namespace) -> int:
    """Set the routes to pods of other nodes; on masters, also serve the requests of nodes, the API and the registry."""
    import http.server
    import ssl

    one_by_one = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            try:
                if self.path == "/clean":
                    answer = {"error": "bad secret token"}
                    if request.get("token") == read(LOCAL)["secret"]:
                        backend.spawn("clean")
                        answer = {}
                elif self.path == "/routes":
                    answer = {"error": "bad secret token"}
                    if isinstance(backend, Machines) and request.get("token") == read(LOCAL)["secret"]:
                        answer = {"routes": routes(backend)}
                elif self.path == "/webapi/login":
                    answer = log_in(backend, request)
                elif self.path in ("/state", "/health"):
                    answer = Site(backend).answer(self.path.strip("/"), request)
                else:
                    with one_by_one:
                        answer = Site(backend).answer(self.path.strip("/"), request)
            except (Error, KeyError, subprocess.TimeoutExpired) as error:
                answer = {"wait": f"Cluster is degraded, waiting: {error}"}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # the library's name
            return

    # The routing tables are empty after a boot.
    sh("nft", "--file", "-", stdin=MASQUERADE.format(pods=read(LOCAL)["options"]["pods"]))
    server = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Handler)  # a node of a test network
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki = "/etc/kubernetes/pki/apiserver" if os.path.exists(Machines.ADMIN) else "/var/lib/kubelet/pki/kubelet"
    context.load_cert_chain(pki + ".crt", pki + ".key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if os.path.exists(Machines.ADMIN):
        images = planet.serve(pki + ".crt", pki + ".key")
        threading.Thread(target=images.serve_forever, daemon=True).start()
        words = (read(LOCAL)["ip"], pki + ".crt", pki + ".key", planet.CA)
        threading.Thread(target=api.serve, args=words, daemon=True).start()
    while True:
        with contextlib.suppress(Error, KeyError, OSError, subprocess.TimeoutExpired):
            _route(backend)
            planet.trust(backend.leader())
        time.sleep(4)


def log_in(backend: Paper, request: Json) -> Json:
    """Return a kubeconfig for the user and password of `tsh login`."""
    user = backend.load().get("user") or {}
    password = (user.get("spec") or {}).get("password") or ""
    is_known = bool(password) and user["metadata"]["name"] == request.get("user")
    if not is_known or not secrets.compare_digest(password, str(request.get("password"))):
        return {"error": "access denied: bad username or password"}
    return {"kubeconfig": backend.account(request["user"])}


def routes(backend: Machines) -> list[list[str]]:
    """Return the pod range and address of each node."""
    return [
        [entry["spec"]["podCIDR"], entry["metadata"]["name"]]
        for entry in backend.nodes()
        if entry["spec"].get("podCIDR")
    ]


def _route(backend: Paper) -> None:
    local = read(LOCAL)
    assert isinstance(backend, Machines)
    if os.path.exists(Machines.ADMIN):
        desired = routes(backend)
    else:
        answer, _ = _send_any(backend, local["peers"], "routes", {"token": local["secret"]})
        desired = answer["routes"]
    routes_of_node = sh("ip", "route", "show", "proto", ROUTES)
    for pods, address in desired:
        if address != local["ip"] and f"{pods} via {address} " not in routes_of_node:
            sh("ip", "route", "replace", pods, "via", address, "proto", ROUTES)
    for line in routes_of_node.splitlines():
        pods, _, address = line.split()[:3]
        if [pods, address] not in desired:
            sh("ip", "route", "delete", pods, "proto", ROUTES)


# --- the command line ------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Error(message)


def parser() -> Parser:
    root = Parser(prog="gravity")
    for flag in ("--debug", "--quiet", "-q", "--insecure"):
        root.add_argument(flag, action="store_true")
    root.add_argument("--state-dir")
    commands = root.add_subparsers(dest="command", required=True)

    def add(name: str, function: Callable[[Paper, argparse.Namespace], int], *names: str) -> Parser:
        entry: Parser = commands.add_parser(name, aliases=list(names))
        entry.set_defaults(function=function)
        return entry

    entry = add("check", check)
    entry.add_argument("manifest", nargs="?", default="app.yaml")
    for flag in ("--profile", "--image-path", "--timeout"):
        entry.add_argument(flag)
    entry.add_argument("--autofix", action="store_true")
    entry = add("install", install)
    entry.add_argument("path", nargs="?", default=".")
    entry.add_argument("--cluster", default="cluster.local")
    for flag in ("cloud-provider", "advertise-addr", "token", "flavor", "role", "vxlan-port", "service-uid", "config"):
        entry.add_argument(f"--{flag}")
    entry.add_argument("--pod-network-cidr", default="100.96.0.0/16")
    entry.add_argument("--service-cidr", default="100.100.0.0/16")
    entry = add("join", join)
    entry.add_argument("peers")
    for flag in ("advertise-addr", "token", "role", "mount", "cloud-provider"):
        entry.add_argument(f"--{flag}")
    entry = add("status", status)
    # Here -o is the operation; in other commands it is the output format.
    entry.add_argument("-o", "--operation-id")
    entry.add_argument("--output", choices=["text", "json"], default="text")
    entry.add_argument("--token", action="store_true")
    entry.add_argument("--quiet", "-q", action="store_true")
    entry = add("leave", leave)
    entry.add_argument("--force", action="store_true")
    entry.add_argument("--confirm", action="store_true")
    entry = add("remove", remove)
    entry.add_argument("node")
    entry.add_argument("--force", action="store_true")
    entry.add_argument("--confirm", action="store_true")
    entry = add("stop", stop)
    entry.add_argument("--confirm", action="store_true")
    entry = add("start", start)
    entry.add_argument("--advertise-addr")
    entry.add_argument("--confirm", action="store_true")
    entry = add("resource", resource)
    entry.add_argument("verb", choices=["create", "get"])
    entry.add_argument("what")
    entry.add_argument("--format")
    entry.add_argument("-f", "--force", action="store_true")
    entry = add("update", upload)
    entry.add_argument("verb", choices=["upload"])
    add("upgrade", upgrade).add_argument("image", nargs="?")
    entry = add("registry", registry)
    entry.add_argument("verb", choices=["list"])
    entry.add_argument("--format", choices=["text", "json", "yaml"], default="text")
    add("resume", resume)
    add("autojoin", lambda backend, arguments: _raise("autojoin only supports AWS")).add_argument("cluster")
    add("report", report).add_argument("--file", default="report.tar.gz")
    entry = add("version", lambda backend, arguments: _print_version(arguments))
    entry.add_argument("-o", "--output", default="text")
    add("_agent", agent)
    return root


def _raise(text: str) -> NoReturn:
    raise Error(text)


def _print_version(arguments: argparse.Namespace) -> int:
    reported = named_fault("version")
    version = reported["version"] if reported else VERSION
    emit(json.dumps({"edition": "open-source", "version": version}) if arguments.output == "json" else version)
    return 0


def expanded(argv: list[str]) -> list[str]:
    """Replace arguments of the form @FILE by the lines of the file, as kingpin does, the parser of Gravity."""
    words: list[str] = []
    for word in argv:
        if not word.startswith("@"):
            words.append(word)
            continue
        try:
            with open(word[1:], encoding="utf-8") as stream:
                words += [line for line in stream.read().splitlines() if not line.startswith("#")]
        except OSError as error:
            raise Error(str(error)) from None
    return words


def main(argv: list[str]) -> int:
    backend: Paper = Paper() if PAPER else Machines()
    try:
        if not PAPER and os.geteuid() != 0:
            raise Error("this command should be run as root")
        argv = expanded(argv)
        if argv[:1] == ["exec"]:
            words = argv[1:]
            while words[:1] in (["-t"], ["-i"]):
                words = words[1:]
            return backend.execute(words, "-i" in argv[1:3])
        if argv[:1] == ["_work"]:
            work(backend, argv[1:])
            return 0
        arguments = parser().parse_args(argv)
        if argv[:1] == ["install"]:
            write(BEGUN, json.dumps({"argv": argv, "cwd": os.getcwd()}))
        if not argv[0].startswith("_"):
            fail_on_demand(argv[0])
        result: int = arguments.function(backend, arguments)
        return result
    except Error as error:
        sys.stdout.flush()
        print(f"\x1b[31m[ERROR]: {error}\x1b[0m", file=sys.stderr)
        return error.code
