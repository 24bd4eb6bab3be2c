"""Generate text about profiles, from configs/ and docs/tested-profiles.yml.

The reference page has all names and keys, the guide has sizes, short names and the matrix of tested profiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import page_parts
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data as profile_data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.document import MARKS, NOT_BUILT

TYPES = {"object": "mapping", "array": "list", "integer": "number", "boolean": "true or false", "string": "text"}
# Placeholders in the table for keys that the user chooses.
FREE = {"clusters": "NAME", "nodes": "NODE", "labels": "KEY", "mirrors": "HOST", "hosts": "HOST"}


def names_page(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of profiles; rows as from ``catalogue.describe``."""
    return page_parts.table(
        ("profile", "short", "nodes", "CPUs", "memory", "description"),
        (
            (
                f"`{row['profile']}`",
                ", ".join(f"`{name}`" for name in row["aliases"]),
                _counts(row),
                row["cpus"],
                f"{row['memory'] / (1 << 30):g} GiB",
                row["description"],
            )
            for row in rows
        ),
    )


def _counts(row: Mapping[str, Any]) -> str:
    return " + ".join(str(count) for count in (row["control_plane"], row["arbiters"], row["workers"]) if count)


def aliases_table(short: Mapping[str, str]) -> list[str]:
    """Return the table of short names."""
    rows = (
        (f"`{alias}`", profile_data.marked(name.partition("-")[0], f"`{name}`"))
        for alias, name in sorted(short.items())
    )
    return page_parts.table(("short", "stands for"), rows)


def sizes_table(rows: Sequence[Mapping[str, Any]], topologies: Mapping[str, str]) -> list[str]:
    """Return the table of resources that each topology needs; ``topologies`` maps name to description."""
    lines = []
    by_topology = {row["topology"]: row for row in reversed(rows)}
    for topology, description in topologies.items():
        row = by_topology[topology]
        used = [f"{row['in_use'][key] / (1 << 30):.1f} GiB" for key in ("memory", "disk")]
        limits = f"{row['cpus']}, {row['memory'] / (1 << 30):g} GiB"
        lines.append((f"`{topology}`", description, _counts(row), *used, limits))
    heads = ("topology", "description", "nodes", "memory used", "disk used", "limits: CPUs, memory")
    return page_parts.table(heads, lines)


def matrix(rows: Sequence[Mapping[str, Any]], marks: Mapping[str, Any]) -> list[str]:
    """Return the matrix of topologies with stacks and addressing, then the reasons and the tests.

    A cell has the make target that tests the profile, or the number of the reason why none does. ``rows`` are those of
    ``catalogue.describe``, ``marks`` is docs/tested-profiles.yml.
    """
    targets = {mark["profile"]: mark["target"] for mark in marks["tested"]}
    targets |= dict.fromkeys(of_the_matrix(rows, marks), marks["others"]["target"])
    reasons: list[str] = []
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        target, why = targets.get(row["profile"], ""), untested(row, marks["untested"])
        reasons += [] if target or why in reasons else [why]
        cell = f"`make {target}`" if target else str(reasons.index(why) + 1)
        cells.setdefault(row["topology"], {})[f"{row['stack']} {row['addressing']}"] = cell
    heads = list(dict.fromkeys(f"{row['stack']} {row['addressing']}" for row in rows))
    matrix = ((f"`{topology}`", *(by[head] for head in heads)) for topology, by in cells.items())
    tests = [(f"`{mark['profile']}`", f"`{mark['test']}`") for mark in marks["tested"]]
    return [
        *page_parts.table(("topology", *heads), matrix),
        "",
        "A number refers to the reason why no test creates the profile:",
        "",
        *(f"{number}. {why}" for number, why in enumerate(reasons, 1)),
        "",
        *page_parts.table(("profile", "created by"), [*tests, ("all others", f"`{marks['others']['test']}`")]),
    ]


def of_the_matrix(rows: Sequence[Mapping[str, Any]], marks: Mapping[str, Any]) -> list[str]:
    """Return the names of the profiles that have neither a test of their own nor a reason for having none."""
    tested = {mark["profile"] for mark in marks["tested"]}
    return [row["profile"] for row in rows if row["profile"] not in tested and not untested(row, marks["untested"])]


def untested(row: Mapping[str, Any], rules: Sequence[Mapping[str, str]]) -> str:
    """Return why no test creates the profile of ``row``: the text of the first matching rule, empty without one."""
    matching = (rule["why"] for rule in rules if all(row[key] == rule[key] for key in rule if key != "why"))
    return next(matching, "")


