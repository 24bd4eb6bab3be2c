"""Hosts for tests of the provider `existing`: containers with Debian, systemd and ssh, and nothing of devenv."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists

from support.commands import ROOT

SUBNET = "198.18.{}.0/24"
OTHER_PORT = 2222
# Folders that cannot be in a container's own root: overlay on overlay fails.
DATA = ("containerd", "etcd", "kubelet")
# The state of a host as lines to compare: files (except those that change on their own, for example with each login),
# settings, firewall.
SHOW = r"""
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log/journal \
  -o -path /var/lib/systemd -o -path /root/.ansible -o -path /var/lib/containerd -o -path /var/lib/etcd \
  -o -path /var/lib/kubelet -o -path '/home/*/.ansible' -o -path /var/lib/sudo -o -path '/var/log/[bw]tmp' \
  -o -path /var/log/lastlog \) -prune -o ! -type d -printf '%p %y %m %s\n' | grep -v '/__pycache__/' | sort
find /var/lib/containerd /var/lib/etcd /var/lib/kubelet /etc/kubernetes /etc/cni /var/lib/devenv 2> /dev/null | sort
cat /etc/hosts
sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding vm.overcommit_memory kernel.panic kernel.panic_on_oops
nft list ruleset
ip -4 route show; ip -6 route show | grep -v fe80
systemctl list-unit-files --state=enabled --no-legend
pgrep -l 'containerd|kubelet|etcd|kube|haproxy' || echo none
"""


@dataclass(frozen=True)
class Host:
    """A host and its ssh connection."""

    name: str
    address: str
    key_file: Path
    known_hosts: Path
    user: str = "root"
    port: int = 22
    by_agent: bool = False

    @property
    def profile(self) -> dict[str, object]:
        """The host in a profile, without the key if an agent has it."""
        return {
            "addresses": [self.address],
            "port": self.port,
            **({} if self.by_agent else {"key_file": str(self.key_file)}),
            "known_hosts": str(self.known_hosts),
            "user": self.user,
            "become": self.user != "root",
        }

    def sh(self, script: str) -> str:
        """Run a shell script on the host and return its output."""
        done = subprocess.run(
            ["podman", "exec", "--interactive", self.name, "sh"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shown(self) -> list[str]:
        """Return the host's state, which has to be the same in the end."""
        return self.sh(SHOW).splitlines()


def with_sudo(host: Host, user: str, folder: Path) -> Host:
    """Return the host reached as ``user``, who becomes root with Debian's sudo without a password."""
    # Another apt may run: wait for its lock.
    options = ("-o", "DPkg::Lock::Timeout=300", "-o", f"Dir::Cache::archives={folder}")
    fetch = ("apt-get", "-qq", *options, "install", "--download-only", "--reinstall", "-y")
    if subprocess.run([*fetch, "sudo"], capture_output=True, check=False).returncode != 0:
        # The package lists are old or missing.
        _run("apt-get", "-qq", "update")
        _run(*fetch, "sudo")
    (package,) = folder.glob("sudo_*.deb")
    _run("podman", "cp", str(package), f"{host.name}:/root/sudo.deb")
    host.sh(rf"""
        set -e
        dpkg -i /root/sudo.deb
        rm /root/sudo.deb
        # An invalid password instead of a locked account.
        useradd --create-home --shell /bin/bash --password '*' {user}
        # Otherwise sudo looks up the host's own name, which no server here has, and waits five seconds.
        printf 'Defaults !fqdn\n{user} ALL=(ALL) NOPASSWD: ALL\n' > /etc/sudoers.d/{user}
        chmod 440 /etc/sudoers.d/{user}
    """)
    return replace(host, user=user)


def with_other_port(host: Host) -> Host:
    """Let the host's ssh server also listen on another port, and return the host reached there."""
    host.sh(f"""
        set -e
        printf 'Port 22\nPort {OTHER_PORT}\n' > /etc/ssh/sshd_config.d/ports.conf
        systemctl restart ssh
    """)
    return replace(host, port=OTHER_PORT)


@contextlib.contextmanager
def agent(key_file: Path, folder: Path) -> Iterator[None]:
    """Run an ssh agent with one key for the programs that start meanwhile."""
    socket = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SSH_AUTH_SOCK", str(socket))
                end = time.monotonic() + 30
                while not socket.exists():
                    assert time.monotonic() < end, "ssh-agent does not start"
                    time.sleep(0.1)
                _run("ssh-add", "-q", str(key_file))
                yield
        finally:
            process.terminate()


