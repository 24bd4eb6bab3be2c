"""An environment with an app and its data is saved; another one starts with both, at the same time, with new keys."""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import ha
from support.commands import Typed, addresses

pytestmark = pytest.mark.cluster

VERSIONS = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs" / "versions.yml").read_text())
IMAGE = "example.test/shop:1"
APP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: shop-data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: shop, name: data-shop-0}
  hostPath: {path: /srv/shop/data, type: DirectoryOrCreate}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: shop}
data: {greeting: kept in etcd}
---
apiVersion: v1
kind: Secret
metadata: {name: legacy, namespace: shop, annotations: {kubernetes.io/service-account.name: default}}
type: kubernetes.io/service-account-token
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: shop, namespace: shop}
spec:
  serviceName: shop
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: example.test/shop:1
          imagePullPolicy: Never
          args:
            - sh
            - -c
            - |
              test -s /data/index.html || cat /proc/sys/kernel/random/uuid >/data/index.html
              test -s /claimed/id || cat /proc/sys/kernel/random/uuid >/claimed/id
              cp /claimed/id /data/claimed.txt
              exec httpd -f -p 8080 -h /data
          securityContext: {runAsUser: 0}
          readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}, {name: claimed, mountPath: /claimed}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Gi}}}
    # Of the default StorageClass.
    - metadata: {name: claimed}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
"""


@pytest.fixture(scope="module")
def old(user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An environment whose app has written a random ID, which no other run would write."""
    name = new_name("saved")
    user.devenv("up", "--profile", "aio", "--set", "storage.enabled=true", "--name", name)
    bundled = "devenv.lab/probe:1.0.0"
    user.devenv("ssh", "--name", name, "--", f"ctr -n k8s.io images tag {bundled} {IMAGE} >/dev/null")
    file = tmp_path_factory.mktemp("app") / "app.yml"
    file.write_text(APP)
    user.kubectl(name, "apply", "-f", str(file))
    user.kubectl(name, "-n", "shop", "rollout", "status", "statefulset/shop", "--timeout=120s")
    yield name
    user.devenv("down", "--name", name)


@pytest.fixture(scope="module")
def snapshot(user: Typed, old: str) -> Iterator[str]:
    name = f"of-{old}"[:40].rstrip("-")
    user.devenv("snapshot", "save", name, "--name", old)
    yield name
    user.devenv("snapshot", "rm", name, code=None)


@pytest.fixture(scope="module")
def new(user: Typed, old: str, snapshot: str, new_name: Callable[[str], str]) -> Iterator[str]:
    """The restored environment, with the profile of the snapshot."""
    name = new_name("restored")
    done = user.objects("up", "--snapshot", snapshot, "--name", name)
    assert done[-1]["exit"] == 0
    yield name
    user.devenv("down", "--name", name)


def content(user: Typed, name: str, file: str = "index.html") -> str:
    """Return the reply of the app to a request by its Service name from a pod."""
    url = f"http://shop.shop.svc.cluster.local/{file}"
    return user.kubectl(
        name, "-n", "shop", "exec", "shop-0", "--", "curl", "-sS", "--max-time", "10", url
    ).stdout.strip()


def access(user: Typed, name: str) -> tuple[str, str, bytes]:
    """Return URL, CA and client certificate of the kubeconfig."""
    document = yaml.safe_load((user.home / "environments" / name / "kubeconfig").read_text())
    cluster, person = document["clusters"][0]["cluster"], document["users"][0]["user"]
    return (
        cluster["server"],
        cluster["certificate-authority-data"],
        base64.b64decode(person["client-certificate-data"] + "=="),
    )