def keys_page(schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the table of keys of a JSON schema, with the values of ``defaults`` at the same paths."""
    rows = []
    for path, rule in _keys(schema, schema):
        if rule.get(NOT_BUILT) is True:
            continue
        dotted = ".".join(path).replace(".[", "[")
        default = _default(_at(defaults, path))
        rows.append((f"`{dotted}`", _type(rule), _allowed(rule, schema), default, rule["description"]))
    return page_parts.table(("key", "type", "allowed", "default", "meaning"), rows)


def _default(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    if value in (None, "") or any(isinstance(item, dict) for item in items):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def not_built(schema: Mapping[str, Any]) -> list[str]:
    """Return the list of keys and values that are planned and that this version refuses."""
    lines = []
    for path, rule in _keys(schema, schema):
        planned = rule.get(NOT_BUILT)
        if planned:
            values = "" if planned is True else ": " + ", ".join(f"`{json.dumps(v).strip(chr(34))}`" for v in planned)
            lines.append(f"- `{'.'.join(path)}`{values}")
    return lines


def page(configs: Path) -> str:
    """Return the reference page for the data in ``configs``."""
    schema = profile_data.schema()
    defaults = data.read(configs / "defaults.yml")
    defaults["kubernetes"]["version"] = data.read(configs / "versions.yml")["default"]
    engine = data.read(configs / "engines" / f"{defaults['kubernetes']['engine']}.yml")
    defaults["nodes"] = {"NODE": {**defaults.pop("node"), **engine["groups"]["workers"]["default"]}}
    defaults["clusters"] = {"NAME": defaults.pop("cluster")}
    defaults["validate"] = {"checks": {"[N]": defaults.pop("check")}}
    return page_parts.page(
        "Profiles",
        "How to write one: [profiles](../profiles.md). A name has the form `<topology>-<stack>-<addressing>`;",
        "`_` and `-` are interchangeable. Nodes are control plane nodes + arbiters and workers.",
        "",
        *names_page(catalogue.describe()),
        "",
        "## Keys",
        "",
        *keys_page(schema, defaults),
        "",
        "## Not implemented yet",
        "",
        "devenv refuses these with an error that names them:",
        "",
        *not_built(schema),
    )


def _keys(
    rule: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the path and rule of every key, parents first."""
    items = rule.get("items", {})
    if "$ref" in items:
        items = schema["$defs"][items["$ref"].rpartition("/")[2]]
    if items.get("properties"):
        yield from _keys(items, schema, (*path, "[N]"))
    free = [*rule.get("patternProperties", {}).values(), rule.get("additionalProperties")]
    inner = [*rule.get("properties", {}).items(), *((FREE[path[-1]], key) for key in free if isinstance(key, dict))]
    for key, below in inner:
        whole = {**schema["$defs"][below["$ref"].rpartition("/")[2]], **below} if "$ref" in below else below
        yield (*path, key), whole
        yield from _keys(whole, schema, (*path, key))


def _type(rule: Mapping[str, Any]) -> str:
    kinds = rule.get("type", [])
    return " or ".join(TYPES.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _allowed(rule: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    items = rule.get("items", {})
    rules = [rule, items, schema["$defs"].get(items.get("$ref", "").rpartition("/")[2], {})]
    if "enum" in rule:
        marks = rule.get(MARKS, {})
        return ", ".join(f"`{value}` ({marks[value]})" if value in marks else f"`{value}`" for value in rule["enum"])
    return next((str(rule["x-form"]) for rule in rules if "x-form" in rule), "")


def _at(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def guide(text: str, configs: Path, marks: Mapping[str, Any]) -> str:
    """Return the guide with the text between its markers generated. Raises page_parts.BadPage without them."""
    rows = catalogue.describe()
    names = sorted({row["topology"] for row in rows})
    topologies = {name: data.read(configs / "topologies" / f"{name}.yml")["description"] for name in names}
    lines = [
        *sizes_table(rows, topologies),
        "",
        *aliases_table(catalogue.aliases()),
        "",
        "### Profiles created by tests",
        "",
        "`make test` runs for every change, `make matrix` nightly as part of `make nightly`.",
        "",
        *matrix(rows, marks),
    ]
    return page_parts.filled(text, lines, "matrix")


def pages(root: Path) -> dict[Path, str]:
    """Return the pages by path."""
    path, marks = root / "docs" / "profiles.md", data.read(root / "docs" / "tested-profiles.yml")
    return {
        root / "docs" / "reference" / "profiles.md": page(root / "configs"),
        path: guide(path.read_text(), root / "configs", marks),
    }
