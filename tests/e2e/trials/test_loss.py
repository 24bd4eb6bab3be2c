"""Nothing is lost silently: the nodes of a stopped environment are pruned; images have the name that was loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import images
from support.commands import Typed

pytestmark = pytest.mark.cluster


def podman(*words: str) -> str:
    return subprocess.run(["podman", *words], check=True, capture_output=True, text=True).stdout


def test_pods_find_an_image_under_the_name_that_was_loaded(user: Typed, trial: str) -> None:
    with images.built(f"shop/{trial}:1") as name:
        user.devenv("image", "load", name, "--name", trial)
    user.kubectl(trial, "run", "named", f"--image={name}", "--image-pull-policy=Never", "--restart=Never")
    try:
        user.kubectl(trial, "wait", "pod/named", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    finally:
        user.kubectl(trial, "delete", "pod", "named", "--grace-period=0", "--wait=false")
    listed = user.devenv("ssh", "--name", trial, "--", "crictl", "images", "--output=json").stdout
    tags = {tag for image in json.loads(listed)["images"] for tag in image["repoTags"]}
    assert {f"docker.io/{name}", f"localhost/{name}"} <= tags


@pytest.mark.nightly
def test_a_pruned_cluster_comes_back_or_is_refused(user: Typed, trial: str, tmp_path: Path) -> None:
    def identity() -> str:
        return user.kubectl(trial, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}").stdout

    before = identity()
    user.kubectl(trial, "create", "configmap", "mine", "--from-literal=a=1")
    user.devenv("stop", "--name", trial)
    podman("container", "prune", "--force", "--filter", f"label=devenv.environment={trial}")
    assert "master-0" in user.devenv("start", "--name", trial, code=11).stderr

    data = user.home / "environments" / trial / "nodes" / "master-0"
    data.rename(tmp_path / "lost")
    try:
        refused = user.devenv("up", "--name", trial, code=9).stderr
        assert "every object of cluster main" in refused
        assert "--recreate" in refused
        plain = user.playbook("cluster", "-e", f"devenv_name={trial}", code=None)
        assert plain.returncode != 0
        assert "the data of master-0 are gone" in plain.stdout + plain.stderr
        assert podman("ps", "--all", "--quiet", "--filter", f"label=devenv.environment={trial}") == ""
    finally:
        (tmp_path / "lost").rename(data)

    user.playbook("cluster", "-e", f"devenv_name={trial}")
    assert identity() == before
    user.kubectl(trial, "delete", "configmap", "mine")
    assert user.changes("up", "--name", trial, "--full") == []
