# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: convergence
short_description: Compare an environment with what its last complete run left
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Runs on the controller. Asks nodes, host and clusters once, in about a second, for everything that the stages
    decide by.
  - A run with tags, a limit, check mode or extra variables other than those of every run is partial. It never counts
    as unchanged and records nothing.
options:
  action:
    description:
      - V(compare) says whether the stages would find nothing to do. A run that somebody wants to see in detail (C(-v),
        C(--diff), artifacts) never counts as unchanged.
      - V(record) records what a complete run left, for V(compare). Without a run folder (C(devenv_run_dir)) it does
        nothing.
    type: str
    required: true
    choices: [compare, record]
  full:
    description: For V(compare), whether all stages run in any case.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Reads and writes nothing; the stages run.
  diff_mode:
    support: none
    description: There is no content to compare.
"""

EXAMPLES = r"""
---
- name: Compare the environment with what its last complete run left
  devenv.lab.convergence:
    action: compare
"""

RETURN = r"""
unchanged:
  description: Whether the stages would find nothing to do; false if that is unknown.
  returned: action is compare
  type: bool
recorded:
  description: Whether there is a record of this run.
  returned: action is record
  type: bool
"""
