"""Where the source `release` downloads from."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Places:
    """Base URLs of the official downloads; a mirror with the same layout may stand in for each."""

    kubernetes: str = "https://dl.k8s.io"
    helm: str = "https://get.helm.sh"
    containerd: str = "https://github.com/containerd/containerd/releases/download"
    cni: str = "https://github.com/containernetworking/plugins/releases/download"
    registry: str = "https://registry.k8s.io"
    docker: str = "https://registry-1.docker.io"

    @classmethod
    def names(cls) -> list[str]:
        return [one.name for one in fields(cls)]
