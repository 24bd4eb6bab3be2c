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
    "apps": 6,
    "components": 7,
    "validate": 8,
    "down": 13,
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
    Reason("root_needed", 9, "The podman provider works as root.", "Run it as root."),
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
    Reason("disk_short", 9, "There is not enough free disk.", "Free some space; devenv prune removes caches."),
    Reason(
        "name_taken",
        9,
        "The name belongs to an environment of another DEVENV_HOME.",
        "Choose another name with --name.",
    ),
    # provider (3)
    Reason("node_image_failed", 3, "The node image could not be made.", "The log shows the program's own words."),
    Reason("podman_failed", 3, "podman could not do what was asked.", "The log shows podman's own words."),
    Reason(
        "node_no_ssh",
        3,
        "A node was made and does not answer ssh.",
        "podman logs and podman exec show the node from inside.",
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
        "Name a profile (devenv up --profile aio; ansible-playbook ... -e profile=aio); outside the checkout add -i <collection>/inventories/profile.",
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
    Reason(
        "state_unwritable",
        9,
        "The state folder cannot be written.",
        "Look at the place named above: free space, owner, read-only file system; or set DEVENV_HOME.",
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
        "validate_failed",
        8,
        "The cluster is not ready: a check did not pass in time.",
        "The message lists what is missing; devenv logs NODE shows the journal of a node.",
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
)
