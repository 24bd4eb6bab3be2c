"""Lines that a run prints while it works."""

from __future__ import annotations

# Begins each such line. The command shows the rest beside the stage; plain Ansible prints it as it is.
MARK = "progress: "
