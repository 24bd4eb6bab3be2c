"""Options of the modules that manage nodes."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that providers/module.py reads."""

    DOCUMENTATION = r"""
options:
  environment: {description: Name of the environment., type: str, required: true}
  state:
    description:
      - V(present) creates missing nodes, starts stopped ones and leaves running ones unchanged.
      - V(started) and V(stopped) start and shut down the existing nodes.
      - V(absent) removes the whole environment, or only O(names). It needs no state directory.
      - V(status) reports the nodes and changes nothing. V(preflight) fails if V(present) would.
      - V(upgraded) records that the nodes run another Kubernetes version.
      - V(snapshot) and V(change_address) fail with a provider that has no such operation (configs/providers).
      - The former names of the values are V(create), V(start), V(stop), V(destroy), V(remove) and V(upgrade).
    type: str
    required: true
    aliases: [verb]
    choices: [present, started, stopped, absent, status, preflight, upgraded, snapshot, change_address,
      create, start, stop, destroy, remove, upgrade]
  names:
    description: Nodes to remove, with V(absent). If unset, V(absent) removes the environment.
    type: list
    elements: str
  grace: {description: "Seconds that a node gets to shut down, with V(stopped).", type: int, default: 30}
"""
