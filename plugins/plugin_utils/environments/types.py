"""Types of an environment's network (network.yml) and of its inventory's variables.

tests/unit/test_types.py compares them with the results of `network_plan.make` and `inventory.build`.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import ByFamily, ExistingHost, ProfileSettings


class PlannedCluster(TypedDict):
    """A cluster's number in the environment, and the addresses reserved for its control plane."""

    index: int
    virtual: ByFamily


class PlannedNode(TypedDict):
    """A node's place in the network. Its address comes from ``place`` if that is set, else from ``index``."""

    index: int
    mac: str
    addresses: ByFamily
    group: str
    cluster: str | None
    place: NotRequired[int]
    host: NotRequired[ExistingHost]


class NetworkPlan(TypedDict):
    """network.yml, the provider's choice. Existing hosts have no ``bridge``, and their ``subnets`` and ``gateways``
    are empty. ``nodes`` includes those that are no longer in the profile, until they are removed.
    """

    subnets: ByFamily
    gateways: ByFamily
    clusters: dict[str, PlannedCluster]
    nodes: dict[str, PlannedNode]
    bridge: NotRequired[str]


class EndpointVariables(TypedDict):
    """Variables that all nodes of a cluster share; empty for a bare node."""

    devenv_endpoint_kind: str
    devenv_endpoint_addresses: list[str]
    devenv_virtual_addresses: list[str]
    devenv_endpoint_names: list[str]


class Connection(TypedDict):
    """The ssh connection to a host. A node that the provider has not claimed yet has no address (``ansible_host``)."""

    ansible_host: NotRequired[str]
    ansible_connection: str
    ansible_user: str
    ansible_port: int
    ansible_become: NotRequired[bool]
    ansible_ssh_private_key_file: NotRequired[str]
    ansible_ssh_args: str
    ansible_ssh_common_args: str


class HostVariables(EndpointVariables, Connection):
    """Variables of one host. Lists of addresses, prefixes and ranges are in the families' order."""

    ansible_python_interpreter: str
    devenv_group: str
    devenv_cluster: str
    devenv_index: int
    devenv_mac: str
    devenv_addresses: list[str]
    devenv_prefixes: list[int]
    devenv_pod_cidrs: list[str]
    devenv_labels: dict[str, str]
    devenv_taints: list[str]
    devenv_schedulable: bool
    devenv_cpus: int
    devenv_memory: int
    devenv_disk: int
    devenv_node_type: NotRequired[str]
    devenv_image: NotRequired[str]
    devenv_base_image: NotRequired[str]
    devenv_host: NotRequired[ExistingHost]
    devenv_endpoint: str
    devenv_kubeconfig: str


class TraitVariables(TypedDict):
    """Traits by which playbooks decide, instead of by an engine's name."""

    brings: list[str]
    preflight: bool


class CommonVariables(TypedDict):
    """Variables of all hosts."""

    devenv_name: str
    devenv_state: str
    devenv_profile: ProfileSettings
    devenv_provider: str
    devenv_engine: str
    devenv_engine_traits: TraitVariables
    devenv_families: list[str]
    devenv_addressing: str
    devenv_kubernetes_version: str
    devenv_bundle_parts: list[str]
    devenv_base_images: NotRequired[list[str]]
    devenv_pod_subnets: list[str]
    devenv_service_subnets: list[str]
    devenv_api_service: str
    devenv_gateways: list[str]


# pylint considers both bases to be the same dict.
class NodeVariables(HostVariables, CommonVariables):  # pylint: disable=duplicate-bases
    """All variables of one host in a task."""


class Inventory(TypedDict):
    """Groups with their hosts, each host's variables, and those of all hosts."""

    groups: dict[str, list[str]]
    hosts: dict[str, HostVariables]
    vars: CommonVariables
