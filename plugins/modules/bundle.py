# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: bundle
short_description: Have all programs and images of a Kubernetes version
version_added: 0.1.0
description:
  - A bundle is one folder of the cache with every program and image of a Kubernetes version,
    and a manifest of their digests.
  - It is made in a folder aside and put in place when it is complete; two builds at once wait for each other.
  - Runs on the controller.
options:
  state:
    description:
      - V(present) makes the bundle if the cache has none.
      - V(verified) compares every file of the bundle with the manifest and fails when one differs.
      - V(exported) writes the bundle to O(archive), unless the same bundle is there.
      - V(imported) takes the bundle of O(archive) into the cache; needs no network.
    type: str
    default: present
    choices: [present, verified, exported, imported]
  version:
    description: The Kubernetes version; left empty, the default of C(configs/versions.yml).
    type: str
    default: ""
  source:
    description:
      - Where the bundle comes from.
      - V(cache) fails when the cache has none. V(directory) takes it from O(directory).
      - V(release) fetches the official programs and images, each checked against its published sha256.
      - V(modules) builds from Go modules and Debian packages.
      - V(auto) takes the first that works, in this order, and says why the others did not.
      - A wrong digest ends the task, whatever the source.
    type: str
    default: auto
    choices: [auto, cache, directory, release, modules]
  parts:
    description:
      - Optional parts that the bundle must have - V(helm), V(metrics), V(storage).
      - Those that it lacks are built or fetched, from the source that the bundle came from.
    type: list
    elements: str
    default: []
  directory:
    description: A folder of exported archives or of bundles, one bundle, or one archive.
    type: path
    default: ""
  archive:
    description:
      - The archive to write or to read. It ends in C(.tar) or C(.tar.gz).
      - For V(exported) it may be a folder, in which the archive gets a name.
    type: path
    default: ""
  kubernetes_url: {description: Base URL of the Kubernetes programs., type: str, default: https://dl.k8s.io}
  helm_url: {description: Base URL of helm., type: str, default: https://get.helm.sh}
  containerd_url:
    description: Base URL of the containerd releases.
    type: str
    default: https://github.com/containerd/containerd/releases/download
  cni_url:
    description: Base URL of the releases of the CNI plugins.
    type: str
    default: https://github.com/containernetworking/plugins/releases/download
  registry_url:
    description: Registry of the images, with a path before the names if it has one.
    type: str
    default: https://registry.k8s.io
  docker_url:
    description: The same for images that are published on docker.io.
    type: str
    default: https://registry-1.docker.io
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Makes and writes nothing; RV(bundle) is empty when there is no bundle yet., support: full}
notes:
  - Downloads honour the usual proxy variables and go on where a broken one stopped.
  - Images that hold Debian's files follow Debian's updates, so their digests change with time.
    The manifest names the versions of the packages.
"""

EXAMPLES = r"""
---
- name: Have the bundle of the default version
  devenv.lab.bundle:

- name: Take it from a mirror
  devenv.lab.bundle:
    source: release
    kubernetes_url: https://mirror.example/kubernetes
    helm_url: https://mirror.example/helm
    containerd_url: https://mirror.example/containerd
    cni_url: https://mirror.example/cni
    registry_url: https://mirror.example:5000/k8s

- name: Write it out for a machine without network
  devenv.lab.bundle:
    state: exported
    archive: /srv/devenv-bundle.tar.gz
"""

RETURN = r"""
bundle:
  description: The bundle; also the fact C(devenv_bundle). Empty when there is none yet in check mode.
  returned: success
  type: dict
  contains:
    path:
      description: Folder of the bundle.
      type: str
    digest:
      description: The sha256 of what it holds.
      type: str
    kubernetes:
      description: Its Kubernetes version.
      type: str
    source:
      description: The source that it was made from.
      type: str
    parts:
      description: The optional parts that it has.
      type: list
      elements: str
    images:
      description: Name, digest, archive and part (empty for what every bundle has) of every image.
      type: list
      elements: dict
notes: {description: What each source that was looked at said., returned: success, type: list, elements: str}
archive: {description: The archive., returned: state is exported, type: str}
"""
