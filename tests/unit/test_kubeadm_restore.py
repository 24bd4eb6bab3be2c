"""Control plane nodes that start from a snapshot: what a node does with the delivered files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import restore as kubeadm_restore
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed


def staged(root: Path) -> Path:
    staging = root / kubeadm_restore.STAGING.lstrip("/")
    (staging / "pki" / "etcd").mkdir(parents=True)
    (staging / "etcd" / "member" / "snap").mkdir(parents=True)
    for name in ("ca.key", "sa.key", "etcd/ca.key"):
        (staging / "pki" / name).write_text(name)
    return staging


def test_delivered_files_are_moved_to_the_folders_of_kubeadm(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    (tmp_path / "etc/kubernetes/pki/etcd").mkdir(parents=True)
    (tmp_path / "etc/kubernetes/pki/etcd/old.crt").write_text("of an earlier attempt")
    kubeadm_restore.place(Machine(str(tmp_path)))
    assert (tmp_path / "etc/kubernetes/pki/etcd/ca.key").read_text() == "etcd/ca.key"
    assert not (tmp_path / "etc/kubernetes/pki/etcd/old.crt").exists()
    assert (tmp_path / "var/lib/etcd/member/snap").is_dir()
    assert not staging.exists()


@pytest.mark.parametrize("missing", ["pki/ca.key", "etcd/member"])
def test_an_incomplete_delivery_is_refused(tmp_path: Path, missing: str) -> None:
    path = staged(tmp_path) / missing
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StepFailed) as caught:
        kubeadm_restore.place(Machine(str(tmp_path)))
    assert caught.value.reason == "kubernetes_restore_failed"
    assert not (tmp_path / "etc/kubernetes").exists()


KUBELET = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Y2E=
    server: https://main.lab:6443
  name: main
contexts:
- context: {cluster: main, user: system:node:master-0}
  name: system:node:master-0@main
current-context: system:node:master-0@main
kind: Config
users:
- name: system:node:master-0
  user:
    client-certificate-data: Y2VydGlmaWNhdGUK
    client-key-data: a2V5Cg==
"""


def test_kubelet_reads_its_certificate_from_the_file_that_it_renews(tmp_path: Path) -> None:
    conf = tmp_path / "etc/kubernetes/kubelet.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(KUBELET)
    current = tmp_path / "var/lib/kubelet/pki/kubelet-client-current.pem"
    current.parent.mkdir(parents=True)
    current.symlink_to("of-an-earlier-attempt.pem")
    kubeadm_restore.finalize_kubelet(Machine(str(tmp_path)))
    place = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    assert yaml.safe_load(conf.read_text())["users"][0]["user"] == {"client-certificate": place, "client-key": place}
    assert yaml.safe_load(conf.read_text())["clusters"] == yaml.safe_load(KUBELET)["clusters"]
    assert current.is_symlink()
    target = tmp_path / os.readlink(current).lstrip("/")
    assert target.read_text() == "certificate\nkey\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (target, conf)] == [0o600, 0o600]
    with pytest.raises(StepFailed) as caught:
        kubeadm_restore.finalize_kubelet(Machine(str(tmp_path)))
    assert caught.value.reason == "kubernetes_restore_failed"


def test_the_ca_is_published_as_the_controller_manager_does() -> None:
    maps = kubeadm_restore.root_ca_maps(["default", "shop"], "pem")["items"]
    assert [item["metadata"] for item in maps] == [
        {"name": "kube-root-ca.crt", "namespace": "default"},
        {"name": "kube-root-ca.crt", "namespace": "shop"},
    ]
    assert {item["data"]["ca.crt"] for item in maps} == {"pem"}


def test_all_other_phases_are_skipped() -> None:
    skipped = kubeadm_restore.only("addon", "upload-config").removeprefix("--skip-phases=").split(",")
    assert "addon" not in skipped
    assert {"preflight", "certs", "wait-control-plane", "show-join-command"} <= set(skipped)
