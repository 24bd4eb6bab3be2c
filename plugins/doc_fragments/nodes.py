"""Documentation that the modules for nodes share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of providers/module.py."""

    DOCUMENTATION = r"""
options:
  environment: {description: Name of the environment., type: str, required: true}
  state:
    description:
      - V(present) makes the nodes that are missing, starts those that are stopped and leaves alone those that run.
      - V(started) and V(stopped) start and shut down the nodes that exist.
      - V(absent) removes everything of the environment, or only O(names). It needs no state folder.
      - V(status) reports the nodes and changes nothing. V(preflight) fails when V(present) could not work.
      - V(upgraded) notes that the nodes run another Kubernetes version.
      - V(snapshot) and V(change_address) fail with a provider that has no such operation (configs/providers).
      - The old names of the values are V(create), V(start), V(stop), V(destroy), V(remove) and V(upgrade).
    type: str
    required: true
    aliases: [verb]
    choices: [present, started, stopped, absent, status, preflight, upgraded, snapshot, change_address,
      create, start, stop, destroy, remove, upgrade]
  names:
    description: Nodes to remove, with V(absent). Without it, V(absent) removes the environment.
    type: list
    elements: str
  grace: {description: "Seconds that a node gets to shut down, with V(stopped).", type: int, default: 30}
"""
