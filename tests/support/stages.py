"""The stages of a run, as the plays of a playbook name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.records.selection import stage_of

from support.commands import ROOT

_IMPORT = "ansible.builtin.import_playbook"


def stages(playbook: str = "cluster") -> list[str]:
    """Return the stages of a playbook in their order."""
    return [stage for stage in dict.fromkeys(map(stage_of, _plays(ROOT / "playbooks" / f"{playbook}.yml"))) if stage]


def _plays(path: Path) -> Iterator[str]:
    for play in yaml.safe_load(path.read_text()):
        if _IMPORT in play:
            yield from _plays(path.parent / play[_IMPORT])
        else:
            yield play["name"]
