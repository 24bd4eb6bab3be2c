"""Addresses as text; the rules are those that modules use on nodes."""

from __future__ import annotations

from ansible_collections.devenv.lab.plugins.module_utils.node.net import bracket as bracketed

__all__ = ["bracketed"]
