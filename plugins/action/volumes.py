"""Report the volumes on the disks of nodes, and release those that are lost with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, volumes


class ActionModule(Action, ActionBase):
    SELECT = "action"

    def _report(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        def report(api: client.Api, nodes: Sequence[str]) -> tuple[list[str], list[str]]:
            lost, kept = volumes.lost(api, nodes), volumes.kept(api, nodes)
            texts = [f"{volume.node}: the volume of {volume} is lost with the node" for volume in lost]
            texts += [f"the volume of {volume} is kept" for volume in kept] if lost else []
            return [volume.name for volume in lost], texts

        return {**self._each(report, args, variables), "changed": False}

    def _release(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        def release(api: client.Api, nodes: Sequence[str]) -> tuple[list[str], list[str]]:
            lost = volumes.lost(api, nodes)
            failed = [] if self.check else volumes.release(api, lost)
            texts = [f"{volume.node}: the volume of {volume} was lost; its claim is new and empty" for volume in lost]
            return [volume.name for volume in lost], failed or texts

        return self._each(release, args, variables)

    def _each(
        self,
        work: Callable[[client.Api, Sequence[str]], tuple[list[str], list[str]]],
        args: dict[str, Any],
        variables: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the names and the texts of ``work`` for every cluster of the nodes that has come up."""
        names: list[str] = []
        warnings: list[str] = []
        for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
            if not cluster.kubeconfig.exists():
                continue
            nodes = [node.name for node in cluster.nodes]
            try:
                with client.Api(client.read_access(cluster.kubeconfig)) as api:
                    found, texts = work(api, nodes)
            except client.ApiFailure as error:
                found, texts = [], [f"cluster {cluster.name}: its volumes are unknown: {error}"]
            names += found
            warnings += texts
        return {"changed": bool(names), "volumes": names, "warnings": warnings}
