"""Plays that several tests run."""

from __future__ import annotations

PREFLIGHT = """
- name: preflight | Begin
  hosts: localhost
  gather_facts: false
  tasks:
    - {name: Begin the stage, devenv.lab.stage: {name: preflight}}
"""


def comparing(*conditions: str) -> str:
    """Return a play that fails unless all conditions hold."""
    that = "".join(f"\n          - {condition}" for condition in conditions)
    return f"""
- name: one | Check
  hosts: localhost
  tasks:
    - name: Compare
      ansible.builtin.assert:
        that:{that}
"""
