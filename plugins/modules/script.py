#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run an existing shell script with declared variables."""

from __future__ import annotations

DOCUMENTATION = r"""
module: script
short_description: Run an existing shell script with declared variables
version_added: 0.1.0
description:
  - Runs a script as it is. Ansible's values reach it as variables of its environment, secrets by a private file or a
    file descriptor.
  - Nothing of it stays behind when its time is over, when it fails, or when the run is interrupted, and be it by
    SIGKILL. A program of it that goes on after it ended well is left alone, but what it writes to the script's output
    is read for one second more only.
  - Reads nothing from standard input.
  - Keeps a private log of each run, and what the last run that succeeded ran with, in a folder for each O(name).
  - Needs Python and bash on the host, nothing else.
options:
  path: {description: "The script, an absolute path on the host. Either this or O(src).", type: path}
  src:
    description: The script, a file on the controller, looked for as C(files) are. It runs from a private copy.
    type: path
  content: {description: The text of the script; O(src) becomes this. Shown nowhere., type: str}
  name:
    description:
      - Name of the folder for logs and records below O(state). Calls of one script that are to be independent of each
        other have different names.
      - By default the script's base name, with a digest of its path.
    type: str
    default: ""
  state:
    description: Folder for logs and records. By default C(/var/lib/devenv/scripts) for root, for others
      C(devenv/scripts) in E(XDG_STATE_HOME).
    type: path
  arguments:
    description: Arguments of the script. A secret among them is refused.
    type: list
    elements: str
    default: []
  check_arguments:
    description: Further arguments with which the script changes nothing. With them it runs in check mode, too.
    type: list
    elements: str
    default: []
  interpreter:
    description: Program that runs the script, with its options. By default what the script's first line says, and bash
      where it says nothing.
    type: list
    elements: str
    default: []
  chdir:
    description: Working directory. By default the script's own folder, or the user's home with O(src).
    type: path
  source:
    description:
      - Files that bash reads before the script runs. What they set is exported to the script; O(variables) win over
        them.
      - Values of variables whose names look like those of secrets are taken out of the output.
    type: list
    elements: path
    default: []
  variables:
    description:
      - Declarations of what the script may be given, by the name of the variable. Either a type, or a mapping with
        C(type), C(default), C(required), C(choices), C(description); C(words) for true and false of a C(bool);
        C(separator) of a C(list) (a blank by default); C(by) of a C(secret).
      - Types are C(str), C(int), C(float), C(bool), C(list), C(json), C(path) and C(secret).
      - A secret comes C(by) C(file) (the variable has the path of a file that only the user can read and that is gone
        after the run; the default), C(fd) (a path below C(/dev/fd), so there is no file at all), or C(env) (the
        variable has the value, and the user's other processes and root can read it).
      - A variable that gets no value is not set.
    type: dict
    default: {}
  values:
    description: Values by the name of the variable. One that is not declared is refused.
    type: dict
    default: {}
  secrets: {description: Values of the variables of type C(secret)., type: dict, default: {}}
  exports:
    description:
      - Variables that the script exports and that become facts when it succeeded, by the name of the variable. Either a
        type, or a mapping with C(type), C(fact) (the variable's name in lower case by default), C(required) (true by
        default), C(words), C(separator).
      - Only for scripts that a POSIX shell runs. In shells other than bash a script must not set a trap for EXIT.
      - A run that a guard skipped gives the facts of the last run that succeeded.
    type: dict
    default: {}
  timeout:
    description: Seconds for one attempt, and for the wait for another run of the same O(name). 0 is no limit.
    type: float
    default: 3600
  grace: {description: Seconds between SIGTERM and SIGKILL for what is ended., type: float, default: 10}
  log:
    description: File for the log, written anew by each run. By default a new file in the folder of O(name).
    type: path
  keep_logs: {description: Logs of how many runs stay in the folder of O(name)., type: int, default: 10}
  output_lines: {description: Last lines of the output in the result., type: int, default: 50}
  show_pattern:
    description: Regular expression of lines that are shown on the screen when the script has ended.
    type: str
    default: ""
  creates:
    description: Path or pattern of a file, relative to O(chdir). Nothing is done where it exists.
    type: str
    default: ""
  unless:
    description: Line for bash with the script's variables. Nothing is done where it ends with 0. It is run in check
      mode, too, so it must change nothing.
    type: str
    default: ""
  rerun:
    description: V(changed) does nothing unless the script, its variables, arguments, O(source) or O(inputs) differ from
      those of the last run that succeeded.
    type: str
    default: always
    choices: [always, changed]
  inputs:
    description: Further files and folders on whose content O(rerun) depends.
    type: list
    elements: path
    default: []
  changed_when:
    description: When a run that succeeded counts as changed. V(code) by O(changed_codes), V(pattern) by a line of the
      output that O(changed_pattern) is found in.
    type: str
    default: always
    choices: [always, never, code, pattern]
  changed_codes:
    description: Exit codes that say that something changed. They are no failure.
    type: list
    elements: int
    default: []
  changed_pattern:
    description: Regular expression for a line that says that something changed.
    type: str
    default: ""
  ok_codes: {description: Exit codes that are no failure., type: list, elements: int, default: [0]}
  retry_codes:
    description: Exit codes after which the script is run again. 124 is also that of a timeout.
    type: list
    elements: int
    default: []
  retries: {description: How often it is run again at most., type: int, default: 0}
  retry_delay: {description: Seconds before it is run again., type: float, default: 5}
  on_interrupt:
    description:
      - What happens to the script when Ansible is interrupted or killed, or the connection breaks. V(end) ends it and
        all that it started.
      - V(finish) lets it come to its end, for what must not stop half way. The next run waits for it.
    type: str
    default: end
    choices: [end, finish]
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Looks at the guards, and says whether the script would run.
    support: partial
    details: Nobody can know whether a script would change something, so one that would run counts as changed unless
      O(changed_when=never), or O(check_arguments) let it tell.
  diff_mode:
    description: Shows in what this run differs from the last one that succeeded (values of secrets as digests). What
      the script changes is not known.
    support: partial
"""

