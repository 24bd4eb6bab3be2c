"""Recipes of the images that devenv builds itself, under the official names, from static programs or Debian files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import debian, oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import File, Image, describe
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.oci import Entry, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import IMAGES, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOBODY = "65532:65532"
# Like the official program, it prints its version and exits: `kubeadm upgrade` checks that way whether Jobs run.
_PAUSE = b"""#!/bin/busybox sh
[ "$1" != -v ] || { echo pause; exit 0; }
exec /usr/bin/catatonit -P
"""
_PROBE = {
    "Env": [_PATH],
    # The init forwards SIGTERM: as PID 1 the server would ignore it, and a pod would use its whole grace period.
    "Entrypoint": ["/usr/bin/catatonit", "--"],
    "Cmd": ["httpd", "-f", "-p", "8080", "-h", "/www"],
    "ExposedPorts": {"8080/tcp": {}},
    "User": _NOBODY,
    "WorkingDir": "/tmp",
}
_IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")


def build(short_names: Iterable[str], folder: Path, versions: Versions, root: debian.Root, arch: str,
          progress: Progress) -> tuple[list[File], list[Image]]:  # fmt: skip
    """Write ``folder/images/<short name>.tar`` for each name, with programs from ``folder/bin``; return the rows."""
    (folder / "images").mkdir(exist_ok=True)
    files, images = [], []
    for short in short_names:
        spec = recipe(short, folder / "bin", versions, root)
        path = f"images/{short}.tar"
        progress(f"images: {spec.name}")
        digest = oci.build(spec, folder / path, arch)
        files.append(describe(folder, path, spec.name.rpartition(":")[2], _origin(short, root)))
        images.append(Image(spec.name, digest, path))
    return files, images


def required_by(kubeadm: Path, version: str) -> list[str]:
    """Return the images that ``kubeadm`` lists for Kubernetes ``version`` (needs no network).

    Raises DevenvError ``bundle_build`` if it cannot be run.
    """
    argv = [str(kubeadm), "config", "images", "list", "--kubernetes-version", f"v{version}"]
    try:
        return process.run(argv, timeout=60).stdout.split()
    except (OSError, process.ProgramFailed) as error:
        raise DevenvError("bundle_build", f"kubeadm cannot be run: {error}") from None


def programs_in(short: str) -> dict[str, str]:
    """Return the binaries of the bundle in an image, each with its path in the image."""
    programs: dict[str, str] = data.read(IMAGES)[short].get("programs", {})
    return programs


def recipe(short: str, programs: Path, versions: Versions, root: debian.Root) -> Spec:
    """Return the image with the short name ``short`` (a key of ``Versions.images``)."""
    name = versions.images[short]
    if short == "pause":
        entries = [*debian.files(root, ["bin/busybox", "usr/bin/catatonit"]), Entry("pause", 0o755, data=_PAUSE)]
        return Spec(name, (*_base(), *entries), {"Entrypoint": ["/pause"], "User": "65535:65535"})
    if short == "probe":
        return Spec(name, (*_base(), *_probe(versions, root)), _PROBE)
    entries = [Entry(path, source=programs / program) for program, path in programs_in(short).items()]
    config: dict[str, Any] = {"Env": [_PATH]}
    if short == "local-path-provisioner":
        config.update(Cmd=["local-path-provisioner"])
    if short == "metrics-server":
        config.update(Entrypoint=["/metrics-server"], User="65534")
    if short == "coredns":
        # An unprivileged user, like the official image; the runtime lets it bind port 53.
        config.update(Entrypoint=["/coredns"], User=_NOBODY, WorkingDir="/")
        entries.append(Entry("etc/ssl/certs/ca-certificates.crt", 0o644, data=debian.certificates(root)))
    if short == "kube-proxy":
        entries += _packet_filters(root)
    return Spec(name, (*_base(), *entries), config)


def _base() -> list[Entry]:
    """Return the entries of every image: names of users, a folder for temporary files."""
    passwd = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
    return [
        Entry("etc/passwd", 0o644, data=passwd.encode()),
        Entry("etc/group", 0o644, data=b"root:x:0:\nnonroot:x:65532:\n"),
        Entry("etc/nsswitch.conf", 0o644, data=b"hosts: files dns\n"),
        Entry("tmp", 0o1777),
    ]


def _packet_filters(root: debian.Root) -> list[Entry]:
    """Return iptables (on nftables, Debian's default), nft and conntrack, for kube-proxy in any of its modes."""
    # iptables loads its extensions by name at run time, so the loader does not list them.
    extensions = [str(file.relative_to(root.path)) for file in sorted(root.path.glob("usr/lib/*/xtables/*.so"))]
    programs = ["usr/sbin/nft", "usr/sbin/conntrack", "usr/sbin/xtables-nft-multi"]
    links = [Entry(f"usr/sbin/{name}", link="xtables-nft-multi") for name in _IPTABLES]
    names = ["etc/protocols", "etc/services", "etc/ethertypes"]
    present = [name for name in names if (root.path / name).is_file()]
    return [*debian.files(root, [*programs, *extensions, *present]), *links]


def _probe(versions: Versions, root: debian.Root) -> list[Entry]:
    busybox = root.path / "bin/busybox"
    applets = process.run([str(busybox), "--list-full"]).stdout.split()
    links = [Entry(path, link="/bin/busybox") for path in applets if path != "bin/busybox"]
    page = f"devenv probe {versions.probe}\n"
    script = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nhostname\n"
    return [
        *links,
        *debian.files(root, ["bin/busybox", "usr/bin/catatonit", "usr/bin/curl", "etc/protocols", "etc/services"]),
        Entry("etc/ssl/certs/ca-certificates.crt", 0o644, data=debian.certificates(root)),
        Entry("www/index.html", 0o644, data=page.encode()),
        Entry("www/cgi-bin/hostname", 0o755, data=script.encode()),
    ]


def _origin(short: str, root: debian.Root) -> str:
    """Return the programs and Debian packages that an image is built from."""
    programs = [f"bin/{program}" for program in programs_in(short)]
    packages = {
        "kube-proxy": ("conntrack", "iptables", "nftables"),
        "pause": ("busybox-static", "catatonit"),
        "probe": ("busybox-static", "catatonit", "curl"),
    }
    return ", ".join([*programs, *(f"Debian {name} {root.packages.get(name, '')}" for name in packages.get(short, ()))])
