# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: stage
short_description: Begin or end a stage of an environment
version_added: 0.1.0
description:
  - Stands at the begin and the end of every stage, on the controller.
  - The first begin of an ansible run takes the lock of the environment. What a killed run left is ended first.
  - It refuses a profile that the environment cannot be changed to, makes the state folder and the folder of the run.
  - The environment is named by the variables that the inventory plugin P(devenv.lab.profile#inventory) sets,
    C(devenv_name), C(devenv_state) and C(devenv_profile).
options:
  name:
    description: The stage.
    type: str
    required: true
    choices: [preflight, bundle, provision, prepare, kubernetes, labels, addons, validate, down]
  state:
    description:
      - V(begin) before the stage, V(end) after it.
      - The end of V(provision) writes C(inventory.yml), that of V(validate) gives the lock back,
        that of V(down) takes the environment's entries out of the user's own kubeconfigs, removes the state folder and
        keeps its run folders in the history.
      - When a run fails or is interrupted, the callback P(devenv.lab.record#callback) gives the lock back.
    type: str
    default: begin
    choices: [begin, end]
  command:
    description:
      - What the lock calls the run, for whoever finds the environment busy.
      - Left empty, it is the environment variable E(DEVENV_COMMAND), else ansible's command line.
    type: str
    default: ""
  last: {description: "Give the lock back at this end, whatever the stage is.", type: bool, default: false}
  while_upgrading:
    description: Let the run begin though nodes have two versions of Kubernetes, since an upgrade was ended on its way.
    type: bool
    default: false
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Takes no lock and writes nothing, but fails when the environment is busy or the profile is refused.
    support: full
"""

EXAMPLES = r"""
---
- name: Take the environment
  devenv.lab.stage:
    name: provision
    state: begin

- name: Give it back
  devenv.lab.stage:
    name: provision
    state: end
    last: true
"""

RETURN = r"""
devenv_run_id:
  description: Id of the run; every process of it carries it in E(DEVENV_RUN). Also a fact.
  returned: state is begin
  type: str
devenv_run_dir:
  description: Folder of the run's log, events and reports; empty in check mode. Also a fact.
  returned: always
  type: str
devenv_state: {description: State folder of the environment., returned: state is begin, type: str}
devenv_first: {description: Whether this was the run's first stage., returned: state is begin, type: bool}
devenv_command: {description: What the lock calls the run., returned: state is begin, type: str}
devenv_profile_name: {description: Canonical name of the profile., returned: state is begin, type: str}
devenv_created: {description: Whether the environment was not there before., returned: state is begin, type: bool}
"""
