"""Lines that a run prints while it works."""

from __future__ import annotations

# Prefix of each such line. The command shows the remainder next to the stage; plain Ansible prints the whole line.
MARK = "progress: "
