"""Types of a resolved profile, which `resolve` returns and profile.yml in the state directory stores.

A resolved profile consists of JSON types only. tests/unit/test_types.py compares these types with
configs/schema/profile.json and with what every canonical name resolves to.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

# Key of a profile to "used", or why it has no effect: {"refused": why}, {"warning": why} or
# {"quota": advice} (configs/keys.yml).
KeyEffects = dict[str, str | dict[str, str]]
# Family (ipv4, ipv6) to an address or a network in CIDR form.
ByFamily = dict[str, str]


class GravitySettings(TypedDict):
    """kubernetes.gravity: the tarball and options of a cluster of this engine."""

    tarball: str
    sha256: str
    flavor: str
    prepared: bool
    script: str
    public_addresses: list[str]


class Kubernetes(TypedDict):
    """Version and engine, with the settings of this engine only, under its name."""

    version: str
    engine: str
    gravity: NotRequired[GravitySettings]


class AddressPools(TypedDict):
    """The profile's ``network``: pools of both families, whatever the stack; ``node_prefix`` is for IPv4 subnets."""

    node_pools: ByFamily
    node_prefix: int
    pods: ByFamily
    services: ByFamily


class RegistryHost(TypedDict):
    """Access to a registry: files on this machine with its CA and the user's password."""

    ca: NotRequired[str]
    user: NotRequired[str]
    password_file: NotRequired[str]


class Registry(TypedDict):
    """Registry host to the URLs of its mirrors, in order of preference; access to registries and mirrors by host."""

    mirrors: dict[str, list[str]]
    hosts: NotRequired[dict[str, RegistryHost]]


class Proxy(TypedDict):
    """HTTP proxy of the container runtime; empty for none."""

    http: str
    https: str
    no_proxy: list[str]


# Not class syntax: "class" is a keyword.
Storage = TypedDict("Storage", {"enabled": bool, "class": str, "default": bool})


class Metrics(TypedDict):
    """Whether to install metrics-server on each cluster."""

    enabled: bool


class Check(TypedDict):
    """A user's check: program and arguments, and its time limit in seconds."""

    name: str
    command: list[str]
    timeout: int


class Validate(TypedDict):
    """The user's checks."""

    checks: list[Check]


class Endpoint(TypedDict):
    """The target of a control plane's name. ``kind`` is node, virtual or external, never auto. ``names`` are also in
    the certificate; ``published_port`` is one of this host.
    """

    kind: str
    addresses: list[str]
    names: NotRequired[list[str]]
    published_port: NotRequired[int]


class ClusterSpec(TypedDict):
    """One cluster of the environment."""

    endpoint: Endpoint


class ExistingHost(TypedDict):
    """The existing host of a node; ``addresses`` in the families' order."""

    addresses: list[str]
    user: str
    port: int
    key_file: str
    known_hosts: str
    become: bool
    ssh_config: NotRequired[bool]


class Node(TypedDict):
    """One node. ``group`` is control_plane, arbiters or workers; memory and disk are in bytes; a bare node's
    ``cluster`` is None.
    """

    name: str
    group: str
    cluster: str | None
    cpus: int
    memory: int
    disk: int
    labels: dict[str, str]
    taints: list[str]
    schedulable: bool
    node_type: NotRequired[str]
    image: NotRequired[str]
    base_image: NotRequired[str]
    host: NotRequired[ExistingHost]


class ProfileSettings(TypedDict):
    """A resolved profile without its nodes, as in every host's variable ``devenv_profile``.

    ``profile`` is its canonical name, ``name`` the default name of its environment, ``families`` the stack's address
    families, the preferred one first.
    """

    profile: str
    name: str
    topology: str
    stack: str
    families: list[str]
    addressing: str
    provider: str
    kubernetes: Kubernetes
    network: AddressPools
    registry: Registry
    proxy: Proxy
    storage: Storage
    metrics: Metrics
    validate: Validate
    clusters: dict[str, ClusterSpec]


class Profile(ProfileSettings):
    """A resolved profile. Its nodes are in order: masters, arbiters, workers."""

    nodes: list[Node]


class Sizes(TypedDict):
    """Sizes in an engine's file: a number with a unit, or bytes."""

    cpus: NotRequired[int]
    memory: str | int
    disk: str | int
    inotify: NotRequired[int]


class EngineGroup(TypedDict):
    """An engine's traits of a group of nodes: default sizes, minimum sizes, measured usage, and the largest possible
    number of nodes.
    """

    default: Sizes
    least: Sizes
    in_use: Sizes
    # TCP ports on which a node listens.
    ports: list[int]
    most: NotRequired[int]


class EngineValidation(TypedDict):
    """What validation covers in addition to the checks of every cluster. ``versions``: bundle or engine; ``leaders``:
    apps of which only the leader's pod is Ready; ``registry``: the address of the engine's own registry.
    """

    versions: str
    control_plane_pods: list[str]
    node_apps: list[str]
    apps: dict[str, str]
    leaders: list[str]
    registry: str
    node_checks: list[str]


class EngineSettings(TypedDict):
    """Rules for the engine's own keys of a profile. ``applied``: keys that an existing environment applies, and how."""

    needed: dict[str, str]
    exclusive: list[list[str]]
    applied: dict[str, str]
    upgraded: dict[str, str]


class EngineTraits(TypedDict):
    """A file of configs/engines; kubeadm.yml explains each key."""

    description: str
    groups: dict[str, EngineGroup]
    leader_inotify: NotRequired[int]
    families: list[str]
    endpoints: list[str]
    brings: list[str]
    pod_ranges: str
    control_plane_taint: bool
    preflight: bool
    cannot: dict[str, str]
    validation: EngineValidation
    unchanged: bool
    settings: EngineSettings
    created_with: NotRequired[list[str]]
    derived: NotRequired[dict[str, dict[str, str]]]
    node_types: bool
    caches: dict[str, str]
    installers: list[str]
    # Without it, every key is used.
    keys: NotRequired[KeyEffects]
    up_timeout: int
