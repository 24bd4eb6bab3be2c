"""An ssh server on port 2222 that sees the network of a host, and the names of its cluster or of docker.

The host plugin SSH connects to it. The server is the host's own sshd in a container, with the host's key and the keys
that the host accepts, so neither an image nor a key has to be created.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from devenv.testing.errors import NotAvailable, TestingError
from devenv.testing.plugins.ssh import SshDirect

if TYPE_CHECKING:
    from devenv.testing.objects import Cluster, Host

PORT = 2222
NAME = "devenv-proxy"
# Folders of the host in the container, and where the container has its own files.
FOLDERS = ("/bin", "/lib", "/lib64", "/sbin", "/usr")
CONFIG = f"/etc/{NAME}"
_OPTIONS = {
    "AuthorizedKeysFile": f"{CONFIG}/authorized_keys",
    "PasswordAuthentication": "no",
    "PermitRootLogin": "prohibit-password",
    "PidFile": "none",
    # Kubernetes mounts files with the permissions that it chooses.
    "StrictModes": "no",
    "Subsystem": "sftp internal-sftp",
    "UsePAM": "no",
}
_SSHD = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(PORT)]


class SSH(SshDirect):
    """SshDirect into the proxy of the host (ProxyDaemonSet or ProxyContainer), as root."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        # The proxy has the key of the host, which ssh knows by this name.
        known_as = host.ip if host.port == 22 else f"[{host.ip}]:{host.port}"
        options = (*self.connection.options, "-o", f"HostKeyAlias={known_as}")
        self.connection = replace(self.connection, user="root", port=PORT, options=options)


@dataclass(frozen=True)
class Server:
    """The sshd of a host: its private keys (paths there), and the public keys that it accepts from the host's user."""

    host_keys: tuple[str, ...]
    accepted: str

    @property
    def folders(self) -> list[str]:
        """The folders of the host that its sshd needs in a container."""
        return [*FOLDERS, *dict.fromkeys(str(Path(key).parent) for key in self.host_keys)]

    @property
    def command(self) -> list[str]:
        """The command of a container."""
        keys = [word for key in self.host_keys for word in ("-h", key)]
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        line = shlex.join([*_SSHD, *keys, *options])
        return ["/bin/sh", "-c", f"mkdir -p -m 755 /run/sshd && exec {line}"]


def server_of(host: Host) -> Server:
    """Return the sshd of a host. Raises NotAvailable if it accepts no key."""
    user = host.SshDirect.connection.user
    words = ["/usr/sbin/sshd", "-T", "-C", f"user={user},host=localhost,addr=127.0.0.1"]
    rows = [line.partition(" ") for line in host.SshDirect.execute(words, sudo=True).splitlines()]
    home = host.SshDirect.execute(["getent", "passwd", user]).split(":")[5]
    paths = [path for key, _, value in rows if key == "authorizedkeysfile" for path in value.split()]
    files = [str(Path(home, path.replace("%h", home).replace("%u", user))) for path in paths]
    accepted = host.SshDirect.run(["cat", *files], sudo=True).stdout.strip()
    if not accepted:
        raise NotAvailable(f"{host.name}: accepts no key, which a proxy needs")
    return Server(tuple(value for key, _, value in rows if key == "hostkey"), accepted)