def root_image() -> str:
    """Return the Debian root of the node image with the role's defaults; it has no binaries of the bundle."""
    role = ROOT / "collections/ansible_collections/devenv/lab/roles/node_image"
    defaults, variables = (yaml.safe_load((role / part / "main.yml").read_text()) for part in ("defaults", "vars"))
    sources = variables["__node_image_files"].items()
    recipe = Recipe(
        suite=defaults["node_image_suite"],
        mirror="",
        packages=variables["__node_image_packages"],
        masked=variables["__node_image_masked"],
        files={target: Path(source.replace("{{ role_path }}", str(role))) for target, source in sources},
    )
    reference = node_image.root_reference(recipe)
    assert image_exists(reference), f"{reference} is missing: no environment was created on this machine yet"
    return reference


def address_of(third: int, number: int) -> str:
    """Return the address ``number`` of the network of `hosts`."""
    return SUBNET.format(third).replace(".0/24", f".{number}")


@contextlib.contextmanager
def load_balancer(prefix: str, address: str, targets: Sequence[str], folder: Path) -> Iterator[str]:
    """Run haproxy at ``address`` of the network of `hosts`, in front of port 6443 of ``targets``."""
    servers = "\n".join(f"  server api{number} {target}:6443 check" for number, target in enumerate(targets))
    (folder / "haproxy.cfg").write_text(f"""
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
frontend api
  bind :6443
  default_backend api
backend api
{servers}
""")
    name = f"{prefix}-balancer"
    _run(
        "podman", "run", "--detach", "--name", name, f"--network={prefix}:ip={address}",
        *node_image.runtime_flags(), f"--volume={folder}:/balancer:ro",
        root_image(), "/usr/sbin/haproxy", "-f", "/balancer/haproxy.cfg",
    )  # fmt: skip
    try:
        yield address
    finally:
        _run("podman", "rm", "--force", "--time", "0", name)


@contextlib.contextmanager
def hosts(prefix: str, count: int, folder: Path, third: int) -> Iterator[list[Host]]:
    """Create ``count`` hosts that answer ssh, on their own network ``198.18.<third>.0/24``; remove them afterwards."""
    subnet = SUBNET.format(third)
    names: list[str] = []
    _run("podman", "network", "create", "--subnet", subnet, "--label", "devenv-test=hosts", prefix)
    try:
        created = []
        key = folder / "id_ed25519"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        for number in range(count):
            host = Host(f"{prefix}-{number}", subnet.replace(".0/24", f".{20 + number}"), key, folder / "known_hosts")
            names.append(host.name)
            _make(host, prefix, folder / host.name)
            created.append(host)
        for host in created:
            _wait(host)
        yield created
    finally:
        if names:
            subprocess.run(
                ["podman", "rm", "--force", "--ignore", "--time", "5", *names], capture_output=True, check=True
            )
        _run("podman", "network", "rm", "--force", prefix)


def _make(host: Host, network: str, folder: Path) -> None:
    ssh = folder / "ssh"
    ssh.mkdir(parents=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / "ssh_host_ed25519_key"))
    (ssh / "authorized_keys").write_text(host.key_file.with_suffix(".pub").read_text())
    with host.known_hosts.open("a") as stream:
        stream.write(f"{host.address},[{host.address}]:{OTHER_PORT} {(ssh / 'ssh_host_ed25519_key.pub').read_text()}")
    volumes = []
    for name in DATA:
        (folder / name).mkdir()
        volumes.append(f"--volume={folder / name}:/var/lib/{name}")
    _run(
        "podman", "run", "--detach", "--name", host.name, "--hostname", host.name, *node_image.runtime_flags(),
        "--systemd=always", "--stop-signal=SIGRTMIN+3", "--tmpfs=/run:rw,mode=755", "--tmpfs=/tmp:rw,mode=1777",
        "--no-hosts", f"--network={network}:ip={host.address}", "--env=DEVENV_FAMILIES=ipv4",
        f"--volume={ssh}:/etc/devenv/ssh:ro", *volumes, root_image(), "/usr/local/sbin/node-init",
    )  # fmt: skip


def _wait(host: Host, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    options = ["-o", f"UserKnownHostsFile={host.known_hosts}", "-o", "BatchMode=yes", "-i", str(host.key_file)]
    argv: Sequence[str] = ["ssh", *options, f"root@{host.address}", "systemctl is-system-running --wait || :"]
    while subprocess.run(argv, capture_output=True, check=False, timeout=seconds).returncode != 0:
        assert time.monotonic() < end, f"{host.name} does not answer ssh"
        time.sleep(0.3)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
