"""Addresses as text."""

from __future__ import annotations


def bracketed(address: str) -> str:
    """Return ``address`` as URLs and ``host:port`` need it: an IPv6 address stands in brackets."""
    return f"[{address}]" if ":" in address else address
