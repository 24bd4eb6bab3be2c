"""Every reason to fail: stable id, exit code, what it means, what to do next.

The docs page docs/reference/reasons.md is generated from this table; `DevenvError` refuses ids that are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Exit codes of the command, one for each stage that can fail (documented in docs/reference/exit-codes.md).
STAGE_EXITS = {
    "preflight": 9,
    "bundle": 12,
    "provision": 3,
    "prepare": 4,
    "kubernetes": 5,
    "labels": 6,
    "addons": 6,
    "apps": 6,
    "components": 7,
    "validate": 8,
    "down": 13,
    "gather": 20,
}


@dataclass(frozen=True)
class Reason:
    """One row of the catalogue. ``exit`` is the command's exit code."""

    id: str
    exit: int
    meaning: str
    advice: str


def _table(*rows: Reason) -> dict[str, Reason]:
    return {row.id: row for row in rows}


# One block a part, in the order of the exit codes; keep a row on its part's block.
CATALOGUE = _table(
    # any stage: what is known of a failure that named no reason
    Reason(
        "unexpected",
        1,
        "Something failed that devenv did not foresee.",
        "The log named above shows what; it is worth a bug report.",
    ),
    Reason("preflight_failed", 9, "The stage preflight failed.", "The log shows the failed task; nothing was changed."),
    Reason(
        "bundle_failed", 12, "The stage bundle failed.", "The log shows the failed task; the next run continues there."
    ),
    Reason(
        "provision_failed",
        3,
        "The stage provision failed.",
        "The log shows the failed task; run again, or devenv down.",
    ),
    Reason(
        "prepare_failed",
        4,
        "The stage prepare failed.",
        "The log shows the failed task; run again, or look with devenv ssh.",
    ),
    Reason(
        "kubernetes_failed",
        5,
        "The stage kubernetes failed.",
        "The log shows the failed task; run again, or look with devenv ssh.",
    ),
    Reason("labels_failed", 6, "The stage labels failed.", "The log shows the failed task; run again."),
    Reason("addons_failed", 6, "The stage addons failed.", "The log shows the failed task; run again."),
    Reason("apps_failed", 6, "The stage apps failed.", "The log shows the failed task; run again."),
    Reason("components_failed", 7, "The stage components failed.", "The log shows the failed task; run again."),
    Reason(
        "validate_failed",
        8,
        "The stage validate failed.",
        "The log shows what is missing; devenv validate looks again.",
    ),
    Reason("down_failed", 13, "The stage down failed.", "The log shows the failed task; devenv down continues there."),
    Reason("interrupted", 130, "The run was interrupted (Ctrl-C).", "Run again to continue, or devenv down."),
    Reason("terminated", 143, "The run was ended by a signal.", "Run again to continue, or devenv down."),
    # profile and names (2)
    Reason("profile_unknown", 2, "No profile has this name.", "devenv profile list shows all names."),
    Reason(
        "profile_missing",
        2,
        "There is no such profile file.",
        "Check the path; a relative one starts where the command runs.",
    ),
    Reason(
        "profile_unreadable",
        2,
        "The file cannot be read, or is no text.",
        "Give a YAML file of at most 1 MiB that you may read.",
    ),
    Reason("profile_yaml", 2, "The file is not valid YAML.", "Correct the line named in the message."),
    Reason("profile_empty", 2, "The file holds nothing.", "A profile needs at least one key, such as: extends: aio"),
    Reason(
        "profile_invalid",
        2,
        "A key or value of the profile is wrong.",
        "Correct it; the allowed values stand in the message.",
    ),
    Reason(
        "profile_loop", 2, "Profiles extend each other in a circle.", "Let one of them extend a canonical name instead."
    ),
    Reason(
        "not_built",
        2,
        "The key or value is planned, and this version has not got it.",
        "Leave it out, or use an allowed value.",
    ),
    Reason(
        "engine_cannot",
        2,
        "The engine cannot make what the profile asks for.",
        "Take another topology or engine; devenv profile list shows all.",
    ),
    Reason(
        "name_invalid",
        2,
        "The name of the environment is not allowed.",
        "Use 1 to 40 of a-z, 0-9 and '-', no '-' at either end.",
    ),
    Reason(
        "nodes_too_many", 2, "The address plan has no place for so many nodes.", "Use fewer nodes or a larger pool."
    ),
    Reason(
        "subnet_overlap",
        2,
        "Address pools of the profile overlap.",
        "Change one of them under network: in the profile.",
    ),
    # host, looked at before the first change (9)
    Reason("root_needed", 9, "Nodes on this host are made by root.", "Run it as root."),
    Reason(
        "program_missing",
        9,
        "A program that devenv runs is not installed.",
        "make setup installs all of them on Debian.",
    ),
    Reason(
        "podman_backend",
        9,
        "podman uses another network program than netavark.",
        "Install netavark, then podman system reset.",
    ),
    Reason(
        "kernel_feature_missing",
        9,
        "The kernel or its configuration lacks something.",
        "devenv doctor shows each line to type.",
    ),
    Reason(
        "memory_short",
        9,
        "There is not enough free memory for the nodes.",
        "End other programs or choose a smaller profile.",
    ),
    Reason(
        "inotify_short",
        9,
        "The kernel's limit of inotify instances leaves no room for the nodes.",
        "sysctl -w fs.inotify.max_user_instances=512",
    ),
    Reason("disk_short", 9, "There is not enough free disk.", "Free some space; devenv prune removes caches."),
    Reason(
        "name_taken",
        9,
        "The name belongs to an environment of another DEVENV_HOME.",
        "Choose another name with --name.",
    ),
    Reason(
        "ipv6_disabled",
        9,
        "The profile has IPv6, and this host has it switched off.",
        "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0",
    ),
    # hosts that exist already (9, 3, 13)
    Reason(
        "host_unreachable",
        9,
        "A host that the profile names does not answer ssh.",
        "Check nodes.NODE.host in the profile: addresses and port; ssh shows more.",
    ),
    Reason(
        "host_login",
        9,
        "A host refuses the login, or the user may not become root there.",
        "Check nodes.NODE.host: user, key_file and become (sudo has to work without a password).",
    ),
    Reason(
        "host_key_unknown",
        9,
        "The key of a host is not in known_hosts, or another one is.",
        "Compare it with the host's own, then add it: ssh-keyscan HOST >> ~/.ssh/known_hosts, or name another file.",
    ),
    Reason(
        "host_taken",
        9,
        "A host belongs to another cluster or environment.",
        "Take another host, or end what uses it.",
    ),
    Reason(
        "host_unfit",
        9,
        "A host lacks something that a node needs.",
        "Put right what the message names; nothing was changed on any host.",
    ),
    Reason(
        "host_delivery_failed",
        3,
        "Programs and images did not get onto a host.",
        "Run again: what has arrived is not sent twice.",
    ),
    Reason(
        "host_reset_failed",
        13,
        "What devenv put on a host could not be taken away.",
        "Make the host answer and run devenv down again; the environment is kept until then.",
    ),
    Reason(
        "provider_cannot",
        2,
        "The provider of the environment cannot do this.",
        "Do it by yourself, or use an environment of the podman provider.",
    ),
    # provider (3)
    Reason("node_image_failed", 3, "The node image could not be made.", "The log shows the program's own words."),
    Reason("libvirt_failed", 3, "libvirt could not do what was asked.", "The message has libvirt's own words."),
    Reason("podman_failed", 3, "podman could not do what was asked.", "The log shows podman's own words."),
    Reason(
        "node_no_ssh",
        3,
        "A node was made and does not answer ssh.",
        "podman logs and podman exec show the node from inside.",
    ),
    Reason(
        "dhcp_failed",
        3,
        "The DHCP server of an environment does not start.",
        "The message has dnsmasq's own words; something else may serve DHCP on every link of this host.",
    ),
    # profile on this machine (9)
    Reason(
        "jsonschema_missing",
        9,
        "The Python library jsonschema is missing.",
        "pip install jsonschema, for the Python that runs Ansible.",
    ),
    Reason(
        "ssh_folder", 9, "The folder of ssh's control sockets is not yours alone.", "Remove it, if it is not in use."
    ),
    Reason(
        "subnet_none_free",
        9,
        "Every subnet of a node pool is in use on this machine.",
        "Name another pool under network.node_pools in the profile.",
    ),
    # environment (10, 11, 14)
    Reason(
        "profile_not_given",
        2,
        "The run has no profile, or the inventory gave no hosts.",
        "Name one (devenv up --profile aio; ansible-playbook ... -e profile=aio); outside the checkout add "
        "-i <collection>/inventories/profile.",
    ),
    Reason(
        "environment_busy",
        10,
        "Another run works on the environment.",
        "Wait until it ends, or end the process named above: the next run then tidies up after it.",
    ),
    Reason(
        "leftovers_remain",
        10,
        "A killed run left processes that do not end.",
        "Look at the processes named above (a kernel or disk fault keeps them), end them, then run again.",
    ),
    Reason(
        "run_ended",
        10,
        "The run lost its environment: its ansible process is gone, or another run took the lock.",
        "Run again; devenv status says who holds the environment.",
    ),
    Reason(
        "profile_changed",
        14,
        "The profile asks for something that a living environment cannot be changed to.",
        "Take the environment down first (devenv down), use another name (--name), or undo the change in the profile.",
    ),
    # upgrades (5, 9, 14)
    Reason("upgrade_same", 14, "The environment has this version of Kubernetes already.", "There is nothing to do."),
    Reason(
        "upgrade_downgrade",
        14,
        "Kubernetes cannot go back to an older version.",
        "Make a new environment with the older version: devenv up --set kubernetes.version=VERSION --name ANOTHER.",
    ),
    Reason(
        "upgrade_skips_minor",
        14,
        "Kubernetes is upgraded one minor version at a time.",
        "Upgrade to a version of the next minor first.",
    ),
    Reason(
        "upgrade_unfinished",
        14,
        "Nodes of the environment have two versions: an upgrade was ended on its way.",
        "devenv upgrade with the same version goes on.",
    ),
    Reason(
        "upgrade_not_ready",
        9,
        "A cluster that is to be upgraded is not whole.",
        "devenv start starts what is stopped, devenv up heals the rest.",
    ),
    Reason(
        "upgrade_delivery",
        5,
        "Programs of the new version did not arrive on every node.",
        "The nodes are named; devenv upgrade with the same version tries again.",
    ),
    Reason(
        "kubernetes_upgrade",
        5,
        "A node could not be upgraded.",
        "devenv upgrade with the same version goes on; /var/log/devenv/kubeadm-upgrade.log on the node says more.",
    ),
    # nodes that come and go (2, 9, 14)
    Reason("node_unknown", 2, "The environment has no node of this name.", "devenv node list shows its nodes."),
    Reason("node_exists", 2, "The environment has a node of this name.", "devenv node list shows its nodes."),
    Reason(
        "control_plane_last",
        14,
        "A cluster would be left without a control plane node that knows it.",
        "Add another control plane node first (devenv node add); to end the environment: devenv down.",
    ),
    Reason(
        "quorum_needed",
        14,
        "etcd would lose its majority, and with it the cluster.",
        "Heal the other control plane nodes first: devenv up.",
    ),
    Reason(
        "quorum_lost",
        9,
        "So many control plane nodes are gone that etcd has no majority any more.",
        "What the cluster held is out of reach: devenv down, then devenv up makes the environment anew.",
    ),
    Reason(
        "address_many_nodes",
        14,
        "Only a cluster of one node can get another address.",
        "Remove its other nodes first (devenv node remove), or make a new environment.",
    ),
    Reason(
        "address_refused",
        2,
        "The address cannot be a node's.",
        "Take a free one of the environment's own subnet, from .10 (::10) on; devenv status shows those in use.",
    ),
    Reason(
        "state_unwritable",
        9,
        "The state folder cannot be written.",
        "Look at the place named above: free space, owner, read-only file system; or set DEVENV_HOME.",
    ),
    Reason(
        "state_not_removed",
        13,
        "The state folder of an environment that was taken down cannot be removed.",
        "Look at the place named above (a mount, a disk fault), remove it, then run devenv down again.",
    ),
    Reason(
        "state_broken",
        1,
        "A file of the state folder cannot be read.",
        "Take the environment down (devenv down needs no state folder) and make it anew.",
    ),
    Reason(
        "ssh_keygen_failed",
        9,
        "The environment's ssh keys cannot be made.",
        "Install openssh-client, which has ssh-keygen.",
    ),
    # nodes (4)
    Reason(
        "node_config_failed",
        4,
        "A node's files or settings could not be written.",
        "The message names the file; look at the node's disk with devenv ssh.",
    ),
    Reason(
        "node_unit_failed",
        4,
        "A service of a node does not start.",
        "The message ends with the service's own last lines.",
    ),
    Reason("node_leftovers", 4, "Processes of an older run do not end.", "Stop and start the node, then run again."),
    Reason(
        "node_program_missing",
        4,
        "A node lacks a program that Kubernetes needs.",
        "Build the bundle and the node image anew, or install the program.",
    ),
    # gravity (5), its texts as module_utils/gravity/cli.py knows them
    Reason("gravity_token", 5, "The cluster refused the token of a node.", "Run again: the token is read anew."),
    Reason(
        "gravity_input",
        5,
        "Gravity does not know a flavor, a node type or a token of this form.",
        "app.yaml in the tarball lists flavors and node profiles; kubernetes.gravity and node_type name them.",
    ),
    Reason(
        "gravity_address",
        5,
        "The address that Gravity is to use is not one of the node's.",
        "ip address on the node shows what it has.",
    ),
    Reason(
        "gravity_hostname",
        5,
        "Another node of the cluster has this host name.",
        "Give the node another host name, or remove the old one: gravity remove.",
    ),
    Reason(
        "gravity_fixed",
        5,
        "The node type cannot be added to a cluster (expandPolicy: fixed).",
        "Choose another node_type.",
    ),
    Reason(
        "gravity_busy",
        5,
        "The cluster was busy with other nodes or not healthy for too long.",
        "gravity status on a master shows what goes on; run again when it has ended.",
    ),
    Reason(
        "gravity_leftover",
        5,
        "What an earlier installation left on the node could not be removed.",
        "gravity leave --force --confirm on the node, then run again.",
    ),
    Reason(
        "gravity_orphan",
        5,
        "The node has a Gravity whose cluster cannot be reached.",
        "gravity leave --force --confirm on the node, then run again.",
    ),
    Reason(
        "gravity_gone", 5, "The node is no part of the cluster any more.", "Run again: what is left of it is removed."
    ),
    Reason(
        "gravity_moved",
        5,
        "The node's Gravity was installed with an address that the node has no longer.",
        "Say kubernetes.gravity.prepared: true to let it take the new one.",
    ),
    Reason(
        "gravity_many_nodes",
        5,
        "Only a cluster of one node can get another address.",
        "Change the address first, then add nodes.",
    ),
    Reason("gravity_same_address", 5, "The node has this address already.", "There is nothing to do."),
    Reason("gravity_running", 5, "Gravity runs on the node and does not stop.", "gravity stop --confirm on the node."),
    Reason(
        "gravity_absent",
        5,
        "There is no Gravity on the node.",
        "Take an image that has it, or leave kubernetes.gravity.prepared out to install it.",
    ),
    Reason("gravity_usage", 5, "Gravity cannot be used in this way.", "The message says why."),
    Reason(
        "gravity_version",
        5,
        "This version of Gravity cannot do that.",
        "Another address needs 7.0 or later: docs/gravity.md.",
    ),
    Reason(
        "gravity_precondition",
        5,
        "Something that Gravity needs is not given; trying again would not help.",
        "The message says what.",
    ),
    Reason("gravity_aborted", 5, "A Gravity operation was aborted.", "Run again."),
    Reason(
        "gravity_failed",
        5,
        "A Gravity command failed.",
        "/var/log/devenv/gravity-*.log and /var/log/gravity-install.log on the node say more.",
    ),
    Reason(
        "gravity_status",
        5,
        "Gravity gave no answer about its cluster.",
        "gravity status --output=json on a master shows what it says.",
    ),
    Reason(
        "gravity_degraded",
        5,
        "The cluster stays degraded.",
        "gravity status on a master names the probes that fail.",
    ),
    Reason(
        "gravity_timeout",
        5,
        "A Gravity operation did not end in time.",
        "gravity status on a master shows what goes on; run again to wait on.",
    ),
    Reason(
        "gravity_operation",
        5,
        "A Gravity operation failed.",
        "gravity plan --operation-id=ID on a master shows the phase; gravity report collects logs.",
    ),
    Reason(
        "gravity_check",
        5,
        "gravity check found a node unfit.",
        "The message lists what it lacks; /var/log/devenv/gravity-check.log on the node has it all.",
    ),
    Reason(
        "gravity_no_master", 5, "No master of the cluster is healthy.", "gravity status on a master says what it lacks."
    ),
    Reason(
        "gravity_role",
        5,
        "Gravity made a node of another kind than the profile says.",
        "The service role of its node_type in app.yaml must fit: a master for master-N, a node for worker-N.",
    ),
    Reason(
        "gravity_leave",
        5,
        "Gravity could not be taken off a node.",
        "/var/log/devenv/gravity-leave.log on the node says more.",
    ),
    Reason(
        "gravity_kubeconfig",
        5,
        "The cluster gave no account to make a kubeconfig of.",
        "gravity exec kubectl get pods -A on a master shows how its Kubernetes is.",
    ),
    Reason("gravity_report", 5, "gravity report failed.", "Run it on the node by hand."),
    Reason(
        "gravity_tarball",
        2,
        "The tarball of the cluster is missing, or is not the one that the profile means.",
        "kubernetes.gravity.tarball and its sha256 (sha256sum FILE) must fit: docs/gravity.md.",
    ),
    # kubeadm (5)
    Reason(
        "kubernetes_preflight",
        5,
        "kubeadm's own checks of a node failed.",
        "The message lists them; /var/log/devenv/ on the node has the whole output.",
    ),
    Reason(
        "kubernetes_init_failed",
        5,
        "The first control plane node could not be made.",
        "Run again: the node starts anew. /var/log/devenv/kubeadm-init.log on the node says more.",
    ),
    Reason(
        "kubernetes_join_failed",
        5,
        "A node could not join the cluster.",
        "Run again: the node starts anew. /var/log/devenv/kubeadm-join.log on the node says more.",
    ),
    Reason(
        "kubernetes_join_secret",
        5,
        "The token or the certificates for joining could not be made.",
        "Check that the API server of the first control plane node answers, then run again.",
    ),
    Reason("kubernetes_etcd", 5, "etcd could not take or give up a member.", "etcdctl member list on the node."),
    Reason(
        "kubernetes_api",
        5,
        "A control plane node could not ask its own API server.",
        "Look at the pods of kube-system with kubectl on the node, or its containers with ctr -n k8s.io.",
    ),
    Reason("kubernetes_role", 5, "A node is of another kind than the profile says.", "devenv down, then up again."),
    Reason(
        "kubernetes_damaged",
        5,
        "A finished node has lost files of Kubernetes.",
        "Put the files back, or make the environment anew: devenv down, then up.",
    ),
    Reason(
        "kubernetes_reset_failed",
        5,
        "Kubernetes could not be taken off a node.",
        "/var/log/devenv/kubeadm-reset.log on the node says more.",
    ),
    Reason(
        "kubernetes_certificates",
        5,
        "Certificates of a control plane node could not be renewed.",
        "/var/log/devenv/kubeadm-renew.log on the node says more; the old ones still hold.",
    ),
    Reason(
        "kubernetes_address",
        5,
        "A node could not take its new address over.",
        "Run again: it goes on where it stopped. /var/log/devenv/kubeadm-address.log on the node says more.",
    ),
    Reason(
        "kubernetes_drain",
        5,
        "Pods did not leave a node in time.",
        "kubectl get pods -A --field-selector spec.nodeName=NODE shows them; a PodDisruptionBudget may hold them.",
    ),
    # the API, labels and validation (5, 6, 8)
    Reason(
        "inventory_incomplete",
        2,
        "A host lacks a variable that the profile inventory sets.",
        "Run with -i inventories/profile and -e profile=NAME, or name only hosts of it.",
    ),
    Reason(
        "kubeconfig_invalid",
        5,
        "A kubeconfig cannot be used.",
        "devenv up fetches it again from the first control plane node.",
    ),
    Reason("api_unreachable", 5, "The Kubernetes API does not answer.", "devenv up starts what does not run."),
    Reason(
        "labels_nodes_missing",
        6,
        "Nodes of the profile did not register with the cluster.",
        "devenv logs NODE shows why kubelet does not reach the API.",
    ),
    Reason(
        "labels_refused",
        6,
        "Labels, taints or pod ranges of a node cannot be set.",
        "Remove what is named from the node (kubectl label NODE KEY-), or change the profile.",
    ),
    Reason(
        "objects_refused",
        6,
        "An object of an add-on cannot be applied to the cluster, or someone else made one of its name.",
        "Remove what is named (kubectl delete), or switch the add-on off in the profile.",
    ),
    Reason(
        "validate_failed",
        8,
        "The cluster is not ready: a check did not pass in time.",
        "The message lists what is missing; devenv logs NODE shows the journal of a node.",
    ),
    Reason(
        "image_unknown", 2, "There is no such image here.", "podman images lists those of podman; or name an archive."
    ),
    Reason(
        "image_archive_invalid", 2, "The file is not an archive of images.", "Make one with: podman save -o FILE IMAGE."
    ),
    Reason(
        "image_load_failed",
        5,
        "An image did not arrive on every node.",
        "The nodes that lack it are named; devenv up starts what does not run.",
    ),
    # bundle (12)
    Reason(
        "bundle_version_unknown",
        2,
        "No bundle can be made of this Kubernetes version.",
        "Choose one of the versions in configs/versions.yml.",
    ),
    Reason(
        "bundle_source_unknown",
        2,
        "There is no such source of a bundle.",
        "Use auto, cache, directory, release or modules.",
    ),
    Reason("bundle_archive_name", 2, "The name of the archive tells no format.", "Let it end in .tar or .tar.gz."),
    Reason(
        "bundle_url", 2, "A base URL cannot be used.", "Give one that begins with https:// (or http://, for a mirror)."
    ),
    Reason(
        "bundle_architecture",
        12,
        "Bundles are made for amd64 and arm64 machines.",
        "Run devenv on a machine of one of these types.",
    ),
    Reason(
        "bundle_not_in_cache",
        12,
        "The cache holds no bundle of this version.",
        "devenv bundle build makes one, devenv bundle import takes an archive in.",
    ),
    Reason(
        "bundle_not_in_directory",
        12,
        "The directory holds no bundle that fits.",
        "Name a folder of exported archives, or one archive: devenv bundle export makes it.",
    ),
    Reason(
        "bundle_no_source",
        12,
        "None of the sources gave a bundle.",
        "Make one source work; the message says what each lacks.",
    ),
    Reason(
        "bundle_unreachable",
        12,
        "A place to download from does not answer.",
        "Check network, proxy variables and base URLs; the next run goes on where this one stopped.",
    ),
    Reason(
        "bundle_download",
        12,
        "A download broke off again and again, or the server answered with an error.",
        "Try again: the next run goes on where this one stopped.",
    ),
    Reason(
        "bundle_not_found",
        12,
        "A file or module is not at its place.",
        "Check the base URL or the mirror: it needs the official layout, with checksums.",
    ),
    Reason(
        "bundle_image_missing",
        12,
        "The registry lacks an image.",
        "Put the image named in the message into the mirror.",
    ),
    Reason(
        "bundle_wrong_digest",
        12,
        "A file is not what its published digest says.",
        "Do not use it. Try again, then ask who runs the mirror; nothing was installed.",
    ),
    Reason(
        "bundle_library_missing",
        12,
        "A Python library of the source release is not installed.",
        "pip install -r requirements.txt of the collection, or use another source.",
    ),
    Reason(
        "bundle_toolchain",
        12,
        "There is no Go toolchain that works, and none could be fetched.",
        "Install Go of at least the version named in configs/versions.yml.",
    ),
    Reason("bundle_build", 12, "A program could not be built.", "The message ends with what Go said."),
    Reason(
        "bundle_input_missing",
        12,
        "The collection lacks the Go module of this version.",
        "Install the collection anew.",
    ),
    Reason(
        "bundle_program_missing", 12, "A program that builds images is not installed.", "apt-get install mmdebstrap"
    ),
    Reason(
        "bundle_debian",
        12,
        "Debian packages for the images could not be unpacked.",
        "Run the mmdebstrap command of the message by hand.",
    ),
    Reason(
        "bundle_image_content",
        12,
        "An image lacks a program that belongs into it.",
        "Check the mirror: it must hold the official images.",
    ),
    Reason(
        "bundle_disk_full", 12, "The disk is full.", "Free some space; devenv prune removes what can be made again."
    ),
    Reason(
        "bundle_unwritable", 12, "The cache cannot be written.", "Check owner and mode of the folder in the message."
    ),
    Reason(
        "bundle_broken",
        12,
        "A bundle lacks files, or its manifest is unreadable.",
        "devenv bundle build makes it anew.",
    ),
    Reason(
        "bundle_archive_broken",
        12,
        "The archive is damaged or no exported bundle.",
        "Copy it again and compare its checksum, or export it again.",
    ),
    Reason(
        "bundle_of_others",
        12,
        "The archive was made for another machine type or by another version of devenv.",
        "Export it with this version of devenv on a machine of this type.",
    ),
    # forward (2, 5, 11)
    Reason(
        "service_unknown",
        11,
        "The cluster has no such Service.",
        "kubectl get services -A lists them; the message has names that are near.",
    ),
    Reason(
        "service_port",
        2,
        "The Service, or the port of it that was named, cannot be forwarded.",
        "Only TCP ports of Services that select pods can be.",
    ),
    Reason(
        "forward_failed",
        5,
        "A Service could not be forwarded to this host.",
        "The message has kubectl's own words; devenv status shows whether the cluster runs.",
    ),
    # snapshots
    Reason(
        "snapshot_unknown",
        2,
        "There is no snapshot of this name.",
        "devenv snapshot list shows all.",
    ),
    Reason(
        "snapshot_name",
        2,
        "This cannot be the name of a snapshot.",
        "Small letters, digits and hyphens, at most 40, a letter or digit at both ends.",
    ),
    Reason(
        "snapshot_taken",
        2,
        "There is a snapshot of this name already.",
        "Choose another name, or remove that one with devenv snapshot rm.",
    ),
    Reason(
        "snapshot_differs",
        2,
        "The profile is another one than that of the snapshot, in what a cluster cannot change.",
        "Leave --profile out to start from the snapshot with its own profile.",
    ),
    Reason(
        "snapshot_in_use",
        2,
        "An environment is yet to be made from the snapshot.",
        "Let devenv up end, or take the environment down.",
    ),
    Reason(
        "snapshot_broken",
        9,
        "A snapshot's files are not what was saved.",
        "Remove it with devenv snapshot rm and save it anew.",
    ),
    Reason(
        "snapshot_disk",
        9,
        "A snapshot does not fit on the disk.",
        "Make room: devenv prune, devenv snapshot rm; then try again.",
    ),
    Reason(
        "snapshot_environment",
        14,
        "An environment that is there already cannot start from a snapshot, or not from another one.",
        "Choose another name with --name, or take it down first.",
    ),
    Reason(
        "snapshot_unhealthy",
        5,
        "A cluster that is to be saved does not work.",
        "devenv validate says more; --force saves it all the same.",
    ),
    Reason(
        "snapshot_encrypted",
        5,
        "The cluster encrypts Secrets in etcd, with a key that a snapshot does not keep.",
        "Save it without encryption at rest.",
    ),
    Reason(
        "snapshot_failed",
        5,
        "A cluster's data could not be saved, or brought to new nodes.",
        "The message has the program's own words; nothing half saved is left.",
    ),
    Reason(
        "kubernetes_restore_failed",
        5,
        "A control plane node could not be started from saved data.",
        "/var/log/devenv/kubeadm-restore-*.log on the node says more; devenv up begins anew.",
    ),
    Reason(
        "snapshot_apps",
        8,
        "The cluster was made from a snapshot, and pods that were ready when it was saved are not.",
        "kubectl describe pod says why; devenv validate checks the cluster itself.",
    ),
    # gather (2, 20)
    Reason(
        "gather_output",
        2,
        "The archive cannot have this name.",
        "Give a folder, or a name that ends in .tar.gz.",
    ),
    Reason(
        "gather_failed",
        20,
        "The archive could not be written.",
        "Look at the place named above: free space, owner; or name another with --output.",
    ),
    # scripts and env files (2)
    Reason(
        "env_file_invalid",
        2,
        "These variables cannot be written as an env file of this format.",
        "The message names the variable; docs/scripts.md says what each format can hold.",
    ),
    Reason(
        "script_invalid",
        2,
        "What was given for a script does not fit together; it was not started.",
        "The message names the parameter, the variable or the file; docs/scripts.md shows how it is meant.",
    ),
    # the command
    Reason(
        "time_over",
        1,
        "The time given by --timeout was over; the exit code is that of the stage that was at work.",
        "devenv up goes on where it stopped; give it more time with --timeout.",
    ),
)


def of_stage(stage: str) -> Reason:
    """The reason of a failure in ``stage`` that named none."""
    return CATALOGUE.get(f"{stage}_failed", CATALOGUE["unexpected"])
