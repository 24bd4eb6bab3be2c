"""What the modules for nodes have in common: options, and the way from a desired state to the provider's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Condition
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider, ProvisionOutcome, Request

# Values of the option `state` by the name of the operation, as roles' entry points and configs/providers have it.
STATES = {
    "create": "present",
    "start": "started",
    "stop": "stopped",
    "destroy": "absent",
    "remove": "absent",
    "status": "status",
    "preflight": "preflight",
    "upgrade": "upgraded",
    "snapshot": "snapshot",
    "change_address": "change_address",
}
# `remove` needs names, `create` what the provider's own options say.
OPERATIONS = {state: operation for operation, state in STATES.items() if operation != "remove"}


def required_if(*options: str) -> list[Condition]:
    """Return what a module requires when its own ``options`` are necessary to make nodes."""
    return [("state", "remove", ("names",)), *(("state", state, options) for state in ("present", "create") if options)]


def run(
    name: str, options: Mapping[str, Any], variables: Mapping[str, Any], say: Callable[[str], None], *, check: bool
) -> dict[str, Any]:
    """Bring the nodes of the provider ``name`` into the state that a module's ``options`` ask for; return the module's
    result. ``variables`` are those of its task. Raises DevenvError.
    """
    provider = registry.get(name)
    operation = OPERATIONS.get(options["state"], options["state"])
    if operation == "destroy" and options["names"] is not None:
        operation = "remove"
    base.require(name, operation)
    request = Request(
        options["environment"],
        cast(Profile, inventory.profile_of(variables) or {}),
        variables.get("hostvars", {}),
        {**options, **options.get("options", {})},
        say,
        check,
    )
    try:
        result = _result(provider, operation, request)
    except (ProgramFailed, FileNotFoundError) as error:
        raise DevenvError(provider.failure, str(error)) from error
    for note in result["notes"]:
        say(note)
    return result


def remove_any(
    options: Mapping[str, Any], variables: Mapping[str, Any], say: Callable[[str], None], *, check: bool
) -> dict[str, Any]:
    """Remove an environment of which nobody knows what made it: every provider removes what it finds. Raises
    DevenvError.
    """
    results = [run(name, options, variables, say, check=check) for name in provider_traits.names()]
    return {
        "changed": any(result["changed"] for result in results),
        **{key: [one for result in results for one in result.get(key, [])] for key in ("nodes", "removed", "notes")},
    }


def _result(provider: Provider, operation: str, request: Request) -> dict[str, Any]:
    made = provider_traits.makes_machines(provider.name)
    if operation == "status" or (request.check and made and operation in ("create", "start")):
        return base.status(provider.states(request), request.nodes, would_create=operation == "create")
    if request.check and made:
        return {"changed": bool(provider.machines(request.environment)), "nodes": [], "notes": []}
    outcome = _act(provider, operation, request)
    running = [one.node for one in provider.machines(request.environment) if one.state == base.RUNNING]
    return {"changed": outcome.changed, **vars(outcome), "nodes": outcome.nodes or running}


def _act(provider: Provider, operation: str, request: Request) -> ProvisionOutcome:
    if operation == "preflight":
        preflight.require(provider.preflight(request))
        return ProvisionOutcome(nodes=request.nodes)
    if operation == "stop":
        return provider.stop(request, request.options["grace"])
    if operation == "remove":
        return provider.remove(request, request.options["names"] or [])
    methods: dict[str, Callable[[Request], ProvisionOutcome]] = {
        "create": provider.create,
        "start": provider.start,
        "destroy": provider.destroy,
        "upgrade": provider.upgraded,
    }
    if operation not in methods:
        raise base.cannot(provider.name, operation)
    return methods[operation](request)
