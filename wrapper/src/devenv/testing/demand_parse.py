"""From the arguments of the decorator to a Demand.

Keys of a host are those of the original decorator and of a profile's node. All mistakes are reported at once, before
any machine is created; the test's own dictionaries are never changed.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue as snapshots

from devenv.testing.demand import NODE_TYPE_LABEL, ClusterDemand, Demand, DemandError, HostDemand, check
from devenv.testing.installers import catalogue as installers
from devenv.testing.installers import machines
from devenv.testing.installers.machines import HARDWARE_TYPES, IMAGES, BaseImage, HardwareType
from devenv.testing.installers.project import FILE
from devenv.testing.registry import Registry

ARGUMENTS = ("hardware", "grouping", "scope", "timeout")
SCOPES = ("function", "module", "session")
# Keys of a profile's node, used unchanged.
NODE_KEYS = ("cpus", "memory", "disk", "labels", "taints", "schedulable")
# Sizes in GiB, as resource managers of virtual machines name them, to keys of a node.
SIZES = {"ram": "memory", "size": "disk"}
# Criteria that only a remote allocator supports.
REMOTE_KEYS = ("gpu", "gpus", "networks", "disks", "image", "instance_type", "arch")
NEEDS_ALLOCATOR = "needs an allocator that has it, by --provisioner or --hardware"
# Another word for the key installer.
ALIAS = "installer_type"
HOST_KEYS = (
    "base_image", "hardware_type", "installer", ALIAS, "k3s_config", "node_type", "role", *NODE_KEYS, *SIZES,
    *REMOTE_KEYS,
)  # fmt: skip
CLUSTER_KEYS = ("hosts", "installer", ALIAS, "template")
K3S_KEYS = ("role", "labels", "taints")
ROLES = {"master": "master", "control_plane": "master", "node": "worker", "worker": "worker"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def parse(
    arguments: Mapping[str, Any],
    *,
    installer: str = "",
    cluster_installer: str = "",
    remote: bool = False,
    install: bool = False,
) -> Demand:
    """Return the Demand of a marker's arguments ``hardware``, ``grouping``, ``scope`` and ``timeout``.

    ``installer`` and ``cluster_installer`` are the module's defaults for hosts and clusters; ``remote``: whether the
    allocator has machines of other kinds than nodes of this machine, so that names may be known to it alone;
    ``install``: whether installers will install. Raises DemandError.
    """
    demand = _Parser(arguments, installer, cluster_installer, remote, install).parse(arguments)
    check(demand)
    return demand


class _Parser:
    """Collects mistakes in ``problems``. ``given``: keys of each host as the test has them; ``hosts``: with those of
    templates.
    """

    def __init__(
        self, arguments: Mapping[str, Any], installer: str, cluster_installer: str, remote: bool, install: bool
    ) -> None:
        self.problems = [f"hardware_config: unknown argument {key}" for key in sorted(set(arguments) - {*ARGUMENTS})]
        self.installer, self.cluster_installer, self.remote = installer, cluster_installer, remote
        # Whether the machines come with their software, whatever its name.
        self.is_prepared = remote and not install
        # Base images from which nodes of this machine can start.
        self.built = [] if remote else machines.variants()
        self.catalogue = installers.INSTALLERS.all()
        hardware, self.grouping = (self._section(name, arguments.get(name) or {}) for name in ("hardware", "grouping"))
        if "template" in hardware:
            if self.grouping:
                raise DemandError(["grouping: not possible, because hardware is a template, which is a cluster"])
            hardware, self.grouping = {}, {"cluster1": hardware}
        self.given = hardware
        self.hosts = {name: self._host_keys(name, keys) for name, keys in hardware.items()}

    def parse(self, arguments: Mapping[str, Any]) -> Demand:
        clusters = self._clusters()
        hosts = [self._host(name, keys, clusters) for name, keys in self.hosts.items()]
        engine = self._engine(clusters)
        scope, timeout = arguments.get("scope") or "", arguments.get("timeout") or 0
        if scope:
            self._check_choice("scope", scope, SCOPES)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0:
            self._problem("timeout", f"must be a number of seconds, is {_shown(timeout)}")
        if not hosts:
            self._problem("hardware", "no host is requested")
        if self.problems:
            raise DemandError(self.problems)
        names = [cluster.installer for cluster in clusters] + [host.installer for host in hosts if host.installer]
        profile = installers.profile_of(names, self.catalogue)
        return Demand(tuple(hosts), tuple(clusters), engine, profile, str(scope), float(timeout), self._snapshot())

    def _problem(self, where: str, text: str) -> None:
        self.problems.append(f"{where}: {text}")

    def _warn(self, where: str, text: str) -> None:
        try:
            warnings.warn(f"{where}: {text}", stacklevel=2)
        except Warning as warning:
            # The project turns warnings into errors.
            self.problems.append(str(warning))

    def _check_choice(self, where: str, value: Any, choices: Iterable[str]) -> bool:
        is_known = isinstance(value, str) and value in choices
        if not is_known:
            self._problem(where, f"{_shown(value)} is unknown; allowed: {', '.join(choices)}")
        return is_known

    def _check_name(self, where: str, name: Any, noun: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self._problem(where, f"is not a valid name of a {noun}; use letters, digits, - and _, a letter first")

    @staticmethod
    def _section(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise DemandError([f"{name}: must be a mapping, is {_shown(value)}"])
        return dict(value)

    # --- hosts ---

    def _host_keys(self, name: Any, keys: Any) -> dict[str, Any]:
        where = f"hardware.{name}"
        self._check_name(where, name, "host")
        if not isinstance(keys, Mapping):
            self._problem(where, f"must be a mapping of keys, is {_shown(keys)}")
            return {}
        for key in keys:
            if key not in HOST_KEYS:
                nearest = documents.nearest(str(key), HOST_KEYS)
                self._problem(where, f"unknown key {key}{f'; the nearest is {nearest}' if nearest else ''}")
            elif key in REMOTE_KEYS and keys[key] and not self.remote:
                self._problem(f"{where}.{key}", NEEDS_ALLOCATOR)
        keys = self._without_mistyped(where, keys)
        if not _is_json(keys):
            self._problem(where, "has a value that is not JSON")
        self._check_registered(f"{where}.hardware_type", keys.get("hardware_type"), HARDWARE_TYPES)
        self._check_registered(f"{where}.base_image", keys.get("base_image"), IMAGES)
        image, kind = self._machine(keys)
        for key, is_local in (("base_image", image.local), ("hardware_type", kind.local)):
            if not is_local and not self.remote:
                self._problem(f"{where}.{key}", f"{keys[key]} {NEEDS_ALLOCATOR}")
        self._check_built(f"{where}.base_image", image)
        for key, name in (("base_image", image.installer), ("hardware_type", kind.installer)):
            if name and name not in self.catalogue:
                self._problem(f"{where}.{key}", _unknown(f"its installer {name}", installers.INSTALLERS))
        return self._without_alias(where, keys)

    def _without_mistyped(self, where: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys without labels and taints of a wrong type, which cannot be merged."""
        types: Mapping[str, type] = {"labels": Mapping, "taints": Sequence}
        wrong = [key for key in types if keys.get(key) is not None and not isinstance(keys[key], types[key])]
        for key in wrong:
            self._problem(f"{where}.{key}", f"must be a {types[key].__name__.lower()}, is {_shown(keys[key])}")
        return {key: value for key, value in keys.items() if key not in wrong}

    def _check_registered(self, where: str, name: Any, registry: Registry[Any]) -> None:
        """Report an unknown name, unless it is for an allocator, which has its own."""
        built = self.built if registry is IMAGES else []
        if name is not None and not (isinstance(name, str) and (self.remote or name in [*registry.names(), *built])):
            hint = f"; build it with devenv base-image build {name}" if registry is IMAGES else ""
            self._problem(where, _unknown(_shown(name), registry, built) + hint)

    def _check_built(self, where: str, image: BaseImage) -> None:
        """Report a variant of the node image, or a snapshot, that this machine does not have."""
        variant = image.node.get("base_image")
        if variant and not self.remote and variant not in self.built:
            self._problem(where, f"needs an image that does not exist: devenv base-image build {variant}")
        if image.snapshot and not self.remote and image.snapshot not in snapshots.names(paths.home()):
            self._problem(where, f"needs a snapshot that does not exist: devenv snapshot save {image.snapshot}")

    def _snapshot(self) -> str:
        """Return the one snapshot that the base images of all hosts name, if any."""
        names = {self._machine(keys)[0].snapshot for keys in self.hosts.values()} - {""}
        if self.remote:
            return ""
        if len(names) > 1:
            text = f"an environment starts from one snapshot, but these are needed: {', '.join(sorted(names))}"
            raise DemandError([f"hardware: {text}"])
        return next(iter(names), "")

    def _without_alias(self, where: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys with ``installer`` for its other word."""
        result = {key: value for key, value in keys.items() if key != ALIAS}
        if keys.get(ALIAS) and result.setdefault("installer", keys[ALIAS]) != keys[ALIAS]:
            self._problem(f"{where}.{ALIAS}", "differs from installer, which it is another word for")
        return result

    def _host(self, name: str, keys: Mapping[str, Any], clusters: Sequence[ClusterDemand]) -> HostDemand:
        where = f"hardware.{name}"
        cluster = next((cluster for cluster in clusters if name in cluster.hosts), None)
        installer = self._host_installer(f"{where}.installer", keys, is_bare=cluster is None)
        image, kind = self._machine(keys)
        node = {**kind.node, **image.node, **{key: keys[key] for key in NODE_KEYS if key in keys}}
        for key, node_key in SIZES.items():
            if keys.get(key) is not None:
                node[node_key] = f"{keys[key]}GiB"
        role = self._role(where, keys, node)
        if types := self._types(where, keys.get("node_type")):
            labels = {NODE_TYPE_LABEL: types[0], **dict.fromkeys(types, "true")}
            node["labels"] = {**(node.get("labels") or {}), **labels}
        if cluster is None:
            for key in ("role", "k3s_config"):
                if keys.get(key):
                    self._problem(f"{where}.{key}", "the host is in no cluster")
            if node.get("labels") or node.get("taints"):
                self._problem(where, "labels and taints are for hosts of a cluster")
        remote = copy.deepcopy(dict(self.given.get(name, {}))) if self.remote and not self.problems else {}
        is_built = node.get("base_image") and not self.remote and not self.problems
        digest = machines.variant_digest(node["base_image"]) if is_built else ""
        requested = str(keys.get("base_image", ""))
        return HostDemand(name, role if cluster else "", installer, requested, node, remote, digest)

    def _types(self, where: str, given: Any) -> list[str]:
        """Return the types of a node, which are labels; an engine with types of its own uses the first one."""
        types = [given] if isinstance(given, str) else given
        if types and not (isinstance(types, Sequence) and all(isinstance(entry, str) and entry for entry in types)):
            self._problem(f"{where}.node_type", f"must be a type or a list of types, is {_shown(given)}")
            return []
        return list(types or ())

    def _role(self, where: str, keys: Mapping[str, Any], node: dict[str, Any]) -> str:
        """Return master, worker or empty; merge the labels and taints of k3s_config into ``node``."""
        role, config = keys.get("role"), keys.get("k3s_config")
        if config is not None:
            if not isinstance(config, Mapping) or set(config) - set(K3S_KEYS):
                self._problem(f"{where}.k3s_config", f"must be a mapping of {', '.join(K3S_KEYS)}")
                config = {}
            config = self._without_mistyped(f"{where}.k3s_config", config)
            role = role or config.get("role")
            if config.get("labels"):
                node["labels"] = {**config["labels"], **(node.get("labels") or {})}
            if config.get("taints"):
                node["taints"] = [*(node.get("taints") or []), *config["taints"]]
        return ROLES[role] if role is not None and self._check_choice(f"{where}.role", role, ROLES) else ""

    # --- clusters ---

    def _clusters(self) -> list[ClusterDemand]:
        owners: dict[str, str] = {}
        clusters = []
        for name, keys in self.grouping.items():
            where = f"grouping.{name}"
            self._check_name(where, name, "cluster")
            if not isinstance(keys, Mapping):
                self._problem(where, f"must be a mapping of keys, is {_shown(keys)}")
                continue
            for key in keys:
                if key not in CLUSTER_KEYS:
                    self._problem(where, f"unknown key {key}; known: {', '.join(CLUSTER_KEYS)}")
            keys = self._without_alias(where, keys)
            members = self._members(where, keys, owners)
            for host in members:
                if host in owners:
                    self._problem(f"{where}.hosts", f"{host} already belongs to {owners[host]}")
                owners.setdefault(host, str(name))
            installer = self._cluster_installer(where, keys, members)
            clusters.append(ClusterDemand(str(name), installer, tuple(members)))
        return clusters

    def _members(self, where: str, keys: Mapping[str, Any], owners: Iterable[str]) -> list[str]:
        listed = keys.get("hosts")
        if listed is not None and (isinstance(listed, str) or not isinstance(listed, Sequence)):
            self._problem(f"{where}.hosts", f"must be a list of names, is {_shown(listed)}")
            return []
        names = [str(host) for host in listed or ()]
        for host in sorted({name for name in names if names.count(name) > 1}):
            self._problem(f"{where}.hosts", f"{host} is listed twice")
        if "template" in keys:
            return self._template_members(where, str(keys["template"]), names, owners)
        if not names:
            self._problem(f"{where}.hosts", "the cluster has no host")
        for host in names:
            if host not in self.hosts:
                declared = ", ".join(self.hosts) or "none"
                self._problem(f"{where}.hosts", f"{host} is not declared in hardware, which has {declared}")
        return [host for host in names if host in self.hosts]

    def _template_members(self, where: str, template: str, names: list[str], owners: Iterable[str]) -> list[str]:
        """Return the hosts of a template: ``names``, or new ones. The test's own keys override the template's."""
        topology = template.replace("_", "-")
        topologies = data.names_in("topologies")
        if topology not in topologies:
            self._problem(f"{where}.template", f"{template} is unknown; allowed: {', '.join(topologies)}")
            return []
        nodes = resolve(f"{topology}-ipv4-static")["nodes"]
        if names and len(names) != len(nodes):
            self._problem(f"{where}.hosts", f"{template} has {len(nodes)} nodes, but {len(names)} hosts are listed")
            return []
        listed = {
            str(host)
            for keys in self.grouping.values()
            if isinstance(keys, Mapping) and isinstance(keys.get("hosts"), Sequence)
            for host in keys["hosts"]
        }
        numbers = range(1, 1 + len(nodes) + len(self.hosts) + len(listed))
        free = [name for number in numbers if (name := f"host{number}") not in {*self.hosts, *listed, *owners}]
        names = names or free[: len(nodes)]
        for name, node in zip(names, nodes, strict=True):
            is_master = node["group"] == "control_plane"
            keys = self.hosts.setdefault(name, {})
            keys.setdefault("role", "master" if is_master else "worker")
            keys["labels"] = {**node["labels"], **(keys.get("labels") or {})}
            keys.setdefault("taints", list(node["taints"]))
            if is_master:
                keys.setdefault("schedulable", node["schedulable"])
        return names

    # --- installers ---

    def _host_installer(self, where: str, keys: Mapping[str, Any], *, is_bare: bool) -> str:
        """Return the host's own installer, else that of its machine, else the module's for a host without cluster."""
        implied = next(iter(self._implied(keys, "host")), "")
        name = keys.get("installer") or implied or (self.installer if is_bare else "")
        if not isinstance(name, str):
            self._problem(where, f"must be a name, is {_shown(name)}")
            return ""
        if self._is_foreign(name):
            self._warn(where, f"{name} is not registered: only the allocator gets the name")
            return implied
        if not name or not self._is_known(where, name):
            return ""
        if self.catalogue[name].on == "host":
            return name
        if is_bare:
            self._problem(where, f"{name} is for clusters, but the host is in no cluster")
        # It is the cluster's installer.
        return implied

    def _is_foreign(self, name: Any) -> bool:
        """Return whether only the allocator knows an installer, which has run already."""
        return self.is_prepared and isinstance(name, str) and name not in ("", *self.catalogue)

    def _implied(self, keys: Mapping[str, Any], on: str) -> list[str]:
        """Return the installers for clusters or hosts that follow from a host's base image and hardware type."""
        names = [machine.installer for machine in self._machine(keys)]
        return [name for name in names if name in self.catalogue and self.catalogue[name].on == on]

    def _cluster_installer(self, where: str, keys: Mapping[str, Any], members: Sequence[str]) -> str:
        """Return the cluster's own installer, else its hosts', the module's, that of its machines, or the default."""
        of_hosts = sorted(
            name
            for name in {str(self.hosts[host].get("installer")) for host in members}
            if name in self.catalogue and self.catalogue[name].on == "cluster"
        )
        if not keys.get("installer") and len(of_hosts) > 1:
            self._problem(where, f"its hosts name several installers: {', '.join(of_hosts)}")
        named = next(filter(None, (keys.get("installer"), *of_hosts, self.cluster_installer)), "")
        implied = sorted({name for host in members for name in self._implied(self.hosts[host], "cluster")})
        if not named and len(implied) > 1:
            self._problem(where, f"its base images need several installers: {', '.join(implied)}; name one of them")
        fallback = next(iter(implied), installers.DEFAULT)
        if self._is_foreign(named):
            self._warn(f"{where}.installer", f"{named} is not registered: the stages of {fallback} run instead")
            return fallback
        installer = str(named or fallback)
        if self._is_known(f"{where}.installer", installer) and self.catalogue[installer].on != "cluster":
            self._problem(f"{where}.installer", f"{installer} is for hosts")
        return installer

    def _is_known(self, where: str, name: str) -> bool:
        try:
            installers.with_needs([name], self.catalogue)
        except LookupError as error:
            missing = str(error.args[0])
            text = name if missing == name else f"{name} needs {missing}, which"
            self._problem(where, _unknown(text, installers.INSTALLERS))
        except ValueError as error:
            self._problem(where, str(error))
        else:
            return True
        return False

    def _engine(self, clusters: Sequence[ClusterDemand]) -> str:
        """Return the one engine of all clusters; empty without clusters."""
        names = set()
        for cluster in clusters:
            where = f"grouping.{cluster.name}.installer"
            try:
                engine = installers.engine_of(cluster.installer, self.catalogue)
            except LookupError:
                continue  # reported already
            except ValueError as error:
                self._problem(where, str(error))
                continue
            if not engine:
                self._problem(where, f"{cluster.installer} has no engine to create a cluster")
            elif engine not in engines.names():
                self._problem(where, f"{cluster.installer} needs the engine {engine}, which does not exist")
            else:
                self._check_machines(cluster, engine)
            names.add(engine)
        if len(names) > 1:
            self._problem(
                "grouping", f"an environment has one engine, but these are needed: {', '.join(sorted(names))}"
            )
        return next(iter(names), "")

    def _check_machines(self, cluster: ClusterDemand, engine: str) -> None:
        """Report a base image or hardware type that is for another engine than that of the host's cluster."""
        for host in () if self.is_prepared else cluster.hosts:
            for name in self._implied(self.hosts[host], "cluster"):
                if (other := self._engine_of(name)) not in ("", engine):
                    text = f"its base image is for the engine {other} (installer {name})"
                    self._problem(f"hardware.{host}", f"{text}, but {cluster.name} uses {engine} ({cluster.installer})")

    def _machine(self, keys: Mapping[str, Any]) -> tuple[BaseImage, HardwareType]:
        """Return the base image and hardware type of a host; empty ones for names that only an allocator knows."""
        image, kind = keys.get("base_image"), keys.get("hardware_type")
        found = machines.base_image(image, self.built) if isinstance(image, str) else None
        return (
            found or BaseImage(),
            HARDWARE_TYPES.get(kind) if kind in HARDWARE_TYPES.names() else HardwareType(),
        )

    def _engine_of(self, name: str) -> str:
        try:
            return installers.engine_of(name, self.catalogue)
        except (LookupError, ValueError):
            return ""  # reported already


def _unknown(name: str, registry: Registry[Any], further: Iterable[str] = ()) -> str:
    known = ", ".join(sorted({*registry.names(), *further}))
    return f"{name} is unknown; known: {known}; register others in {FILE}, or by an entry point of {registry.group}"


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except TypeError:
        return repr(value)[:60]
