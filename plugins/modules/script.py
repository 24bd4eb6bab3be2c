#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: script
short_description: Run an existing shell script with declared variables
version_added: 0.1.0
description:
  - Runs a script as it is. Ansible's values reach it as environment variables, secrets through a private file or a file
    descriptor.
  - None of its processes remain after its timeout, after a failure, or after the run is interrupted, even by SIGKILL. A
    process that still runs after the script has succeeded is left alone, but its output is read for only one more
    second.
  - Reads nothing from standard input.
  - Keeps a private log of each run and the inputs of the last successful run, in one directory per O(name).
  - Needs only Python and bash on the host.
options:
  path: {description: "The script, an absolute path on the host. Either this or O(src).", type: path}
  src:
    description: The script, a file on the controller, searched for like C(files). A private copy of it runs.
    type: path
  content: {description: The text of the script; O(src) sets it. Never shown., type: str}
  name:
    description:
      - Name of the directory for logs and records below O(state). Calls of one script that are to be independent of
        each other need different names.
      - By default the script's base name, with a digest of its path.
    type: str
    default: ""
  state:
    description: Directory for logs and records. By default C(/var/lib/devenv/scripts) for root, for others
      C(devenv/scripts) in E(XDG_STATE_HOME).
    type: path
  arguments:
    description: Arguments of the script. A secret among them is rejected.
    type: list
    elements: str
    default: []
  check_arguments:
    description: Further arguments with which the script changes nothing. With them it also runs in check mode.
    type: list
    elements: str
    default: []
  interpreter:
    description: Program that runs the script, with its options. By default that of the script's first line, or bash if
      that names none.
    type: list
    elements: str
    default: []
  chdir:
    description: Working directory. By default the script's directory, or the user's home with O(src).
    type: path
  source:
    description:
      - Files that bash sources before the script runs. Their variables are exported to the script; O(variables) take
        precedence over them.
      - Values of variables with names like those of secrets are redacted in the output.
    type: list
    elements: path
    default: []
  variables:
    description:
      - Declarations of the variables that the script accepts, by name. Either a type, or a mapping with C(type),
        C(default), C(required), C(choices), C(description); C(words) for true and false of a C(bool); C(separator) of a
        C(list) (a space by default); C(by) of a C(secret).
      - Types are C(str), C(int), C(float), C(bool), C(list), C(json), C(path) and C(secret).
      - A secret is delivered C(by) C(file) (the default - the variable has the path of a file that only the user can
        read and that is removed after the run), C(fd) (a path below C(/dev/fd), without any file), or C(env) (the
        variable has the value, which root and the user's other processes can read).
      - A variable without a value is not set.
    type: dict
    default: {}
  values:
    description: Values by name of the variable. A variable that is not declared is rejected.
    type: dict
    default: {}
  secrets: {description: Values of the variables of type C(secret)., type: dict, default: {}}
  exports:
    description:
      - Variables that the script exports and that become facts when it succeeds, by name. Either a type, or a mapping
        with C(type), C(fact) (the variable's name in lower case by default), C(required) (true by default), C(words),
        C(separator).
      - Only for scripts that a POSIX shell runs. In shells other than bash, a script must not set a trap for EXIT.
      - A run that a guard skips returns the facts of the last successful run.
    type: dict
    default: {}
  timeout:
    description: Time limit in seconds of one attempt, and of the wait for another run of the same O(name). 0 is no
      limit.
    type: float
    default: 3600
  grace: {description: Seconds between SIGTERM and SIGKILL., type: float, default: 10}
  log:
    description: File for the log, which each run overwrites. By default a new file in the directory of O(name).
    type: path
  keep_logs: {description: Number of logs that stay in the directory of O(name)., type: int, default: 10}
  output_lines: {description: Number of last lines of output in the result., type: int, default: 50}
  show_pattern:
    description: Regular expression for lines that are printed when the script has ended.
    type: str
    default: ""
  creates:
    description: Path or pattern of a file, relative to O(chdir). If it exists, the script does not run.
    type: str
    default: ""
  unless:
    description: Command line for bash with the script's variables. If it exits with 0, the script does not run. It also
      runs in check mode, so it must change nothing.
    type: str
    default: ""
  rerun:
    description: With V(changed), the script runs only if its content, variables, arguments, O(source) or O(inputs)
      differ from those of the last successful run.
    type: str
    default: always
    choices: [always, changed]
  inputs:
    description: Further files and directories whose content counts for O(rerun).
    type: list
    elements: path
    default: []
  changed_when:
    description: When a successful run counts as changed. V(code) by O(changed_codes), V(pattern) if O(changed_pattern)
      matches a line of the output.
    type: str
    default: always
    choices: [always, never, code, pattern]
  changed_codes:
    description: Exit codes that indicate a change. They are not failures.
    type: list
    elements: int
    default: []
  changed_pattern:
    description: Regular expression for an output line that indicates a change.
    type: str
    default: ""
  ok_codes: {description: Exit codes that are not failures., type: list, elements: int, default: [0]}
  retry_codes:
    description: Exit codes after which the script runs again. A timeout has code 124.
    type: list
    elements: int
    default: []
  retries: {description: Maximum number of retries., type: int, default: 0}
  retry_delay: {description: Seconds before a retry., type: float, default: 5}
  on_interrupt:
    description:
      - What happens to the script when Ansible is interrupted or killed, or the connection breaks. V(end) terminates it
        and all processes that it started.
      - V(finish) lets it finish, for scripts that must not stop half way. The next run waits for it.
    type: str
    default: end
    choices: [end, finish]
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Evaluates the guards and reports whether the script would run.
    support: partial
    details: Whether a script would change something is unknown, so one that would run counts as changed unless
      O(changed_when=never) is set or O(check_arguments) let it report that itself.
  diff_mode:
    description: Shows how this run's inputs differ from those of the last successful one (secrets as digests). What
      the script changes is unknown.
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
skipped_by: {description: The guard that prevented the run., returned: when a guard did, type: str}
rc:
  description: Its exit code; 124 after a timeout, the negative number of a signal that killed it.
  returned: when it ran
  type: int
ended:
  description: C(done), C(failed), C(timeout), C(interrupted) or C(busy).
  returned: unless a guard prevented the run
  type: str
attempts: {description: Number of attempts., returned: when it ran and succeeded, type: int}
seconds: {description: "Duration, retries included.", returned: when it ran and succeeded, type: float}
output: {description: "Last lines of its output, without secrets.", returned: when it ran, type: list, elements: str}
shown:
  description: Lines that O(show_pattern) matches.
  returned: when it ran and succeeded
  type: list
  elements: str
exported: {description: Facts from the exported variables., returned: with O(exports), type: dict}
log:
  description: File with the complete output, each line with its time in seconds, without secrets. Only its owner can
    read it.
  returned: when it ran
  type: str
left: {description: Processes that could not be terminated., returned: when there are any, type: list, elements: str}
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
        module.fail_json(msg=f"interrupted; {call.name} continues", ended="interrupted")
    except (OSError, RuntimeError) as error:
        module.fail_json(msg=str(error), ended="failed")
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
