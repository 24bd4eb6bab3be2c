"""What every provider does (docs/design/providers.md), and the types that it gives and takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.provider_traits import ProviderTraits, traits

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

RUNNING = "running"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Machine:
    """What a provider has made for a node. ``state`` is the provider's own word, RUNNING for one that runs."""

    name: str
    environment: str
    node: str
    home: str
    state: str
    pid: int


def init_variables(node: NodeSpec) -> dict[str, list[str]]:
    """Return what roles/node_image/files/node-init reads: names of variables to words."""
    variables = {"DEVENV_FAMILIES": node.families}
    if node.dhcp:
        return variables | {"DEVENV_DHCP": node.families}
    return variables | {"DEVENV_ADDRESSES": node.interfaces, "DEVENV_GATEWAYS": list(node.gateways)}


def ssh_targets(nodes: Iterable[NodeSpec]) -> list[tuple[str, str]]:
    """Return each node's name with each of its addresses."""
    return [(node.name, address) for node in nodes for address in node.addresses]


@dataclass
class ProvisionOutcome:
    """Names of nodes by what happened to them. ``nodes`` are those that answer now; ``notes`` are for people."""

    nodes: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.made or self.started or self.stopped or self.removed)


@dataclass(frozen=True)
class Request:
    """What a provider works on: an environment, its resolved profile (empty when the state folder is lost), the
    variables of its hosts, and the options of the provider's own role. With ``check`` it only looks.
    """

    environment: str
    profile: Profile
    hostvars: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    check: bool = False

    @property
    def home(self) -> str:
        return str(paths.home())

    @property
    def folder(self) -> Path:
        """The environment's state folder."""
        return paths.environment(self.environment)

    @property
    def nodes(self) -> list[str]:
        """Names of the profile's nodes."""
        return [node["name"] for node in self.profile.get("nodes", [])]


@dataclass(frozen=True)
class CachedFile:
    """Something that a provider keeps for the next node: a path or its name for it, and who uses it."""

    kind: str
    what: str
    bytes: int
    used: str = ""


class Provider(Protocol):
    """One way to get machines. A subclass ``Provider`` in providers/<name>/provider.py is the provider <name>; what it
    does not override is what a provider does that has nothing of the kind.
    """

    name: ClassVar[str]
    # Reason of a failure for which the provider's programs gave no better one.
    failure: ClassVar[str]
    # Programs that its nodes need on this host, with their Debian packages.
    programs: ClassVar[Mapping[str, str]] = {}

    # --- nodes ---

    def create(self, request: Request) -> ProvisionOutcome:
        """Make the nodes that are missing, start those that are stopped, leave alone those that run. Write network.yml
        before anything else. Return once every node answers ssh.
        """

    def destroy(self, request: Request) -> ProvisionOutcome:
        """Remove everything of the environment; without its state folder, too. Where nothing is, change nothing."""

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        """Remove single nodes with their data; all others and the network stay."""

    def states(self, request: Request) -> dict[str, str]:
        """Return each node that exists, with its state (RUNNING, or the provider's own word). Change nothing."""

    def start(self, request: Request) -> ProvisionOutcome:
        """Start the nodes that are stopped; return once they answer ssh."""
        raise cannot(self.name, "start")

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        """Shut all nodes down; one that has not after ``grace`` seconds is switched off."""
        raise cannot(self.name, "stop")

    def power(self, environment: str, node: str, *, on: bool) -> None:
        """Switch a node's power on or off, as its plug would."""
        raise cannot(self.name, "power")

    def upgraded(self, request: Request) -> ProvisionOutcome:
        """Note that the nodes run another Kubernetes version now."""
        return ProvisionOutcome(nodes=request.nodes)

    # --- what this machine knows of environments ---

    def machines(self, environment: str | None = None) -> list[Machine]:
        """Return the machines on this host, of one environment or of all; needs no state folder."""
        return []

    def networks(self, environment: str | None = None) -> list[Network]:
        """Return the networks that environments have claimed on this host; needs no state folder."""
        return []

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        """Claim a network where every run of this machine sees it; called under the allocator lock (claims.py)."""
        raise cannot(self.name, "claim_network")

    def fingerprint(self, environment: str, network: Mapping[str, Any]) -> dict[str, str]:
        """Return what ``create`` looks after besides the nodes, as texts to compare with those of another time."""
        return {}

    # --- this host ---

    def preflight(self, request: Request) -> list[Probe]:
        """Look at everything that ``create`` needs. Change nothing."""

    def features(self) -> list[Probe]:
        """Look at what the provider needs of this host beyond ``programs``, for any profile."""
        return []

    def diagnostics(self, environment: str) -> Iterable[tuple[str, Sequence[str]]]:
        """Return what to gather of this host: a file's name in the archive, and the command that prints it."""
        return ()

    def cached_files(self) -> list[CachedFile]:
        """Return what the provider keeps for the next node. All of it can be made again."""
        return []

    def save_image(self, image: str, archive: Path, timeout: float) -> bool:
        """Write an image of the provider's own image store to an archive; return whether it has the image."""
        return False

    def remove_cached(self, item: CachedFile) -> None:
        """Remove one of ``cached_files`` that is no path."""
        raise cannot(self.name, "remove_cached")

    @property
    def traits(self) -> ProviderTraits:
        return traits(self.name)


def cannot(provider: str, operation: str) -> DevenvError:
    """Return the error for an operation that a provider does not have."""
    why = traits(provider)["cannot"].get(operation, f"has no {operation}")
    return DevenvError("provider_cannot", f"the provider {provider} {why}", where=operation)


def require(provider: str, operation: str) -> None:
    """Raise DevenvError ``provider_cannot`` where configs/providers says that the provider does not do this."""
    if operation in traits(provider)["cannot"]:
        raise cannot(provider, operation)


def known(ask: Callable[[str | None], list[Item]], environment: str | None) -> list[Item]:
    """Return what ``ask`` returns, or nothing where its program is missing or refuses."""
    try:
        return ask(environment)
    except (OSError, ProgramFailed):
        return []


def status(states: Mapping[str, str], wanted: Sequence[str], *, would_create: bool) -> dict[str, Any]:
    """Return a module's result for ``states`` of the nodes that exist and ``wanted``, those of the profile.
    ``would_create``: in check mode, create would make or start the missing.
    """
    missing = [node for node in wanted if states.get(node) != RUNNING]
    made = would_create and bool(missing)
    return {
        "changed": made,
        "nodes": [node for node, state in states.items() if state == RUNNING],
        "states": dict(states),
        "missing": missing,
        "notes": [f"would be made or started: {', '.join(missing)}"] if made else [],
    }
