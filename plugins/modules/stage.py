# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: stage
short_description: Begin or end a stage of an environment
version_added: 0.1.0
description:
  - The first and the last task of every stage, on the controller.
  - The first stage of an Ansible run acquires the lock of the environment. Processes of a killed run are terminated
    first.
  - It rejects a profile that the environment cannot be changed to, and creates the state directory and the
    directory of the run.
  - The variables C(devenv_name), C(devenv_state) and C(devenv_profile) of the inventory plugin
    P(devenv.lab.profile#inventory) identify the environment.
options:
  name:
    description: The stage.
    type: str
    required: true
    choices: [preflight, bundle, provision, prepare, kubernetes, labels, addons, validate, down]
  state:
    description:
      - V(begin) before the stage, V(end) after it.
      - The end of V(provision) writes C(inventory.yml), that of V(validate) releases the lock, that of V(down) removes
        the environment's entries from the user's own kubeconfigs, removes the state directory and moves its run
        directories to the history.
      - When a run fails or is interrupted, the callback P(devenv.lab.record#callback) releases the lock.
    type: str
    default: begin
    choices: [begin, end]
  command:
    description:
      - Name of the run in the lock, which is shown to other runs that find the environment busy.
      - If empty, the environment variable E(DEVENV_COMMAND), or else Ansible's command line.
    type: str
    default: ""
  last: {description: "Release the lock at this end, whatever the stage is.", type: bool, default: false}
  while_upgrading:
    description: Allow the run although nodes have two versions of Kubernetes because an upgrade was interrupted.
    type: bool
    default: false
  needs_nodes:
    description:
      - Fail if the environment has no nodes yet. A run whose first stage comes after V(provision) always does.
    type: bool
    default: false
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Acquires no lock and writes nothing, but fails if the environment is busy or the profile is rejected.
    support: full
"""

EXAMPLES = r"""
---
- name: Begin the stage and acquire the lock
  devenv.lab.stage:
    name: provision
    state: begin

- name: End the stage and release the lock
  devenv.lab.stage:
    name: provision
    state: end
    last: true
"""

RETURN = r"""
devenv_run_id:
  description: ID of the run, which all its processes have in E(DEVENV_RUN). Also a fact.
  returned: state is begin
  type: str
devenv_run_dir:
  description: Directory of the run's log, events and reports; empty in check mode. Also a fact.
  returned: always
  type: str
devenv_state: {description: State directory of the environment., returned: state is begin, type: str}
devenv_first: {description: Whether this is the run's first stage., returned: state is begin, type: bool}
devenv_command: {description: Name of the run in the lock., returned: state is begin, type: str}
devenv_profile_name: {description: Canonical name of the profile., returned: state is begin, type: str}
devenv_created: {description: Whether the environment did not exist before., returned: state is begin, type: bool}
"""
