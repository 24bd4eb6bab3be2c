"""The commented profiles in examples/profiles: each resolves, and together they cover every topology and axis."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "profiles").glob("*.yml"))
AXES = {"stack": ["ipv6", "dualstack", "dualstack6"], "addressing": ["dhcp"], "provider": ["libvirt", "existing"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_explains_itself_and_resolves(path: Path) -> None:
    assert path.read_text().startswith("# ")
    profile = resolve(str(path))
    assert profile["nodes"]
    kind, _, value = path.stem.partition("-")
    if kind == "topology" and value != "own":
        assert profile["topology"] == value
    if kind in AXES:
        assert profile[kind] == value  # type: ignore[literal-required]


def test_there_is_an_example_of_each_topology_and_axis() -> None:
    names = {path.stem for path in EXAMPLES}
    topologies = {f"topology-{path.stem}" for path in (paths.CONFIGS / "topologies").glob("*.yml")}
    axes = {f"{axis}-{value}" for axis, values in AXES.items() for value in values}
    assert topologies | axes <= names
