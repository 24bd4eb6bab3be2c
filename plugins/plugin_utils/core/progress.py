"""What an action says while it works. The command shows it beside the stage; plain Ansible prints it as a line."""

from __future__ import annotations

MARK = "progress: "


def say(text: str) -> None:
    """Tell one line."""
    # Here, for the command reads MARK and would wait for Ansible to be imported.
    from ansible.utils.display import Display

    Display().display(f"{MARK}{text}")
