"""Documentation that the modules for nodes' images share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of providers/node_recipe.py."""

    DOCUMENTATION = r"""
options:
  version: {description: Kubernetes version of the bundle., type: str, required: true}
  suite: {description: Debian release of the node., type: str, required: true}
  mirror: {description: Debian mirror; empty for the default one., type: str, default: ""}
  packages: {description: Debian packages of the node., type: list, elements: str, required: true}
  masked: {description: Units of systemd that must not start in the node., type: list, elements: str, required: true}
  files: {description: "Files of the node, path there to path on the controller.", type: dict, required: true}
"""
