# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Callback that records a run, and releases the environment's lock when the run ends early."""

from __future__ import annotations

DOCUMENTATION = r"""
name: record
type: notification
short_description: Record a run in the state directory of its environment
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Writes events, log, JUnit, summary and failure of a run into the directory that M(devenv.lab.stage) created for it,
    with secrets redacted.
  - Marks every process of the run with E(DEVENV_RUN).
  - Releases the environment's lock when the run fails or is interrupted.
  - With the extra variable C(devenv_artifacts) or with E(ARTIFACT_DIR), copies all of it into a new subfolder.
  - When a run that created or changed nodes fails, collects their logs and state into C(gather.tar.gz) next to the log,
    as M(devenv.lab.gather) does, within about a minute. The extra variable C(devenv_gather=false) disables that.
  - Writes nothing for a run without a stage of devenv.
  - Ends a run of a playbook of devenv with exit code 2 before its first task if a tag or a host pattern of C(--limit)
    matches nothing, if the limit excludes localhost, and for C(--start-at-task).
  - At the end of a run that left out stages or nodes, prints what was done and what was not.
requirements:
  - Enable it with C(callbacks_enabled), as the C(ansible.cfg) of devenv does.
"""

import atexit
import json
import os
import signal
from pathlib import Path
from typing import Any

