"""Publish images in the registry that Gravity runs on its masters: nodes pull from there alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed

REASON = "gravity_registry"


def published(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Return the ``images`` of the registry of the active master, without its address. Changes nothing.

    Raises `StepFailed` gravity_registry.
    """
    result = cli.run([machine.program, "registry", "list", "--format=json"], timeout=60)
    rows = result.json()
    if result.code != 0 or not isinstance(rows, (list, type(None))):
        raise cli.failure("registry list", result, REASON)
    images = [f"{row['repository']}:{tag}" for row in rows or [] for tag in row.get("tags") or []]
    return {"changed": False, "images": sorted(images)}


def publish(machine: GravityMachine, params: dict[str, Any]) -> dict[str, Any]:
    """Publish ``image``, which the archive ``path`` (in docker's form) contains, in the registry with the address
    ``registry``. Raises `StepFailed` gravity_registry.
    """
    if params["image"] in published(machine, params)["images"]:
        return {"changed": False}
    target = f"{params['registry']}/{params['image']}"
    # From standard input, because Gravity's container does not have the node's files at their paths.
    load = ["sh", "-c", 'exec "$0" exec -i docker load <"$1"', machine.program, machine.path(params["path"])]
    _docker(machine, "load", load, params["timeout"])
    for words in (("tag", params["image"], target), ("push", target)):
        _docker(machine, words[0], [machine.program, "exec", "docker", *words], params["timeout"])
    if params["image"] not in published(machine, params)["images"]:
        raise StepFailed(REASON, f"{params['image']} was pushed, but the registry does not list it")
    return {"changed": True}


def _docker(machine: GravityMachine, verb: str, argv: Sequence[str], timeout: float) -> None:
    result = cli.run(argv, timeout=timeout, log=machine.log("images"))
    if result.code != 0:
        raise cli.failure(f"exec docker {verb}", result, REASON)
