"""Bring all nodes of an environment into a state, as podman containers."""

from __future__ import annotations

from ansible_collections.devenv.lab.plugins.action import nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module


class ActionModule(nodes.ActionModule):
    REQUIRED_IF = module.required_if("image", "store")
    PROVIDER = "podman"
