"""Which part of a playbook the options of a run select, and what a run of its stages has not done.

Takes the plays, tasks and inventory of Ansible as they are, but does not import it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

# The stages of a run that creates or converges an environment.
STAGES = ("preflight", "bundle", "provision", "prepare", "kubernetes", "labels", "addons", "validate")
_STAGE = re.compile(r"^\s*([A-Za-z_]+)\s*\|")
_SPECIAL_TAGS = frozenset({"all", "always", "never", "tagged", "untagged"})


def stage_of(play: str) -> str:
    """Return the stage in a play's name (``<Stage> | <what it does>``); empty if it has none."""
    match = _STAGE.match(play)
    stage = match.group(1).lower() if match else ""
    return stage if stage in reasons.stages() else ""


def is_partial(arguments: Mapping[str, Any]) -> bool:
    """Return whether options of ansible-playbook (``context.CLIARGS``), apart from a limit, leave out tasks."""
    options = ("check", "skip_tags", "start_at_task", "step")
    return bool(set(arguments.get("tags") or ()) - {"all"}) or any(arguments.get(option) for option in options)


def refusal(arguments: Mapping[str, Any], plays: Sequence[Any], inventory: Any) -> str:
    """Return why the run must not begin: a tag or host pattern that matches nothing, no stage at all, a start inside
    a stage, a node that the stage kubernetes would take for a lost one. Empty if it may.
    """
    return (
        _refused_tags(arguments, plays)
        or _refused_limit(inventory)
        or _refused_members(arguments, plays, inventory)
        or _refused_start(arguments, plays)
    )


def _refused_tags(arguments: Mapping[str, Any], plays: Sequence[Any]) -> str:
    only, skipped = list(arguments.get("tags") or ["all"]), list(arguments.get("skip_tags") or ())
    if only == ["all"] and not skipped:
        return ""
    selectable = [task for play in plays for task in _tasks(play.tasks)]
    known = {str(tag) for task in selectable for tag in task.tags}
    listed = f"its tags are: {', '.join(sorted(known - _SPECIAL_TAGS))}" if known - _SPECIAL_TAGS else "it has no tags"
    for option, tags in (("--tags", only), ("--skip-tags", skipped)):
        for tag in tags:
            if tag not in known | _SPECIAL_TAGS:
                return f"{option} {tag} matches no task of the playbook; {listed}"
    if not _selects(arguments, selectable):
        return f"the tags select no task of the playbook; {listed}"
    return ""


def _refused_limit(inventory: Any) -> str:
    patterns = [str(pattern) for pattern in inventory._subset or ()]
    for pattern in patterns:
        if not inventory.get_hosts(pattern.lstrip("!&"), ignore_limits=True):
            return f"--limit {pattern} matches no host"
    if patterns and not inventory.get_hosts("localhost"):
        return f"--limit {','.join(patterns)} excludes localhost, which runs every stage: add it to the limit"
    return ""


def _refused_members(arguments: Mapping[str, Any], plays: Sequence[Any], inventory: Any) -> str:
    """Refuse a limit that leaves out nodes if the stage kubernetes runs. The engine decides from the state of all
    nodes, and removes one without a state from the cluster, and from etcd, before it joins again.
    """
    nodes = {host.name for host in inventory.get_hosts("nodes", ignore_limits=True)} & set(excluded(inventory))
    tasks = [task for play in plays if stage_of(play.get_name()) == "kubernetes" for task in _tasks(play.tasks)]
    if not nodes or not _selects(arguments, tasks):
        return ""
    return (
        f"the limit excludes {', '.join(sorted(nodes))}, but the stage kubernetes needs every node: select other "
        "stages with --tags"
    )


def _refused_start(arguments: Mapping[str, Any], plays: Sequence[Any]) -> str:
    start = arguments.get("start_at_task")
    if not start:
        return ""
    names = {name for play in plays for task in _tasks(play.tasks) for name in (task.name, task.get_name())}
    if start not in names:
        return f"--start-at-task {start}: the playbook has no task of this name"
    return f"--start-at-task {start} would skip the task that takes the lock: select stages with --tags"


def _selects(arguments: Mapping[str, Any], tasks: Iterable[Any]) -> bool:
    """Return whether the tags select one of the tasks. Ansible adds checks of roles, which run always."""
    only, skipped = list(arguments.get("tags") or ["all"]), list(arguments.get("skip_tags") or ())
    return any(task.evaluate_tags(only, skipped, {}) for task in tasks if "always" not in task.tags)


def _tasks(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        if hasattr(entry, "block"):
            yield from _tasks([*entry.block, *entry.rescue, *entry.always])
        else:
            yield entry


def excluded(inventory: Any) -> list[str]:
    """Return the hosts that a limit excludes."""
    included = {host.name for host in inventory.get_hosts("all")}
    return sorted(host.name for host in inventory.get_hosts("all", ignore_limits=True) if host.name not in included)


def remaining(
    planned: Sequence[str], reached: Mapping[str, Collection[str]], nodes: Collection[str], bare: Collection[str]
) -> list[str]:
    """Return what a run has not done of its ``planned`` stages: ``labels``, ``prepare on worker-0``. ``reached``: by
    stage, the hosts on which its tasks succeeded.

    If these are all stages of an environment, prepare must have reached all ``nodes``, and kubernetes those that are
    not ``bare``.
    """
    everywhere = {"prepare": set(nodes), "kubernetes": set(nodes) - set(bare)} if set(STAGES) <= set(planned) else {}
    missing = []
    for stage in planned:
        absent = sorted(everywhere.get(stage, set()) - set(reached.get(stage, ())))
        if not reached.get(stage):
            missing.append(stage)
        elif absent:
            missing.append(f"{stage} on {', '.join(absent)}")
    return missing


def closing_line(summary: Mapping[str, Any]) -> str:
    """Return the last line of a partial run from its summary.json: ``aio: done to labels; not done: validate``."""
    done = [stage["name"] for stage in summary["stages"] if stage["result"] == "done"]
    line = f"{summary['environment']}: done to {done[-1]}" if done else f"{summary['environment']}: nothing was done"
    return line + (f"; not done: {', '.join(summary['remaining'])}" if summary["remaining"] else "")
