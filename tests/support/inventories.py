"""Reading what ansible-inventory prints."""

from __future__ import annotations

from typing import Any


def hosts_of(listed: dict[str, Any]) -> dict[str, list[str]]:
    """The hosts of every group of ``ansible-inventory --list``, in order."""
    return {group: list(data.get("hosts", [])) for group, data in listed.items() if group != "_meta"}
