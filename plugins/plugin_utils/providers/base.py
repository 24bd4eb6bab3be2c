"""The interface of a provider (docs/design/providers.md), and the types of its arguments and results."""

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
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Recipe

RUNNING = "running"
# A machine whose definition cannot be read, and which does not run.
UNREADABLE = "unreadable"
Item = TypeVar("Item")


@dataclass(frozen=True)
class Machine:
    """The machine of a node. ``state`` is the provider's own term, or RUNNING, or UNREADABLE."""

    name: str
    environment: str
    node: str
    home: str
    state: str
    pid: int


@dataclass
class ProvisionOutcome:
    """Names of nodes by what happened to them. ``nodes`` are those that answer now; ``notes`` are for people, and
    ``warnings`` report what was lost.
    """

    nodes: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.made or self.started or self.stopped or self.removed)


@dataclass(frozen=True)
class Request:
    """What a provider works on: an environment, its resolved profile (empty when the state directory is lost), the
    variables of its hosts, and the options of the provider's own role. ``check``: change nothing. ``recreate``: create
    clusters again whose data are gone.
    """

    environment: str
    profile: Profile
    hostvars: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    check: bool = False
    recreate: bool = False

    @property
    def home(self) -> str:
        return str(paths.home())

    @property
    def folder(self) -> Path:
        """The environment's state directory."""
        return paths.environment(self.environment)

    @property
    def nodes(self) -> list[str]:
        """Names of the profile's nodes."""
        return [node["name"] for node in self.profile.get("nodes", [])]


@dataclass(frozen=True)
class CachedFile:
    """Something that a provider keeps for the next node: its path or the provider's name for it, and its user."""

    kind: str
    what: str
    bytes: int
    used: str = ""


class Provider(Protocol):
    """A source of machines. The class ``Provider`` in providers/<name>/provider.py is the provider <name>. A method
    that it does not override refuses the operation, or returns an empty result.
    """

    name: ClassVar[str]
    # Reason of a failure for which the provider's programs report no better one.
    failure: ClassVar[str]
    # Programs that its nodes need on this host, with their Debian packages.
    programs: ClassVar[Mapping[str, str]] = {}

    # --- nodes ---

    def create(self, request: Request) -> ProvisionOutcome:
        """Create missing nodes and start stopped ones; leave running ones unchanged. Write network.yml before anything
        else. Return once every node answers ssh.
        """

    def destroy(self, request: Request) -> ProvisionOutcome:
        """Remove everything of the environment, even without its state directory. Change nothing if nothing exists."""

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        """Remove single nodes with their data; all others and the network stay."""

    def states(self, request: Request) -> dict[str, str]:
        """Return the state of each existing node (RUNNING, or the provider's own term). Change nothing."""

    def start(self, request: Request) -> ProvisionOutcome:
        """Start the stopped nodes; return once they answer ssh."""
        raise cannot(self.name, "start")

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        """Shut all nodes down; after ``grace`` seconds, switch the remaining ones off."""
        raise cannot(self.name, "stop")

    def power(self, environment: str, node: str, *, on: bool) -> None:
        """Switch a node's power on or off, without a shutdown."""
        raise cannot(self.name, "power")

    def upgraded(self, request: Request) -> ProvisionOutcome:
        """Record that the nodes run another Kubernetes version now."""
        return ProvisionOutcome(nodes=request.nodes)

    # --- environments on this machine ---

    def machines(self, environment: str | None = None) -> list[Machine]:
        """Return the machines on this host, of one environment or of all; needs no state directory."""
        return []

    def networks(self, environment: str | None = None) -> list[Network]:
        """Return the networks that environments have claimed on this host; needs no state directory."""
        return []

    def fingerprint(self, environment: str, plan: Mapping[str, Any]) -> dict[str, str]:
        """Return the state of everything that ``create`` repairs besides nodes, as texts to compare later."""
        return {}

    # --- this host ---

    def preflight(self, request: Request) -> list[Probe]:
        """Check everything that ``create`` needs. Change nothing."""

    def features(self) -> list[Probe]:
        """Check what every profile needs of this host beyond ``programs``."""
        return []

    def diagnostics(self, environment: str) -> Iterable[tuple[str, Sequence[str]]]:
        """Return what to gather from this host: a file's name in the archive, and the command that prints it."""
        return ()

    def cached_files(self) -> list[CachedFile]:
        """Return what the provider keeps for the next node. All of it can be rebuilt."""
        return []

    def save_image(self, image: str, archive: Path, timeout: float) -> bool:
        """Write an image of the provider's own image store to an archive; return whether it has the image."""
        return False

    def build_base_image(self, recipe: Recipe, say: Callable[[str], None]) -> bool:
        """Build the image of nodes with this recipe, unless it exists; return whether it was missing."""
        raise cannot(self.name, "base_image")

    def variants(self, digest: str) -> list[CachedFile]:
        """Return the images that were built from the base image with this digest, in an order to remove them."""
        return []

    def remove_cached(self, item: CachedFile) -> None:
        """Remove one of ``cached_files`` that is not a path."""
        raise cannot(self.name, "remove_cached")

    @property
    def traits(self) -> ProviderTraits:
        return traits(self.name)


def cannot(provider: str, operation: str) -> DevenvError:
    """Return the error for an operation that a provider does not support."""
    why = traits(provider)["cannot"].get(operation, f"has no {operation}")
    return DevenvError("provider_cannot", f"the provider {provider} {why}", where=operation)


def require(provider: str, operation: str) -> None:
    """Raise DevenvError ``provider_cannot`` if configs/providers excludes the operation for this provider."""
    if operation in traits(provider)["cannot"]:
        raise cannot(provider, operation)


def available(query: Callable[[str | None], list[Item]], environment: str | None) -> list[Item]:
    """Return the result of ``query``, or an empty list if its program is missing or fails."""
    try:
        return query(environment)
    except (OSError, ProgramFailed):
        return []
