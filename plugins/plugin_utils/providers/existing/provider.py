"""The provider of hosts that exist already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING, ProvisionOutcome, Request
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing import hosts as existing
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing.hosts import Host
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer


class Provider(base.Provider):
    """Hosts of the profile, reached by ssh."""

    name: ClassVar[str] = "existing"
    failure: ClassVar[str] = "host_delivery_failed"

    def create(self, request: Request) -> ProvisionOutcome:
        hosts, mine = _hosts(request, request.nodes), _owner(request)
        seen = self._usable(request, hosts)
        version = str(request.options["version"])
        if request.check and bundles.find(version) is None:
            return ProvisionOutcome(made=request.nodes)
        bundle = bundles.require(version)
        lacking = existing.undelivered(hosts, seen, bundle.digest)
        if request.check:
            return ProvisionOutcome(
                nodes=[host.name for host in hosts if host not in lacking], made=[host.name for host in lacking]
            )
        state.write_network(request.folder, existing.network(request.profile, state.read_network(request.folder)))
        made = existing.deliver(lacking, bundle, mine, request.say).made if lacking else []
        return ProvisionOutcome(nodes=request.nodes, made=made)

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        hosts = _hosts(request, names)
        if request.check or not hosts:
            return ProvisionOutcome(removed=[host.name for host in hosts])
        request.say(f"{len(hosts)} hosts: take away what was put there")
        return existing.reset(hosts, _owner(request))

    def destroy(self, request: Request) -> ProvisionOutcome:
        # Written before the first host is: without it nothing was put anywhere.
        network = state.read_network(request.folder) or network_plan.EMPTY
        return self.remove(request, [name for name in network["nodes"] if name in request.hostvars])

    def states(self, request: Request) -> dict[str, str]:
        mine = _owner(request)
        seen = self._look(request, _hosts(request, request.nodes))
        return {name: RUNNING for name, one in seen.items() if _is_ours(one.data.get("record", {}), mine)}

    def upgraded(self, request: Request) -> ProvisionOutcome:
        hosts = _hosts(request, request.nodes)
        bundle = bundles.require(str(request.options["version"]))
        lacking = existing.undelivered(hosts, self._look(request, hosts), bundle.digest)
        if request.check or not lacking:
            return ProvisionOutcome(nodes=request.nodes, made=[host.name for host in lacking])
        return existing.note(lacking, bundle.digest, _owner(request))

    def preflight(self, request: Request) -> list[Probe]:
        """Raise DevenvError with every host that cannot be used, and why."""
        self._usable(request, _hosts(request, request.nodes))
        return []

    def _usable(self, request: Request, hosts: Sequence[Host]) -> dict[str, Answer]:
        seen = self._look(request, hosts)
        existing.require(hosts, seen, _owner(request), request.profile["kubernetes"]["engine"])
        return seen

    def _look(self, request: Request, hosts: Sequence[Host]) -> dict[str, Answer]:
        clusters = request.profile["clusters"].values()
        return existing.look(hosts, any(one["endpoint"]["kind"] == "virtual" for one in clusters))


def _owner(request: Request) -> dict[str, str]:
    return existing.owner(request.environment, request.home)


def _is_ours(record: Mapping[str, Any], mine: Mapping[str, str]) -> bool:
    return all(record.get(key) == value for key, value in mine.items()) and bool(record.get("digest"))


def _hosts(request: Request, names: Sequence[str]) -> list[Host]:
    """Return the named nodes with the connection that their variables say."""
    variables = request.hostvars
    return [
        Host(
            {"name": name, "group": variables[name]["devenv_group"], "host": dict(variables[name]["devenv_host"])},
            remote.target(name, variables[name], own_connection=True),
        )
        for name in names
    ]
