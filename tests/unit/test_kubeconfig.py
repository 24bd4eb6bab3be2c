"""The environment's kubeconfig: names, server, file, link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig

ADMIN = """
apiVersion: v1
kind: Config
current-context: kubernetes-admin@kubernetes
clusters:
  - name: kubernetes
    cluster: {certificate-authority-data: QVVUSA==, server: "https://main.x.devenv.internal:6443"}
users:
  - name: kubernetes-admin
    user: {client-certificate-data: Q0VSVA==, client-key-data: S0VZ}
contexts:
  - name: kubernetes-admin@kubernetes
    context: {cluster: kubernetes, user: kubernetes-admin}
"""


@pytest.mark.parametrize(
    ("environment", "cluster", "name"),
    [("aio", "main", "devenv-aio"), ("two", "blue", "devenv-two-blue")],
)
def test_the_context_is_named_after_environment_and_cluster(environment: str, cluster: str, name: str) -> None:
    assert kubeconfig.context_name(environment, cluster) == name


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("10.213.4.10", "https://10.213.4.10:6443"),
        ("fd77::a", "https://[fd77::a]:6443"),
        ("api.devenv.internal", "https://api.devenv.internal:6443"),
    ],
)
def test_the_server_url_has_the_port_and_brackets_for_ipv6(address: str, url: str) -> None:
    assert kubeconfig.server_url(address) == url


def test_rewrite_keeps_only_the_current_context() -> None:
    assert yaml.safe_load(kubeconfig.rewrite(ADMIN, name="devenv-x", server="https://10.0.0.1:6443")) == {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "devenv-x",
        "clusters": [
            {
                "name": "devenv-x",
                "cluster": {"certificate-authority-data": "QVVUSA==", "server": "https://10.0.0.1:6443"},
            }
        ],
        "users": [{"name": "devenv-x", "user": {"client-certificate-data": "Q0VSVA==", "client-key-data": "S0VZ"}}],
        "contexts": [{"name": "devenv-x", "context": {"cluster": "devenv-x", "user": "devenv-x"}}],
    }


def test_rewrite_rejects_a_kubeconfig_that_names_a_key_file() -> None:
    text = ADMIN.replace("client-key-data: S0VZ", "client-key: /etc/kubernetes/pki/key")
    with pytest.raises(DevenvError, match="neither a client certificate with key"):
        kubeconfig.rewrite(text, name="devenv-x", server="https://10.0.0.1:6443")


def test_a_second_write_changes_nothing(tmp_path: Path) -> None:
    assert not kubeconfig.is_current(tmp_path, "main", "one")
    assert kubeconfig.write(tmp_path, "main", "one")
    file, link = tmp_path / "clusters" / "main" / "kubeconfig", tmp_path / "kubeconfig"
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.readlink(link) == "clusters/main/kubeconfig"
    assert link.read_text() == "one"
    assert kubeconfig.is_current(tmp_path, "main", "one")
    assert not kubeconfig.write(tmp_path, "main", "one")
    assert not kubeconfig.is_current(tmp_path, "main", "two")
    assert kubeconfig.write(tmp_path, "main", "two")
    assert file.read_text() == "two"


def test_a_wrong_mode_or_link_is_corrected(tmp_path: Path) -> None:
    kubeconfig.write(tmp_path, "main", "one")
    kubeconfig.path_of(tmp_path, "main").chmod(0o644)
    assert not kubeconfig.is_current(tmp_path, "main", "one")
    assert kubeconfig.write(tmp_path, "main", "one")
    link = tmp_path / "kubeconfig"
    link.unlink()
    link.symlink_to("elsewhere")
    assert not kubeconfig.is_current(tmp_path, "main", "one")
    assert kubeconfig.write(tmp_path, "main", "one")
    assert link.read_text() == "one"


def test_other_clusters_have_no_link(tmp_path: Path) -> None:
    assert kubeconfig.write(tmp_path, "blue", "one")
    assert kubeconfig.is_current(tmp_path, "blue", "one")
    assert not (tmp_path / "kubeconfig").is_symlink()


def test_a_folder_in_place_of_the_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").mkdir()
    with pytest.raises(DevenvError, match="cannot be replaced"):
        kubeconfig.write(tmp_path, "main", "one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clusters", "kubeconfig"]


def test_a_file_is_recognized_by_its_source_and_server(tmp_path: Path) -> None:
    server, source = "https://10.0.0.1:6443", kubeconfig.digest(ADMIN)
    assert not kubeconfig.is_made_of(tmp_path, "main", source, server)
    kubeconfig.write(tmp_path, "main", kubeconfig.rewrite(ADMIN, name="devenv-x", server=server))
    assert kubeconfig.is_made_of(tmp_path, "main", source, server)
    assert not kubeconfig.is_made_of(tmp_path, "main", kubeconfig.digest(ADMIN + "\n"), server)
    assert not kubeconfig.is_made_of(tmp_path, "main", source, "https://10.0.0.1:8443")


@pytest.mark.parametrize("harm", ["text", "mode", "link", "heading"])
def test_a_modified_file_is_not_recognized(tmp_path: Path, harm: str) -> None:
    server = "https://10.0.0.1:6443"
    kubeconfig.write(tmp_path, "main", kubeconfig.rewrite(ADMIN, name="devenv-x", server=server))
    path = kubeconfig.path_of(tmp_path, "main")
    if harm == "text":
        path.write_text(path.read_text().replace("S0VZ", "S0Va"))
    elif harm == "mode":
        path.chmod(0o644)
    elif harm == "link":
        (tmp_path / "kubeconfig").unlink()
    else:
        path.write_text(path.read_text().partition("\n")[2])
    assert not kubeconfig.is_made_of(tmp_path, "main", kubeconfig.digest(ADMIN), server)