def status_with_token(url: str, token: str) -> int:
    """Return the HTTP status of a request with a token; the server's certificate is not verified."""
    trusting = ssl._create_unverified_context()
    request = urllib.request.Request(f"{url}/api/v1/namespaces/shop/pods", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, context=trusting, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_snapshot_is_private_and_has_no_keys_of_the_cluster(user: Typed, old: str, snapshot: str) -> None:
    folder = user.home / "snapshots" / snapshot
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert [path.name for path in folder.parent.iterdir()] == [snapshot]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    # The image of the storage add-on is not in the image store of a new node, either.
    provisioner = f"docker.io/rancher/local-path-provisioner:v{VERSIONS['local_path']}"
    assert [node["images"] for node in manifest["nodes"].values()] == [[provisioner, IMAGE]]
    database = (folder / "etcd-main.db").read_bytes()
    assert b"kept in etcd" in database
    token = user.kubectl(old, "-n", "shop", "get", "secret", "legacy", "-o", "jsonpath={.data.token}").stdout
    assert len(token) > 100
    assert base64.b64decode(token) not in database
    ca = base64.b64decode(access(user, old)[1])
    assert ca not in database
    rows = {row["name"]: row for row in user.data("snapshot", "list")}
    assert (rows[snapshot]["state"], rows[snapshot]["environment"]) == ("whole", old)


def test_the_restored_app_has_its_data_while_the_first_still_runs(user: Typed, old: str, new: str) -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", content(user, old))
    assert content(user, new) == content(user, old)
    assert re.fullmatch(r"[0-9a-f-]{36}", content(user, old, "claimed.txt"))
    assert content(user, new, "claimed.txt") == content(user, old, "claimed.txt")
    assert user.kubectl(new, "get", "storageclasses", "-o", "name").stdout.split() == [
        "storageclass.storage.k8s.io/local-path"
    ]
    greeting = user.kubectl(new, "-n", "shop", "get", "configmap", "words", "-o", "jsonpath={.data.greeting}").stdout
    assert greeting == "kept in etcd"
    pods = json.loads(user.kubectl(new, "get", "pods", "-A", "-o", "json").stdout)["items"]
    # Helper pods that test, create and clear volumes complete, and are removed a little later.
    lasting = [pod for pod in pods if pod["spec"]["restartPolicy"] != "Never"]
    assert "shop-0" in {pod["metadata"]["name"] for pod in lasting}
    assert {pod["status"]["phase"] for pod in lasting} == {"Running"}


def test_keys_certificates_and_tokens_are_new(user: Typed, old: str, new: str) -> None:
    (url, ca, certificate), (new_url, new_ca, new_certificate) = access(user, old), access(user, new)
    assert len({url, new_url}) == len({ca, new_ca}) == len({certificate, new_certificate}) == 2
    keys = {
        name: user.devenv("ssh", "--name", name, "--", "cat /etc/kubernetes/pki/sa.pub").stdout for name in (old, new)
    }
    assert "PUBLIC KEY" in keys[new]
    assert keys[old] != keys[new]
    published = user.kubectl(
        new, "-n", "shop", "get", "configmap", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}"
    ).stdout
    assert published.strip() == base64.b64decode(new_ca).decode().strip()
    trusted = user.kubectl(
        new, "-n", "kube-system", "get", "configmap", "extension-apiserver-authentication",
        "-o", r"jsonpath={.data.client-ca-file}",
    ).stdout  # fmt: skip
    assert trusted.strip() == published.strip()


def test_the_old_clusters_token_and_kubeconfig_are_refused(user: Typed, old: str, new: str, tmp_path: Path) -> None:
    def fresh(name: str) -> str:
        return user.kubectl(name, "-n", "shop", "create", "token", "default").stdout.strip()

    def legacy(name: str) -> str:
        encoded = user.kubectl(name, "-n", "shop", "get", "secret", "legacy", "-o", "jsonpath={.data.token}").stdout
        return base64.b64decode(encoded).decode()

    url = access(user, new)[0]
    # 403: authenticated, but not allowed to list pods.
    assert [status_with_token(url, token) for token in (fresh(new), legacy(new))] == [403, 403]
    assert [status_with_token(url, token) for token in (fresh(old), legacy(old))] == [401, 401]
    document = yaml.safe_load((user.home / "environments" / old / "kubeconfig").read_text())
    document["clusters"][0]["cluster"] = {"server": url, "insecure-skip-tls-verify": True}
    stale = tmp_path / "kubeconfig"
    stale.write_text(yaml.safe_dump(document))
    stale.chmod(0o600)
    refused = user.run("kubectl", "--kubeconfig", str(stale), "get", "nodes", code=None)
    assert refused.returncode != 0
    assert "Unauthorized" in refused.stderr


