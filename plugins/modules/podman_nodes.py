# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: podman_nodes
short_description: Make, start, stop and end the nodes of an environment as podman containers
version_added: 0.1.0
description:
  - Works on all nodes of an environment at once and finds them by their labels.
  - Runs on the controller; needs root and podman there.
author:
  - devenv maintainers (@devenv)
attributes:
  check_mode:
    description: Reports what would change and changes nothing.
    support: full
  diff_mode:
    description: Has no content to show.
    support: none
options:
  environment:
    description: Name of the environment.
    type: str
    required: true
  verb:
    description:
      - What to do. V(create) makes what is missing, starts what is stopped and leaves alone what runs.
      - V(destroy) needs nothing but the labels.
    type: str
    choices: [create, start, stop, status, destroy, remove]
    required: true
  image:
    description: Node image, as M(devenv.lab.podman_image) returned it. Needed for V(create).
    type: str
  store:
    description: Image store, as M(devenv.lab.podman_image) returned it. Needed for V(create).
    type: path
  stores:
    description: Image stores of single nodes that get another than O(store), by name.
    type: dict
    default: {}
  grace:
    description: Seconds that a node gets to shut down, for V(stop).
    type: int
    default: 30
  names:
    description: Nodes to remove, for V(remove).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Make the nodes of the environment
  devenv.lab.podman_nodes:
    environment: aio
    verb: create
    image: localhost/devenv-node:0123456789ab
    store: /root/.cache/devenv/image-stores/0123456789ab
"""

RETURN = r"""
nodes:
  description: Names of the nodes that run.
  returned: always
  type: list
  elements: str
made:
  description: Nodes that were made.
  returned: when something was done
  type: list
  elements: str
notes:
  description: What is worth telling a person.
  returned: always
  type: list
  elements: str
"""
