"""Engines are data: their files obey a schema, and no code decides by an engine's name."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((paths.CONFIGS / "schema" / "engine.json").read_text())
PROFILE = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text())
RULE = PROFILE["properties"]["kubernetes"]["properties"]["engine"]
# Planned ones, too: they are not to come in by a comparison either.
NAMES = {*RULE["enum"], *RULE["x-not-built"]}
OWN = ("plugin_utils/engines/", *(f"module_utils/{name}/" for name in NAMES))
TARBALL = {"kubernetes.engine": "gravity", "kubernetes.gravity.tarball": "/a", "kubernetes.gravity.sha256": "0" * 64}


def decided(tree: ast.AST, names: set[str]) -> Iterator[ast.Constant]:
    """Where code decides by a name: comparisons, match, subscripts and get, and values of what is called engine.

    Other strings are no decision: the words of a command line, files of a bundle, names of logs.
    """
    for node in ast.walk(tree):
        places: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                places += side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
        elif isinstance(node, ast.MatchValue):
            places.append(node.value)
        elif isinstance(node, ast.Subscript):
            places.append(node.slice)
        elif isinstance(node, ast.Call):
            places += [word.value for word in node.keywords if "engine" in (word.arg or "")]
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "startswith", "fullmatch"):
                places += node.args
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any("engine" in ast.unparse(target).lower() for target in targets):
                value = node.value
                places += value.elts if isinstance(value, ast.Tuple | ast.List | ast.Set) else [value]
                places += value.keys if isinstance(value, ast.Dict) else []
        elif isinstance(node, ast.FunctionDef):
            both = [*node.args.posonlyargs, *node.args.args]
            defaults = [*zip(both[len(both) - len(node.args.defaults) :], node.args.defaults, strict=True)]
            defaults += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)  # type: ignore[arg-type]
            places += [default for argument, default in defaults if "engine" in argument.arg]
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            places += [v for k, v in pairs if isinstance(k, ast.Constant) and "engine" in str(k.value)]
        yield from (place for place in places if isinstance(place, ast.Constant) and place.value in names)


def sources() -> list[Path]:
    folders = (ROOT / "plugins", ROOT / "wrapper" / "src" / "devenv")
    paths = [path for folder in folders for path in folder.rglob("*.py") if not path.name.startswith(tuple(NAMES))]
    return [path for path in paths if not any(folder in path.as_posix() for folder in OWN)]


def test_no_code_decides_by_the_name_of_an_engine() -> None:
    checked = sources()
    assert len(checked) > 200
    decisions = [
        f"{path.relative_to(ROOT)}:{constant.lineno}: {constant.value}"
        for path in checked
        for constant in decided(ast.parse(path.read_text()), NAMES)
    ]
    assert decisions == []


@pytest.mark.parametrize(
    "code",
    [
        'if engine == "kubeadm": ...',
        'if "gravity" != x.engine: ...',
        'if e in ("kubeadm", "gravity"): ...',
        'engine = "kubeadm"',
        'class K:\n    engine: str = "gravity"',
        'def f(engine="kubeadm"): ...',
        'def f(*, engine: str = "kubeadm"): ...',
        'f(engine="kubeadm")',
        'ENGINES = {"kubeadm": 1}',
        'x = {"engine": "gravity"}',
        'kubernetes["gravity"]',
        'kubernetes.get("gravity")',
        'match engine:\n    case "openshift_agent": ...',
    ],
)
def test_a_decision_by_name_is_detected(code: str) -> None:
    assert list(decided(ast.parse(code), NAMES))


@pytest.mark.parametrize(
    "code",
    ['run(["kubeadm", "init"])', 'PROGRAMS = ("kubeadm", "kubelet")', 'folder / "kubeadm"', '{"kubeadm": ["x"]}'],
)
def test_the_program_of_that_name_is_allowed(code: str) -> None:
    assert not list(decided(ast.parse(code), NAMES))


@pytest.mark.parametrize("name", engines.names())
def test_files_obey_the_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(engines.traits(name), SCHEMA)
    keys = PROFILE["properties"]["kubernetes"]["properties"].get(name, {}).get("properties", {})
    rules = engines.traits(name)["settings"]
    named = {*rules["needed"], *rules["needed"].values(), *rules["upgraded"], *rules["applied"]}
    named |= {key for keys in rules["exclusive"] for key in keys}
    assert named <= set(keys)
    assert set(engines.traits(name)["caches"].values()) <= set(keys)


def test_an_installer_stands_for_one_engine() -> None:
    listed = [installer for name in engines.names() for installer in engines.traits(name)["installers"]]
    assert len(listed) == len(set(listed))
    assert {engines.of_installer(installer) for installer in listed} == set(engines.names())


def test_missing_and_exclusive_settings_are_rejected() -> None:
    def refused(**more: Any) -> str:
        with pytest.raises(DevenvError) as caught:
            engines.require(resolve("sno", overrides={"kubernetes.engine": "gravity", **more}))
        return str(caught.value)

    assert "kubernetes.gravity.tarball: the engine gravity requires it" in refused()
    assert "prepared and script are mutually exclusive" in refused(
        **{"kubernetes.gravity.prepared": True, "kubernetes.gravity.script": "/a"}
    )
    engines.require(resolve("sno", overrides=TARBALL))
    engines.require(resolve("sno", overrides={"kubernetes.engine": "gravity", "kubernetes.gravity.prepared": True}))
    engines.require(resolve("sno", overrides={"kubernetes.engine": "gravity"}), shape_only=True)


def test_addresses_for_tsh_change_in_place() -> None:
    old, new = (
        resolve("sno", overrides={**TARBALL, "kubernetes.gravity.public_addresses": addresses})
        for addresses in ([], ["lab.example", "192.0.2.7:443"])
    )
    (change,) = changes.between(old, new)
    assert (change.applies, change.why) == (True, "the cluster announces the new addresses")
    with pytest.raises(DevenvError, match=r"public_addresses\[0\]"):
        resolve("sno", overrides={**TARBALL, "kubernetes.gravity.public_addresses": ["https://lab.example"]})


def test_another_tarball_is_an_upgrade() -> None:
    old, new = (
        resolve("sno", overrides=TARBALL),
        resolve("sno", overrides={**TARBALL, "kubernetes.gravity.tarball": "/b"}),
    )
    (change,) = changes.between(old, new)
    assert (change.applies, "gravity_upgrade.yml" in change.why) == (False, True)