def test_the_restored_environment_is_converged_and_valid(user: Typed, new: str) -> None:
    assert user.changes("up", "--name", new, "--full") == []
    user.devenv("validate", "--name", new)


@pytest.mark.nightly
def test_an_added_node_has_the_images_of_the_snapshot(user: Typed, new: str) -> None:
    user.devenv("node", "add", "worker-0", "--name", new)
    stored = user.devenv("ssh", "worker-0", "--name", new, "--", "ctr -n k8s.io images list --quiet").stdout
    assert IMAGE in stored.splitlines()
    user.devenv("node", "remove", "worker-0", "--name", new)


def test_an_impossible_restore_is_refused_before_anything_is_created(
    user: Typed, old: str, snapshot: str, new_name: Callable[[str], str]
) -> None:
    name = new_name("none")
    folder = user.home / "environments" / name
    near = user.devenv("up", "--snapshot", f"{snapshot}x", "--name", name, code=2)
    assert snapshot in near.stderr
    other = user.devenv("up", "--snapshot", snapshot, "--profile", "master-2pipe", "--name", name, code=2)
    assert "topology" in other.stderr
    user.devenv("up", "--snapshot", snapshot, "--name", old, code=14)
    user.devenv("snapshot", "save", snapshot, "--name", old, code=2)
    database = user.home / "snapshots" / snapshot / "etcd-main.db"
    intact = database.read_bytes()
    database.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    try:
        broken = user.devenv("up", "--snapshot", snapshot, "--name", name, code=9)
        assert "etcd-main.db" in broken.stderr
    finally:
        database.write_bytes(intact)
    assert not folder.exists()


def test_a_broken_cluster_is_not_saved(user: Typed, old: str) -> None:
    user.kubectl(old, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    user.kubectl(old, "-n", "kube-system", "wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns", "--timeout=60s")
    try:
        refused = user.devenv("snapshot", "save", "ill", "--name", old, code=5)
        assert "CoreDNS" in refused.stderr or "dns" in refused.stderr
        assert not (user.home / "snapshots" / "ill").exists()
    finally:
        user.kubectl(old, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=1")


@pytest.mark.nightly
def test_three_masters_are_restored_at_their_addresses(user: Typed, new_name: Callable[[str], str]) -> None:
    name, saved, masters = new_name("three"), new_name("three-saved"), ["master-0", "master-1", "master-2"]
    user.devenv("up", "--profile", "compact", "--name", name)
    try:
        user.kubectl(name, "create", "configmap", "words", "--from-literal=greeting=kept in etcd")
        before = addresses(user, name)
        user.devenv("snapshot", "save", saved, "--name", name)
        user.devenv("down", "--name", name)
        user.devenv("up", "--snapshot", saved, "--name", name)
        assert addresses(user, name) == before
        assert ha.members(name, masters) == dict.fromkeys(masters, True)
        greeting = user.kubectl(name, "get", "configmap", "words", "-o", "jsonpath={.data.greeting}").stdout
        assert greeting == "kept in etcd"
        # No member waited for the data of one that did not serve yet: that would take seven seconds each.
        logs = [user.kubectl(name, "-n", "kube-system", "logs", f"etcd-{master}").stdout for master in masters]
        assert all("ready to serve client requests" in log for log in logs)
        assert not any("initial corruption check" in log for log in logs)
        assert user.changes("up", "--name", name, "--full") == []
    finally:
        user.devenv("down", "--name", name)
        user.devenv("snapshot", "rm", saved, code=None)


def test_down_keeps_the_snapshot_and_rm_removes_it(user: Typed, new: str, snapshot: str) -> None:
    user.devenv("down", "--name", new)
    assert snapshot in {row["name"] for row in user.data("snapshot", "list")}
    user.devenv("snapshot", "rm", snapshot)
    assert list((user.home / "snapshots").iterdir()) == []
    user.devenv("snapshot", "rm", snapshot, code=2)
