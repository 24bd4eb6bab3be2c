"""Save an environment as a snapshot, and start one from a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import deadline, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import (
    begin,
    catalogue,
    deliver,
    record,
    save,
    wait,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.etcd import EtcdMember
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, kept_images, remote


class ActionModule(Action, ActionBase):
    """One action per step. ``begin`` finds everything that could prevent a restore."""

    SELECT = "action"
    REQUIRED_IF = (
        ("action", "remove", ("name",)),
        ("action", "save", ("name", "nodes")),
        ("action", "deliver", ("name", "nodes")),
    )

    def _list(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"changed": False, "snapshots": catalogue.rows(paths.home())}

    def _remove(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            catalogue.check_removal(paths.home(), args["name"])
        else:
            catalogue.remove(paths.home(), args["name"])
        return {"changed": True}

    def _save(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        home = paths.home()
        if self.check:
            catalogue.check_name(args["name"])
            return {"changed": args["name"] not in catalogue.names(home)}
        hostvars = variables["hostvars"]
        engines.require_operation(str(variables["devenv_engine"]), "snapshot")
        source = save.Source(
            environment=str(variables["devenv_name"]),
            resolved=inventory.required_profile(variables),
            network=state.read_network(inventory.state_folder(variables)) or network_plan.EMPTY,
            clusters=clusters.from_hostvars(args["nodes"], hostvars, args["clusters"]),
            targets={node: remote.target(node, hostvars[node]) for node in args["nodes"]},
        )
        source = save.only(source) if args["clusters"] else source
        snapshot = save.save(
            home,
            args["name"],
            source,
            bundles.require(str(variables["devenv_kubernetes_version"])),
            self.progress,
            force=args["force"],
        )
        return {"changed": True, "path": str(snapshot.folder), "bytes": snapshot.size, "archives": snapshot.archives}

    def _begin(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        engines.require_operation(str(variables["devenv_engine"]), "snapshot")
        resolved = inventory.required_profile(variables)
        pending = begin.begin(paths.home(), inventory.state_folder(variables), args["name"], resolved, check=self.check)
        if pending:
            self.progress(f"starts from snapshot {pending}")
        return _pending(pending)

    def _prepare(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder = inventory.state_folder(variables)
        begun = record.read(folder)
        if begun is None or begun.done:
            return _pending("")
        snapshot = catalogue.read(paths.home(), begun.name)
        if not self.check:
            begin.seed_network(snapshot, folder)
        return _pending(snapshot.name, snapshot.archives)

    def _deliver(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": True}
        hostvars = variables["hostvars"]
        new_clusters = [
            deliver.NewCluster(
                cluster.name,
                [EtcdMember(node.name, node.addresses[0]) for node in cluster.control_plane],
                cluster.version,
                args["encryption"],
            )
            for cluster in clusters.from_hostvars(args["nodes"], hostvars)
        ]
        images = not provider_traits.traits(str(variables["devenv_provider"]))["image_store"]
        deliver.deliver(
            catalogue.read(paths.home(), args["name"]),
            new_clusters,
            {node: remote.target(node, hostvars[node]) for node in args["nodes"]},
            bundles.require(str(variables["devenv_kubernetes_version"])),
            inventory.state_folder(variables) / "clusters",
            self.progress,
            images=images,
        )
        return {"changed": True}

    def _finish(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder = inventory.state_folder(variables)
        begun = record.read(folder)
        if not self.check and begun and not begun.done:
            # For nodes that are added or recreated later.
            for archive in sorted(set(catalogue.read(paths.home(), begun.name).archives.values())):
                kept_images.keep(folder, Path(archive), image_load.digests_in(Path(archive)), {}, move=False)
            record.finish(folder)
        # Only the record of the restore changes, not the environment.
        return {"changed": False}

    def _wait(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": False}
        saved = catalogue.read(paths.home(), args["name"])
        restored = clusters.from_hostvars(args["nodes"], variables["hostvars"])
        pods = wait.for_apps(saved, restored, deadline.remaining(args["timeout"]), self.progress)
        return {"changed": False, "pods": pods}


def _pending(name: str, archives: dict[str, str] | None = None) -> dict[str, Any]:
    facts = {"devenv_snapshot_pending": name, "devenv_snapshot_archives": archives or {}}
    return {"changed": False, "pending": name, "archives": archives or {}, "ansible_facts": facts}
