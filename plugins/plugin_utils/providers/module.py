"""The common part of the modules for nodes: options, and the provider's method for a desired state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Condition
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    Provider,
    ProvisionOutcome,
    Request,
)

# Values of the option `state` by the name of the operation in roles' entry points and configs/providers.
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
# `remove` is `absent` with names.
OPERATIONS = {state: operation for operation, state in STATES.items() if operation != "remove"}


def required_if(*options: str) -> list[Condition]:
    """Return what a module requires whose own ``options`` are necessary to create nodes."""
    return [("state", "remove", ("names",)), *(("state", state, options) for state in ("present", "create") if options)]


def run(
    name: str, options: Mapping[str, Any], variables: Mapping[str, Any], say: Callable[[str], None], *, check: bool
) -> dict[str, Any]:
    """Bring the nodes of the provider ``name`` into the state in a module's ``options``; return the module's result.

    ``variables`` are those of its task. Raises DevenvError.
    """
    provider = registry.get(name)
    operation = OPERATIONS.get(options["state"], options["state"])
    if operation == "destroy" and options["names"] is not None:
        operation = "remove"
    base.require(name, operation)
    profile = cast(Profile, inventory.profile_of(variables) or {})
    own_options = {**options, **options.get("options", {})}
    recreate = is_accepted(variables)
    request = Request(options["environment"], profile, variables.get("hostvars", {}), own_options, say, check, recreate)
    try:
        result = _result(provider, operation, request)
    except (ProgramFailed, FileNotFoundError) as error:
        raise DevenvError(provider.failure, str(error)) from error
    for note in result["notes"]:
        say(note)
    return result


def is_accepted(variables: Mapping[str, Any]) -> bool:
    """Return whether the run accepts that clusters whose data are gone are created again (`up --recreate`)."""
    return str(variables.get("devenv_recreate", "")).lower() in ("true", "yes", "on", "1")


def remove_any(
    options: Mapping[str, Any], variables: Mapping[str, Any], say: Callable[[str], None], *, check: bool
) -> dict[str, Any]:
    """Remove an environment whose provider is unknown: every provider removes its part. Raises DevenvError."""
    results = [run(name, options, variables, say, check=check) for name in provider_traits.names()]
    return {
        "changed": any(result["changed"] for result in results),
        **{key: [node for result in results for node in result.get(key, [])] for key in ("nodes", "removed", "notes")},
    }


def _result(provider: Provider, operation: str, request: Request) -> dict[str, Any]:
    simulated = request.check and provider_traits.makes_machines(provider.name)
    if operation == "status" or (simulated and operation in ("create", "start")):
        return status(provider.states(request), request.nodes, would_create=operation == "create")
    if simulated:
        return {"changed": bool(provider.machines(request.environment)), "nodes": [], "notes": []}
    outcome = _operate(provider, operation, request)
    running = [machine.node for machine in provider.machines(request.environment) if machine.state == RUNNING]
    return {"changed": outcome.changed, **vars(outcome), "nodes": outcome.nodes or running}


def _operate(provider: Provider, operation: str, request: Request) -> ProvisionOutcome:
    match operation:
        case "create":
            return provider.create(request)
        case "start":
            return provider.start(request)
        case "stop":
            return provider.stop(request, request.options["grace"])
        case "destroy":
            return provider.destroy(request)
        case "remove":
            return provider.remove(request, request.options["names"] or [])
        case "upgrade":
            return provider.upgraded(request)
        case "preflight":
            preflight.require(provider.preflight(request))
            return ProvisionOutcome(nodes=request.nodes)
    raise base.cannot(provider.name, operation)


def status(states: Mapping[str, str], desired: Sequence[str], *, would_create: bool) -> dict[str, Any]:
    """Return a module's result for the ``states`` of existing nodes and the ``desired`` nodes of the profile.

    ``would_create``: in check mode, create would create or start the missing nodes.
    """
    missing = [node for node in desired if states.get(node) != RUNNING]
    would_change = would_create and bool(missing)
    return {
        "changed": would_change,
        "nodes": [node for node, state in states.items() if state == RUNNING],
        "states": dict(states),
        "missing": missing,
        "notes": [f"would be created or started: {', '.join(missing)}"] if would_change else [],
    }
