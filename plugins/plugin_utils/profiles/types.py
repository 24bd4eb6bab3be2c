"""Types of a resolved profile: what `resolve` returns and the state folder keeps in profile.yml.

It is plain data of JSON's types. tests/unit/test_types.py compares these types with configs/schema/profile.json and
with what every canonical name resolves to.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

# Family (ipv4, ipv6) to an address or a network in CIDR form.
ByFamily = dict[str, str]


class GravitySettings(TypedDict):
    """kubernetes.gravity: what a cluster of this engine is made of."""

    tarball: str
    sha256: str
    flavor: str
    prepared: bool
    script: str


class Kubernetes(TypedDict):
    """Version and engine. Only the settings of the engine in use are kept, under its name."""

    version: str
    engine: str
    gravity: NotRequired[GravitySettings]


class AddressPools(TypedDict):
    """The profile's ``network``: pools of both families, whatever the stack. ``node_prefix`` is for IPv4 subnets."""

    node_pools: ByFamily
    node_prefix: int
    pods: ByFamily
    services: ByFamily


class Registry(TypedDict):
    """Registry host to the URLs of its mirrors, in the order of preference."""

    mirrors: dict[str, list[str]]


class Proxy(TypedDict):
    """HTTP proxy of the container runtime; empty for none."""

    http: str
    https: str
    no_proxy: list[str]


# "class" is no identifier.
Storage = TypedDict("Storage", {"enabled": bool, "class": str, "default": bool})


class Metrics(TypedDict):
    """Whether each cluster has metrics-server."""

    enabled: bool


class Check(TypedDict):
    """A check of the profile's own: program and arguments, and the seconds that it may take."""

    name: str
    command: list[str]
    timeout: int


class Validate(TypedDict):
    """The profile's own checks."""

    checks: list[Check]


class Endpoint(TypedDict):
    """What the name of a control plane stands for: ``kind`` is node, virtual or external, never auto."""

    kind: str
    addresses: list[str]


class ClusterSpec(TypedDict):
    """One cluster of the environment."""

    endpoint: Endpoint


class ExistingHost(TypedDict):
    """The host that a node of the provider ``existing`` is; ``addresses`` in the families' order."""

    addresses: list[str]
    user: str
    port: int
    key_file: str
    known_hosts: str
    become: bool


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
    host: NotRequired[ExistingHost]


class ProfileSettings(TypedDict):
    """A resolved profile without its nodes, as every host's variables have it (``devenv_profile``).

    ``profile`` is its canonical name, ``name`` the default name of an environment of it, ``families`` those of the
    stack, the preferred one first.
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
    """A resolved profile. Its nodes in order: masters, arbiters, workers."""

    nodes: list[Node]


class Sizes(TypedDict):
    """Sizes in an engine's file: a number with a unit, or bytes."""

    cpus: NotRequired[int]
    memory: str | int
    disk: str | int
    inotify: NotRequired[int]


class EngineGroup(TypedDict):
    """What an engine's file says of a group of nodes: the sizes of a node that sets none, the least that its start
    needs, what it uses as measured, and how many of them there can be at most.
    """

    default: Sizes
    least: Sizes
    in_use: Sizes
    most: NotRequired[int]


class EngineValidation(TypedDict):
    """What validation covers besides what every cluster has. ``versions``: bundle or engine."""

    versions: str
    control_plane_pods: list[str]
    node_apps: list[str]
    apps: dict[str, str]
    node_checks: list[str]


class EngineSettings(TypedDict):
    """Rules for the engine's own keys of a profile."""

    needed: dict[str, str]
    exclusive: list[list[str]]
    upgraded: dict[str, str]


class EngineTraits(TypedDict):
    """A file of configs/engines, which explains each key."""

    description: str
    groups: dict[str, EngineGroup]
    families: list[str]
    endpoints: list[str]
    brings: list[str]
    pod_ranges: str
    preflight: bool
    cannot: dict[str, str]
    validation: EngineValidation
    unchanged: bool
    settings: EngineSettings
    node_types: bool
    caches: dict[str, str]
    installers: list[str]
