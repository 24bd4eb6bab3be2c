# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: convergence
short_description: Compare an environment with its state after the last complete run
version_added: 0.1.0
description:
  - Runs on the controller. Collects everything that the stages base their decisions on from nodes, host and clusters,
    once, in about a second.
  - A run with tags, a limit, check mode or extra variables that not every run has is partial. It never counts as
    unchanged and records nothing.
options:
  action:
    description:
      - V(compare) reports whether all stages would be no-ops. A run with C(-v), C(--diff) or artifacts, whose user
        expects the details of the stages, never counts as unchanged.
      - V(record) records the state after a complete run, for V(compare). Without a run directory (C(devenv_run_dir)) it
        does nothing.
    type: str
    required: true
    choices: [compare, record]
  full:
    description: For V(compare), whether all stages run in any case.
    type: bool
    default: false
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Reads and writes nothing; the stages run.}
"""

EXAMPLES = r"""
---
- name: Compare the environment with its state after the last complete run
  devenv.lab.convergence:
    action: compare
"""

RETURN = r"""
unchanged:
  description: Whether all stages would be no-ops; false if that is unknown.
  returned: action is compare
  type: bool
recorded:
  description: Whether this run is recorded.
  returned: action is record
  type: bool
complete:
  description: Whether this run ran every stage on every node. A run with a limit, tags or check mode may not have.
  returned: action is record
  type: bool
"""
