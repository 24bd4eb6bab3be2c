# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: bundle
short_description: Ensure the bundle of a Kubernetes version
version_added: 0.1.0
description:
  - A bundle is one directory of the cache with all binaries and images of a Kubernetes version, and a manifest of their
    digests.
  - It is built in a temporary directory and moved into place when complete. Concurrent builds wait for each other.
  - Runs on the controller.
options:
  state:
    description:
      - V(present) builds the bundle if it is not in the cache.
      - V(verified) compares every file of the bundle with the manifest and fails if one differs.
      - V(exported) writes the bundle to O(archive), unless that has the same bundle already.
      - V(imported) imports the bundle of O(archive) into the cache; needs no network.
    type: str
    default: present
    choices: [present, verified, exported, imported]
  version:
    description: Kubernetes version; if empty, the default of C(configs/versions.yml).
    type: str
    default: ""
  source:
    description:
      - Where the bundle comes from.
      - V(cache) fails if it is not in the cache. V(directory) takes it from O(directory).
      - V(release) downloads the official binaries and images, and checks each against its published SHA-256.
      - V(modules) builds from Go modules and Debian packages.
      - V(auto) uses the first source that works, in this order, and reports why the others did not.
      - A wrong digest fails the task, whatever the source.
    type: str
    default: auto
    choices: [auto, cache, directory, release, modules]
  parts:
    description:
      - Optional parts that the bundle must include - V(helm), V(metrics), V(storage).
      - Missing parts are built or downloaded, from the source that the bundle came from.
    type: list
    elements: str
    default: []
  directory:
    description: A directory of exported archives or of bundles, one bundle, or one archive.
    type: path
    default: ""
  archive:
    description:
      - The archive to write or to read. Its name ends in C(.tar) or C(.tar.gz).
      - With V(exported) it can be a directory, in which the archive gets a name.
    type: path
    default: ""
  kubernetes_url: {description: Base URL of the Kubernetes binaries., type: str, default: https://dl.k8s.io}
  helm_url: {description: Base URL of helm., type: str, default: https://get.helm.sh}
  containerd_url:
    description: Base URL of the containerd releases.
    type: str
    default: https://github.com/containerd/containerd/releases/download
  cni_url:
    description: Base URL of the releases of the CNI plugins.
    type: str
    default: https://github.com/containernetworking/plugins/releases/download
  crictl_url:
    description: Base URL of the releases of crictl.
    type: str
    default: https://github.com/kubernetes-sigs/cri-tools/releases/download
  registry_url:
    description: Registry of the images, with the path prefix of their names if it has one.
    type: str
    default: https://registry.k8s.io
  docker_url:
    description: Registry of the images that are published on docker.io.
    type: str
    default: https://registry-1.docker.io
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Builds and writes nothing; RV(bundle) is empty if there is no bundle yet., support: full}
notes:
  - Downloads honour the usual proxy variables, and an interrupted download resumes where it stopped.
  - Images with Debian's files follow Debian's updates, so their digests change over time.
    The manifest has the versions of the packages.
"""

EXAMPLES = r"""
---
- name: Ensure the bundle of the default version
  devenv.lab.bundle:

- name: Download it from a mirror
  devenv.lab.bundle:
    source: release
    kubernetes_url: https://mirror.example/kubernetes
    helm_url: https://mirror.example/helm
    containerd_url: https://mirror.example/containerd
    cni_url: https://mirror.example/cni
    registry_url: https://mirror.example:5000/k8s

- name: Export it for a machine without a network
  devenv.lab.bundle:
    state: exported
    archive: /srv/devenv-bundle.tar.gz
"""

RETURN = r"""
bundle:
  description: The bundle; also the fact C(devenv_bundle). Empty in check mode if there is none yet.
  returned: success
  type: dict
  contains:
    path:
      description: Directory of the bundle.
      type: str
    digest:
      description: SHA-256 of its content.
      type: str
    kubernetes:
      description: Its Kubernetes version.
      type: str
    source:
      description: The source that it was built from.
      type: str
    parts:
      description: The optional parts that it includes.
      type: list
      elements: str
    images:
      description: Name, digest, archive and part (empty for the images of every bundle) of each image.
      type: list
      elements: dict
notes: {description: Result of each source that was tried., returned: success, type: list, elements: str}
archive: {description: The archive., returned: state is exported, type: str}
"""
