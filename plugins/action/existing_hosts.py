"""Bring existing hosts into a state, as the nodes of an environment."""

from __future__ import annotations

from ansible_collections.devenv.lab.plugins.action import nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module


class ActionModule(nodes.ActionModule):
    REQUIRED_IF = module.required_if("version")
    PROVIDER = "existing"