from ansible import context
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.callback import CallbackBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import (
    deadline,
    errors,
    paths,
    processes,
    program,
    progress,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import after_failure, causes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, runs, stages
from ansible_collections.devenv.lab.plugins.plugin_utils.records import artifacts, recorder, selection

STAGE_ACTION = "devenv.lab.stage"
CONTROLLER_ACTIONS = [f"devenv.lab.{path.stem}" for path in (Path(__file__).parents[1] / "action").glob("*.py")]


class CallbackModule(CallbackBase):
    """Passes events on to a Recorder."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "devenv.lab.record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._main = os.getpid()
        self._recorder = recorder.Recorder(controller_actions=CONTROLLER_ACTIONS)
        self._folder: Path | None = None
        self._artifacts = os.environ.get("ARTIFACT_DIR", "")
        self._timeout = 0.0
        self._gathers = True
        self._inventory: Any = None
        deadline.clear()
        self._starts: dict[tuple[str, str], float] = {}
        self._over = False
        # An id that was inherited without the command belongs to another run. Forks inherit what is set here.
        if "DEVENV_OWNER" not in os.environ or not os.environ.get(program.MARKER):
            os.environ[program.MARKER] = runs.new_id()
        os.environ["DEVENV_RECORD"] = str(self._main)
        # Read by the stage validate, which tests the network with pods only after a change.
        os.environ["DEVENV_CHANGED"] = "0"
        self._recorder.run.run_id = os.environ[program.MARKER]
        # Ansible calls no callback when it is interrupted.
        atexit.register(self._at_exit)

    # -- called by Ansible --

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Note all stages in advance, so that the record has those that are never reached."""
        self._over = False
        plays = playbook.get_plays()
        names = [selection.stage_of(play.get_name()) for play in plays]
        self._recorder.run.planned = [name for name in dict.fromkeys(names) if name]
        self._inventory = plays[0].get_variable_manager()._inventory
        if Path(playbook._file_name).resolve().parent == paths.COLLECTION.resolve() / "playbooks":
            self._refuse(selection.refusal(context.CLIARGS, plays, self._inventory))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Start the stage of the play, if it has one."""
        extra = play.get_variable_manager().extra_vars
        self._artifacts = str(extra.get("devenv_artifacts") or self._artifacts)
        self._gathers = boolean(extra.get("devenv_gather", True), strict=False)
        try:
            self._timeout = float(extra.get("devenv_timeout") or 0)
        except (TypeError, ValueError):
            self._timeout = 0.0
        deadline.begin(self._timeout, self._recorder.seconds())
        # Read by the last play of cluster.yml.
        os.environ["DEVENV_REMAINING"] = json.dumps(self._remaining())
        self._note(self._recorder.play(play.get_name()))

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._recorder.task()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._recorder.task()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._starts[host.get_name(), task._uuid] = self._recorder.now()

    def v2_runner_on_ok(self, result: Any) -> None:
        self._result(result, "changed" if result.is_changed() else "ok")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._result(result, "skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._result(result, "ignored" if result.task.ignore_unreachable else "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._finish(ok=not any(stats.failures.values()) and not any(stats.dark.values()))

    # -- record --

    def _refuse(self, trouble: str) -> None:
        """End the run, unless ``trouble`` is empty. Ansible turns other exceptions of a callback into warnings."""
        if trouble:
            self._over = True
            self._display.error(f"{trouble} [selection_empty]", wrap_text=False)
            raise SystemExit(2)

    def _remaining(self) -> list[str]:
        run = self._recorder.run
        groups = self._inventory.groups if self._inventory else {}
        members = {name: [host.name for host in group.get_hosts()] for name, group in groups.items()}
        return selection.remaining(
            run.planned, self._recorder.reached(), members.get("nodes", []), members.get("bare", [])
        )

    def _result(self, result: Any, status: str) -> None:
        task, host = result.task, result.host.get_name()
        action = task.resolved_action or task.action
        now = self._recorder.now()
        self._recorder.result(
            recorder.Outcome(
                host=host,
                task=result.task_name,
                action=action,
                status=status,
                data=result.result,
                seconds=now - self._starts.pop((host, task._uuid), now),
                rescuable=_rescuable(task),
                file=task.get_path() or "",
            )
        )
        if status == "changed":
            os.environ["DEVENV_CHANGED"] = "1"
        if action == STAGE_ACTION and status in ("ok", "changed"):
            self._stage(result.result)

    def _stage(self, data: Any) -> None:
        """Take the place of the record from the result of a stage's begin or end."""
        if data.get("devenv_state"):
            self._folder = Path(data["devenv_state"])
            self._recorder.run.environment = self._folder.name
            self._recorder.run.profile = data.get("devenv_profile_name", "")
            self._recorder.run.command = data.get("devenv_command", "")
        if data.get("devenv_run_dir"):
            self._recorder.place(Path(data["devenv_run_dir"]))

    def _note(self, ended: recorder.Stage | None) -> None:
        """Write the stage that ended into the ledger, unless its environment was removed or only read."""
        if (
            ended is None
            or ended.result == "skipped"
            or self._folder is None
            or self._recorder.folder is None
            or not self._folder.is_dir()
        ):
            return
        try:
            runs.add_line(
                self._folder,
                run=self._recorder.run.run_id,
                stage=ended.name,
                result=ended.result,
                seconds=ended.seconds,
                changed=ended.changed,
            )
        except OSError as error:
            self._recorder.broken = str(error)

    def _finish(self, *, ok: bool, interrupted: str = "") -> None:
        self._over = True
        recorded = self._recorder
        recorded.run.remaining = self._remaining()
        recorded.run.partial = selection.is_partial(context.CLIARGS) or bool(
            self._inventory and selection.excluded(self._inventory)
        )
        if not ok and not interrupted:
            self._explain()
        report = recorded.finish(ok=ok, interrupted=interrupted)
        self._note(recorded.stages[-1] if recorded.stages else None)
        copies: Path | None = None
        if self._artifacts and recorded.stages:
            try:
                copies = artifacts.write(Path(self._artifacts), report, recorded.log_text())
            except OSError as error:
                recorded.broken = str(error)
        if not interrupted and self._gathers and self._folder is not None and recorded.folder is not None:
            self._gather(self._folder, recorded.folder, report, copies)
        if ok and not report.summary["complete"] and recorded.folder is not None:
            self._display.display(selection.closing_line(report.summary))
        if recorded.broken:
            self._display.warning(f"the run could not be recorded: {recorded.broken}")
        if self._folder is not None and recorded.folder is not None:
            self._release(self._folder, report)

    def _explain(self) -> None:
        """Search the nodes for the cause if they can know more than the task that failed."""
        recorded = self._recorder
        relevant = any(failure[0]["exit"] in causes.EXITS for failure in recorded.failures)
        if self._folder is None or recorded.folder is None or not relevant:
            return
        try:
            finding = causes.find(self._folder, max(causes.OLDEST, recorded.seconds() + 60), self._search_seconds())
        except (Exception, KeyboardInterrupt) as error:  # must not replace the first failure
            self._display.warning(f"the nodes were not searched for the cause: {error}")
            return
        if finding is not None:
            recorded.cause = {"id": finding.cause.id, "message": str(finding), "advice": finding.cause.advice}
            self._display.display(f"first cause: {finding}")

    def _search_seconds(self) -> float:
        """Return the seconds for the search: a command with a time limit ends the run soon after the limit."""
        if self._timeout <= 0:
            return causes.SECONDS
        return min(causes.SECONDS, max(2.0, self._timeout + 22 - self._recorder.seconds()))

    def _gather(self, folder: Path, run_dir: Path, report: recorder.Report, copies: Path | None) -> None:
        """Collect logs and state of the nodes; errors are warnings, since the run has failed already."""
        if not after_failure.is_due(folder, report.summary, str((report.failure or {}).get("reason"))):
            return

        def say(text: str) -> None:
            self._display.display(f"{progress.MARK}{text}")

        try:
            path = after_failure.gather(folder, run_dir, copies, say)
        except (Exception, KeyboardInterrupt) as error:
            processes.end_run(report.summary["run"])
            trouble = f"{type(error).__name__}: {error}"
            self._recorder.gathered(report, None, trouble)
            self._display.warning(f"not gathered: {trouble}")
            return
        self._recorder.gathered(report, path)
        self._display.display(f"gathered: {path}")

    def _release(self, folder: Path, report: recorder.Report) -> None:
        try:
            holder = lock.holder_of(self._main, report.summary["run"], "")
            if report.summary["exit"] in (2, 9):
                stages.discard(folder, holder, report.summary["run"])
            lock.release(folder, holder)
        except (errors.DevenvError, OSError) as error:
            self._display.warning(f"the lock of {folder.name} was not released: {error}")

    def _at_exit(self) -> None:
        if self._over or os.getpid() != self._main:
            return
        # Ansible's own handler restores the default after the signal.
        interrupted = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        processes.end_run(self._recorder.run.run_id)
        self._finish(ok=False, interrupted="interrupted" if interrupted else "")


def _rescuable(task: Any) -> bool:
    """Return whether a block above the task has a rescue section that the task is not part of."""
    inner, outer = task, task._parent
    while outer is not None:
        if getattr(outer, "rescue", None) and not _within(outer.rescue, inner) and not _within(outer.always, inner):
            return True
        inner, outer = outer, getattr(outer, "_parent", None)
    return False


def _within(section: Any, child: Any) -> bool:
    return any(entry is child or getattr(entry, "_uuid", None) == child._uuid for entry in section)