class ProxyDaemonSet:
    """A proxy on each node of a cluster. `host.SSH` of its hosts connects to it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def run(self, image: str = "", *, timeout: float = 120) -> None:
        """Start the proxy on all nodes and wait until it is ready. ``image``: any that the nodes have or can pull, by
        default one that they all have.
        """
        manifest = self._manifest(image or self._image())
        self._cluster.Kubectl.apply({"kind": "List", "items": manifest})
        self._cluster.Kubectl.rollout(f"daemonset/{NAME}", timeout=timeout)

    def kill(self, *, timeout: float = 120) -> None:
        """Remove the proxy and wait until it is gone."""
        words = ["delete", f"daemonset/{NAME}", f"configmap/{NAME}", "--ignore-not-found", "--cascade=foreground"]
        self._cluster.Kubectl.command(*words, timeout=timeout)

    def restart(self) -> None:
        """Remove the proxy and start it again."""
        self.kill()
        self.run()

    @property
    def running(self) -> bool:
        """Whether the proxy is ready on all nodes."""
        words = ["get", f"daemonset/{NAME}", "--ignore-not-found", "--output=jsonpath={.status}"]
        status: dict[str, int] = yaml.safe_load(self._cluster.Kubectl.command(*words)) or {}
        return 0 < status.get("desiredNumberScheduled", 0) == status.get("numberReady", 0)

    def ping(self) -> None:
        if not self.running:
            raise NotAvailable(f"{self._cluster.name}: has no proxy")

    def verify_functionality(self) -> None:
        """Run a command in the proxy of each host."""
        for host in self._cluster.hosts.values():
            host.SSH.verify_functionality()

    def _image(self) -> str:
        """Return the smallest image that all nodes have."""
        sizes: list[dict[str, int]] = [
            {image.names[-1]: image.size_bytes for image in node.status.images if image.names}
            for node in self._cluster.Kubectl.get_nodes()
        ]
        common = set.intersection(*map(set, sizes))
        if not common:
            raise TestingError(f"{self._cluster.name}: no image is on all nodes; name one")
        return min(common, key=lambda name: sizes[0][name])

    def _manifest(self, image: str) -> list[dict[str, Any]]:
        config, daemonset = _parts()
        servers = [server_of(host) for host in self._cluster.hosts.values()]
        config["data"]["authorized_keys"] = "".join(f"{keys}\n" for keys in {server.accepted: 0 for server in servers})
        pod = daemonset["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        container |= {"image": image, "command": servers[0].command}
        for folder in servers[0].folders:
            name = folder.strip("/").replace("/", "-")
            pod["volumes"].append({"name": name, "hostPath": {"path": folder}})
            container["volumeMounts"].append({"name": name, "mountPath": folder, "readOnly": True})
        return [config, daemonset]


class ProxyContainer:
    """A proxy in a container of docker on a host. `host.SSH` connects to it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def run(self) -> None:
        """Start the proxy, again if it runs, and wait until it answers."""
        self.kill()
        server, passwd = server_of(self._host), _parts()[0]["data"]["passwd"]
        ssh, docker = self._host.SshDirect, self._host.Docker
        for name, content in (("authorized_keys", f"{server.accepted}\n"), ("passwd", passwd)):
            ssh.execute(f"mkdir -p {CONFIG} && cat > {CONFIG}/{name}", stdin=content, sudo=True)
        # An image without files: all that the container runs is the host's.
        docker.command("import", "-", NAME, stdin=bytes(10240))
        mounts = [f"{folder}:{folder}:ro" for folder in (*server.folders, CONFIG)] + [f"{CONFIG}/passwd:/etc/passwd:ro"]
        docker.command(
            "run", "--detach", f"--name={NAME}", "--network=host", "--tmpfs=/root", "--tmpfs=/tmp",
            *(f"--volume={mount}" for mount in mounts), NAME, *server.command,
        )  # fmt: skip
        self._host.SSH.ping()

    def kill(self) -> None:
        """Remove the proxy."""
        self._host.Docker.remove(NAME)
        self._host.SshDirect.execute(["rm", "-rf", CONFIG], sudo=True)

    def restart(self) -> None:
        """Remove the proxy and start it again."""
        self.run()

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        return self._host.Docker.is_running(NAME)

    def ping(self) -> None:
        if not self.running:
            raise NotAvailable(f"{self._host.name}: has no proxy")

    def verify_functionality(self) -> None:
        """Run a command in the proxy."""
        self._host.SSH.verify_functionality()


def _parts() -> list[Any]:
    return list(yaml.safe_load_all(Path(__file__).with_name("proxy.yml").read_text()))
