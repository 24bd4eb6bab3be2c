"""Take secrets out of text before it is written anywhere; the rules are those that modules use on nodes."""

from __future__ import annotations

from ansible_collections.devenv.lab.plugins.module_utils.node.redact import find, redact

__all__ = ["find", "redact"]
