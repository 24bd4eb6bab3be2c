"""Options of the modules that build node images."""

from __future__ import annotations


class ModuleDocFragment:
    """The options that providers/node_recipe.py reads."""

    DOCUMENTATION = r"""
options:
  version: {description: Kubernetes version of the bundle., type: str, required: true}
  suite: {description: Debian release of the node., type: str, required: true}
  mirror: {description: Debian mirror; empty for the default one., type: str, default: ""}
  packages: {description: Debian packages of the node., type: list, elements: str, required: true}
  masked: {description: systemd units that must not start in the node., type: list, elements: str, required: true}
  files: {description: "Files of the node; path on the node to path on the controller.", type: dict, required: true}
"""