EXAMPLES = r"""
- name: Install the product with its own script
  devenv.lab.script:
    path: /opt/product/install.sh
    variables:
      CLUSTER_NAME: {type: str, required: true}
      WORKERS: {type: int, default: 2}
      DEBUG: {type: bool, default: false, words: ["1", "0"]}
      PULL_SECRET_FILE: secret
    values:
      CLUSTER_NAME: lab
    secrets:
      PULL_SECRET_FILE: "{{ pull_secret }}"
    exports:
      CONSOLE_URL: {fact: product_console}
    rerun: changed
    timeout: 1800
"""

RETURN = r"""
ran: {description: Whether the script was started., returned: always, type: bool}
skipped_by: {description: The guard because of which it was not., returned: when a guard held, type: str}
rc:
  description: Its exit code. 124 when its time was over, negative the number of a signal.
  returned: when it ran
  type: int
ended:
  description: C(done), C(failed), C(timeout), C(interrupted) or C(busy).
  returned: when it was to run
  type: str
attempts: {description: How often it was run., returned: when it ran and succeeded, type: int}
seconds: {description: "How long it took, with retries.", returned: when it ran and succeeded, type: float}
output: {description: "Last lines of its output, without secrets.", returned: when it ran, type: list, elements: str}
shown:
  description: Lines that O(show_pattern) is found in.
  returned: when it ran and succeeded
  type: list
  elements: str
exported: {description: Facts of what it exported., returned: with O(exports), type: dict}
log:
  description: The whole output, each line after its second, without secrets. For its owner alone.
  returned: when it ran
  type: str
left: {description: Processes that could not be ended., returned: when there are any, type: list, elements: str}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.script import request as script_request
from ansible_collections.devenv.lab.plugins.module_utils.script import run as script
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Interrupted
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid

ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path"},
    "src": {"type": "path"},
    "content": {"type": "str", "no_log": True},
    "name": {"type": "str", "default": ""},
    "state": {"type": "path"},
    "arguments": {"type": "list", "elements": "str", "default": []},
    "check_arguments": {"type": "list", "elements": "str", "default": []},
    "interpreter": {"type": "list", "elements": "str", "default": []},
    "chdir": {"type": "path"},
    "source": {"type": "list", "elements": "path", "default": []},
    "variables": {"type": "dict", "default": {}},
    "values": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "exports": {"type": "dict", "default": {}},
    "timeout": {"type": "float", "default": 3600},
    "grace": {"type": "float", "default": 10},
    "log": {"type": "path"},
    "keep_logs": {"type": "int", "default": 10},
    "output_lines": {"type": "int", "default": 50},
    "show_pattern": {"type": "str", "default": ""},
    "creates": {"type": "str", "default": ""},
    "unless": {"type": "str", "default": ""},
    "rerun": {"type": "str", "default": "always", "choices": ["always", "changed"]},
    "inputs": {"type": "list", "elements": "path", "default": []},
    "changed_when": {"type": "str", "default": "always", "choices": ["always", "never", "code", "pattern"]},
    "changed_codes": {"type": "list", "elements": "int", "default": []},
    "changed_pattern": {"type": "str", "default": ""},
    "ok_codes": {"type": "list", "elements": "int", "default": [0]},
    "retry_codes": {"type": "list", "elements": "int", "default": []},
    "retries": {"type": "int", "default": 0},
    "retry_delay": {"type": "float", "default": 5},
    "on_interrupt": {"type": "str", "default": "end", "choices": ["end", "finish"]},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params: dict[str, Any] = {key: "" if value is None else value for key, value in module.params.items()}
    check, diff = module.check_mode, module._diff
    try:
        call = script_request.prepare(params)
        result = script.supervised(call, params, check, diff)
    except Invalid as error:
        module.fail_json(msg=str(error), devenv_reason="script_invalid")
    except Interrupted:
        module.fail_json(msg=f"interrupted; {call.name} goes on", ended="interrupted")
    except (OSError, RuntimeError) as error:
        module.fail_json(msg=str(error), ended="failed")
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
