# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of the libvirt provider: see plugins/modules/libvirt_nodes.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors, paths, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import nodes as libvirt_nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import nodes as podman_nodes

CANNOT = {"snapshot": "makes no snapshots", "change_address": "gives a node no other address"}


class ActionModule(ActionBase):
    """Run one verb on all nodes of an environment."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("environment", "verb", "image", "images_disk", "kvm", "names", "grace"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(
            argument_spec={
                "environment": {"type": "str", "required": True},
                "verb": {
                    "type": "str",
                    "required": True,
                    "choices": ["create", "start", "stop", "status", "destroy", "remove", *CANNOT],
                },
                "image": {"type": "str"},
                "images_disk": {"type": "str", "default": ""},
                "kvm": {"type": "bool", "default": False},
                "names": {"type": "list", "elements": "str", "default": []},
                "grace": {"type": "int", "default": 90},
            },
            required_if=[("verb", "create", ("image",)), ("verb", "remove", ("names",))],
        )
        try:
            if args["verb"] in CANNOT:
                raise errors.DevenvError("provider_cannot", f"the provider libvirt {CANNOT[args['verb']]}")
            return self._run_verb(args, task_vars or {})
        except errors.DevenvError as error:
            return errors.as_result(error)
        except (ProgramFailed, FileNotFoundError) as error:
            return errors.as_result(errors.DevenvError("libvirt_failed", str(error)))

    def _run_verb(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name, verb, check = args["environment"], args["verb"], self._task.check_mode
        if verb == "status" or (check and verb in ("create", "start")):
            return self._status(name, variables, would_create=verb == "create")
        if check:
            return {"changed": bool(libvirt.machines(name)), "nodes": [], "notes": []}
        if verb == "destroy":
            outcome = libvirt_nodes.destroy(name)
        elif verb == "stop":
            outcome = libvirt_nodes.stop(name, args["grace"])
        elif verb == "remove":
            outcome = libvirt_nodes.remove_nodes(name, paths.environment(name), args["names"])
        else:
            outcome = self._up(name, args, variables)
        for note in outcome.notes:
            progress.say(note)
        live = [machine.node for machine in libvirt.machines(name) if machine.state == "running"]
        return {"changed": outcome.changed, "nodes": live, **vars(outcome)}

    def _up(self, name: str, args: dict[str, Any], variables: dict[str, Any]) -> podman_nodes.Outcome:
        resolved, folder = inventory.profile_of(variables) or {}, paths.environment(name)
        home = str(paths.home())
        plan = libvirt_nodes.claim(name, home, resolved, state.read_network(folder))
        state.write_network(folder, plan)
        nodes = podman_nodes.node_specs(resolved, plan)
        # Before a start as well: since a host's reboot the subnet may be another.
        known = ssh_keys.node_addresses(plan)
        ssh_keys.ensure_hosts(folder, known)
        ssh_keys.write_known_hosts(folder, known)
        if args["verb"] == "start":
            kvm = bool(libvirt_image.kvm_known(paths.cache()).usable)
            return libvirt_nodes.start(name, home, folder, plan, nodes, kvm)
        boot = libvirt_nodes.Boot(
            libvirt_image.Image(Path(args["image"])),
            Path(args["images_disk"]) if args["images_disk"] else None,
            args["kvm"],
        )
        disks = {node["name"]: node["disk"] for node in resolved["nodes"]}
        clustered = [node["name"] for node in resolved["nodes"] if node["cluster"] is not None]
        return libvirt_nodes.create(name, home, folder, nodes, disks, plan, boot, clustered, progress.say)

    def _status(self, name: str, variables: dict[str, Any], *, would_create: bool) -> dict[str, Any]:
        if not self._task.check_mode:
            libvirt_nodes.refresh(name)
        states = {machine.node: machine.state for machine in libvirt.machines(name)}
        wanted = list(variables.get("groups", {}).get("nodes", []))
        told = podman_nodes.status(states, wanted, would_create=would_create)
        for note in told["notes"]:
            progress.say(note)
        return told
