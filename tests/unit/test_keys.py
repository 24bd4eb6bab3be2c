"""No key of a profile is ignored: the table of their effects covers the schema, and decides about profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import (
    amend,
    data,
    engines,
    names,
    provider_traits,
    rules,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import keys, quotas
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

SCHEMA = data.schema()
TABLE = data.read("keys")
TARBALL = {"kubernetes.engine": "gravity", "kubernetes.gravity.tarball": "/a", "kubernetes.gravity.sha256": "0" * 64}
HOST = {"provider": "existing", "nodes.master-0.host.addresses": ["192.0.2.1"]}


@pytest.fixture(autouse=True)
def no_quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the filesystem of this machine; see test_quotas.py."""
    monkeypatch.setattr(quotas, "MOUNTS", tmp_path / "mountinfo")
    quotas.MOUNTS.write_text("20 1 254:0 / / rw - ext4 /dev/vda rw\n")


def leaves(rule: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the keys of the schema that have values: not those that are not built yet."""
    if rule.get("x-not-built") is True:
        return
    while "$ref" in rule:
        rule = SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]
    below = dict(rule.get("properties", {}))
    if rule.get("patternProperties"):
        below["*"] = next(iter(rule["patternProperties"].values()))
    if isinstance(rule.get("additionalProperties"), dict) and "properties" in rule["additionalProperties"]:
        below["*"] = rule["additionalProperties"]
    if not below:
        yield path
    for key, inner in below.items():
        yield from leaves(inner, f"{path}.{key}" if path else key)


def covers(entry: str, leaf: str) -> bool:
    return leaf == entry or leaf.startswith(f"{entry}.")


def test_the_schema_is_walked() -> None:
    found = set(leaves(SCHEMA))
    assert {"nodes.*.disk", "clusters.*.endpoint.kind", "network.pods.ipv6", "registry.mirrors"} <= found


@pytest.mark.parametrize("leaf", list(leaves(SCHEMA)))
def test_the_table_classifies_every_key_once(leaf: str) -> None:
    assert [entry for entries in TABLE.values() for entry in entries if covers(entry, leaf)] != []
    assert sum(covers(entry, leaf) for entries in TABLE.values() for entry in entries) == 1


@pytest.mark.parametrize("entry", [entry for entries in TABLE.values() for entry in entries])
def test_every_entry_of_the_table_is_a_key(entry: str) -> None:
    assert any(covers(entry, leaf) for leaf in leaves(SCHEMA))


@pytest.mark.parametrize("name", provider_traits.names())
def test_every_provider_decides_about_its_keys(name: str) -> None:
    assert sorted(provider_traits.traits(name)["keys"]) == sorted(TABLE["provider"])


@pytest.mark.parametrize("name", engines.names())
def test_every_engine_decides_about_its_keys(name: str) -> None:
    assert sorted(engines.traits(name)["keys"]) == sorted(TABLE["engine"])


def test_the_settings_of_every_engine_are_in_the_table() -> None:
    settings = SCHEMA["properties"]["kubernetes"]["properties"].keys() - {"version", "engine"}
    assert TABLE["settings"] == [f"kubernetes.{name}" for name in sorted(settings)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nodes.master-0.disk": "40GiB"}, "nodes.master-0.disk: has no effect with the provider podman: "),
        # The default, but it is not what the node gets.
        ({"nodes.master-0.disk": "20GiB"}, "nodes.master-0.disk: "),
        ({**HOST, "nodes.master-0.cpus": 2}, "nodes.master-0.cpus: has no effect with the provider existing: "),
        ({**HOST, "nodes.master-0.memory": "8GiB"}, "nodes.master-0.memory: "),
        ({**HOST, "nodes.master-0.disk": "8GiB"}, "nodes.master-0.disk: "),
        ({**HOST, "network.node_pools.ipv4": "10.9.0.0/16"}, "network.node_pools.ipv4: "),
        ({**HOST, "network.node_prefix": 25}, "network.node_prefix: "),
        ({"nodes.master-0.node_type": "db"}, "nodes.master-0.node_type: has no effect with the engine kubeadm: "),
        ({"kubernetes.gravity.tarball": "/a"}, "kubernetes.gravity.tarball: settings of the engine gravity, "),
        ({"kubernetes.gravity.prepared": True}, "kubernetes.gravity.prepared: "),
        ({**TARBALL, "registry.mirrors.docker.io": ["http://a"]}, "registry.mirrors.docker.io: "),
        ({**TARBALL, "proxy.http": "http://a"}, "proxy.http: has no effect with the engine gravity: "),
        ({**TARBALL, "storage.enabled": True}, "storage.enabled: "),
        ({**TARBALL, "metrics.enabled": True}, "metrics.enabled: "),
        (
            {"nodes.worker-0.cluster": None, "nodes.worker-0.labels.pipe": "true"},
            "nodes.worker-0.labels: only nodes of a cluster have it, and this one is bare",
        ),
        ({"nodes.worker-0.cluster": None, "nodes.worker-0.taints": ["a:NoSchedule"]}, "nodes.worker-0.taints: "),
        ({"nodes.worker-0.cluster": None, "nodes.worker-0.schedulable": True}, "nodes.worker-0.schedulable: "),
    ],
)
def test_a_key_without_effect_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(DevenvError) as caught:
        resolve("sno", overrides=overrides)
    assert caught.value.reason.id == "profile_invalid"
    assert caught.value.message.startswith(message)


def test_a_key_without_effect_of_a_file_and_what_it_extends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("extends: sno\nprovider: libvirt\nnodes: {master-0: {disk: 40GiB}}\n")
    (tmp_path / "mine.yml").write_text("extends: ./base.yml\nprovider: podman\n")
    resolve(str(tmp_path / "base.yml"))
    with pytest.raises(DevenvError, match=r"nodes\.master-0\.disk") as caught:
        resolve(str(tmp_path / "mine.yml"))
    assert str(tmp_path / "mine.yml") in caught.value.where


def test_the_value_that_holds_anyway_is_accepted() -> None:
    overrides = {
        **TARBALL,
        "storage.enabled": False,
        "metrics.enabled": False,
        "proxy.http": "",
        "registry.mirrors": {},
    }
    assert resolve("sno", overrides=overrides)["storage"]["enabled"] is False


def test_sizes_that_nobody_set_are_no_reason_to_refuse() -> None:
    for name in names.canonical():
        resolve(name)
    resolve("sno", overrides=HOST)


def test_a_stored_profile_is_accepted_and_its_overrides_are_not() -> None:
    stored = resolve("sno")
    assert amend.amend(stored, {"validate.checks": []}) == stored
    with pytest.raises(DevenvError, match=r"nodes\.master-0\.disk"):
        amend.amend(stored, {"nodes.master-0.disk": "40GiB"})


def test_a_harmless_key_without_effect_is_reported() -> None:
    other = next(
        version for version in data.read("versions")["kubernetes"] if version != data.read("versions")["default"]
    )
    lines = rules.warnings(resolve("sno", overrides={**TARBALL, "kubernetes.version": other}))
    assert [line for line in lines if "kubernetes.version: has no effect with the engine gravity: " in line] == lines
    assert len(lines) == 1
    assert keys.warnings(resolve("sno", overrides={"kubernetes.version": other})) == []
