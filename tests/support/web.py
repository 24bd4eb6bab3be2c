"""A small application in a cluster: a pod that answers with its name, a client pod, a Service with a NodePort."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.commands import Typed

VERSIONS = Path(__file__).resolve().parents[2] / "configs" / "versions.yml"
IMAGE = f"devenv.lab/probe:{yaml.safe_load(VERSIONS.read_text())['probe']}"

APP = """
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: web}}}}
spec:
  nodeName: {server}
  containers: [{{name: web, image: {image}, imagePullPolicy: Never, command: [httpd, -f, -p, "8080", -h, /www]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  nodeName: {client}
  containers: [{{name: sleep, image: {image}, imagePullPolicy: Never, command: [sleep, "36000"]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  # As many families as the cluster has.
  ipFamilyPolicy: PreferDualStack
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
"""


def deploy(user: Typed, name: str, folder: Path, *, server: str, client: str) -> None:
    """Deploy the application in the environment ``name``, with its pods on these nodes, and wait until it is ready."""
    manifest = folder / "app.yml"
    manifest.write_text(APP.format(image=IMAGE, server=server, client=client))
    user.kubectl(name, "apply", "-f", str(manifest))
    user.kubectl(name, "wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=120s")


def node_port(user: Typed, name: str) -> int:
    """Return the port of the application on every node."""
    return int(user.kubectl(name, "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}").stdout)


def url(place: str) -> str:
    """Return the URL at which the server answers with its name; ``place`` is ``address:port``, IPv6 in brackets."""
    return f"http://{place}/cgi-bin/hostname"


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def from_host(user: Typed, place: str) -> str:
    """Return the answer at ``place``; retries, since nodes do not learn of a Service at the same moment."""
    patience = ("--retry", "10", "--retry-delay", "1", "--retry-connrefused")
    argv = ("/usr/bin/curl", "-sS", "--noproxy", "*", "--max-time", "10", *patience, url(place))
    return user.run(*argv).stdout.strip()
