"""Generated text about profiles, from configs/ and docs/tested-profiles.yml.

The reference page (all names and keys), and in the guide the matrix with what tests make of it, sizes and short names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import page_parts
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.document import NOT_BUILT

AXES = ("topology", "stack", "addressing")
TYPES = {"object": "mapping", "array": "list", "integer": "number", "boolean": "true or false", "string": "text"}
# How a key of free choice is written in the table.
FREE = {"clusters": "NAME", "nodes": "NODE", "labels": "KEY", "mirrors": "HOST"}


def names_page(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines: the table of profiles (rows as of ``catalogue.describe``)."""
    return page_parts.table(
        ("profile", "short", "nodes", "CPUs", "memory", "what it is"),
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
    """Markdown lines: short names and what they stand for."""
    return page_parts.table(
        ("short", "stands for"), ((f"`{alias}`", f"`{name}`") for alias, name in sorted(short.items()))
    )


def sizes_table(rows: Sequence[Mapping[str, Any]], topologies: Mapping[str, str]) -> list[str]:
    """Markdown lines: what each topology needs; ``topologies`` is name to description."""
    lines = []
    first = {row["topology"]: row for row in reversed(rows)}
    for topology, description in topologies.items():
        row = first[topology]
        used = [f"{row['in_use'][key] / (1 << 30):.1f} GiB" for key in ("memory", "disk")]
        limits = f"{row['cpus']}, {row['memory'] / (1 << 30):g} GiB"
        lines.append((f"`{topology}`", description, _counts(row), *used, limits))
    return page_parts.table(
        ("topology", "what it is", "nodes", "memory used", "disk used", "limits: CPUs, memory"), lines
    )


def matrix(rows: Sequence[Mapping[str, Any]], marks: Mapping[str, Any]) -> list[str]:
    """Markdown lines: the matrix of topologies with stacks and addressing, each cell the target of make that tests it
    or the number of the reason why none does, then the reasons and the tests.

    ``rows`` are those of ``catalogue.describe``, ``marks`` is docs/tested-profiles.yml.
    """
    targets = {one["profile"]: one["target"] for one in marks["tested"]}
    targets |= dict.fromkeys(of_the_matrix(rows, marks), marks["others"]["target"])
    reasons: list[str] = []
    cells: dict[str, dict[str, str]] = {}
    columns = list(dict.fromkeys((row["stack"], row["addressing"]) for row in rows))
    for row in rows:
        target, why = targets.get(row["profile"], ""), untested(row, marks["untested"])
        reasons += [] if target or why in reasons else [why]
        cell = f"`make {target}`" if target else str(reasons.index(why) + 1)
        cells.setdefault(row["topology"], {})[f"{row['stack']} {row['addressing']}"] = cell
    heads = [f"{stack} {way}" for stack, way in columns]
    return [
        *page_parts.table(
            ("topology", *heads),
            ((f"`{topology}`", *(by[head] for head in heads)) for topology, by in cells.items()),
        ),
        "",
        "A number says why no test makes the cell:",
        "",
        *(f"{number}. {why}" for number, why in enumerate(reasons, 1)),
        "",
        *page_parts.table(
            ("made by a test", "which"),
            [
                *((f"`{one['profile']}`", f"`{one['test']}`") for one in marks["tested"]),
                ("each other one", f"`{marks['others']['test']}`"),
            ],
        ),
    ]


def of_the_matrix(rows: Sequence[Mapping[str, Any]], marks: Mapping[str, Any]) -> list[str]:
    """Names of the profiles that have no test of their own, and no reason to have none."""
    own = {one["profile"] for one in marks["tested"]}
    return [row["profile"] for row in rows if row["profile"] not in own and not untested(row, marks["untested"])]


def untested(row: Mapping[str, Any], rules: Sequence[Mapping[str, str]]) -> str:
    """Why no test makes the profile of ``row``: the words of the first rule whose keys match, empty without one."""
    matching = (rule["why"] for rule in rules if all(row[key] == rule[key] for key in rule if key != "why"))
    return next(matching, "")


def keys_page(schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Markdown lines: the table of keys of a JSON schema, with the values of ``defaults`` at the same paths."""
    rows = []
    for path, rule in _keys(schema, schema):
        if rule.get(NOT_BUILT) is True:
            continue
        default = _at(defaults, path)
        shown = (
            ""
            if isinstance(default, dict) or default in (None, "") or any(isinstance(v, dict) for v in _list(default))
            else f"`{default if isinstance(default, str) else json.dumps(default)}`"
        )
        dotted = ".".join(path).replace(".[", "[")
        rows.append((f"`{dotted}`", _type(rule), _allowed(rule, schema), shown, rule["description"]))
    return page_parts.table(("key", "type", "allowed", "default", "what it says"), rows)


def not_built(schema: Mapping[str, Any]) -> list[str]:
    """Markdown lines: what the design names and this version refuses."""
    lines = []
    for path, rule in _keys(schema, schema):
        planned = rule.get(NOT_BUILT)
        if planned:
            values = "" if planned is True else ": " + ", ".join(f"`{json.dumps(v).strip(chr(34))}`" for v in planned)
            lines.append(f"- `{'.'.join(path)}`{values}")
    return lines


def page(configs: Path) -> str:
    """The whole page for the data in ``configs``."""
    schema = json.loads((configs / "schema" / "profile.json").read_text())
    defaults = yaml.safe_load((configs / "defaults.yml").read_text())
    defaults["kubernetes"]["version"] = yaml.safe_load((configs / "versions.yml").read_text())["default"]
    engine = yaml.safe_load((configs / "engines" / f"{defaults['kubernetes']['engine']}.yml").read_text())
    defaults["nodes"] = {"NODE": {**defaults.pop("node"), **engine["groups"]["workers"]["default"]}}
    defaults["clusters"] = {"NAME": defaults.pop("cluster")}
    defaults["validate"] = {"checks": {"[N]": defaults.pop("check")}}
    return page_parts.page(
        "Profiles",
        "How to write one: [profiles](../profiles.md). A name is `<topology>-<stack>-<addressing>`;",
        "in it `_` and `-` are the same. Nodes are masters + workers.",
        "",
        *names_page(catalogue.describe()),
        "",
        "## Keys",
        "",
        *keys_page(schema, defaults),
        "",
        "## Not built yet",
        "",
        "These are refused by name:",
        "",
        *not_built(schema),
    )


def _keys(
    rule: Mapping[str, Any], schema: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Path and rule of every key, parents first."""
    items = rule.get("items", {})
    if "$ref" in items:
        items = schema["$defs"][items["$ref"].rpartition("/")[2]]
    if items.get("properties"):
        yield from _keys(items, schema, (*path, "[N]"))
    free = [*rule.get("patternProperties", {}).values(), rule.get("additionalProperties")]
    inner = [*rule.get("properties", {}).items(), *((FREE[path[-1]], one) for one in free if isinstance(one, dict))]
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
        return ", ".join(f"`{value}`" for value in rule["enum"])
    return next((str(one["x-form"]) for one in rules if "x-form" in one), "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(data: Any, path: Sequence[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def guide(text: str, configs: Path, marks: Mapping[str, Any]) -> str:
    """The guide with what stands between the markers made anew. Raises page_parts.BadPage without them."""
    rows = catalogue.describe()
    names = sorted({row["topology"] for row in rows})
    topologies = {
        name: yaml.safe_load((configs / "topologies" / f"{name}.yml").read_text())["description"] for name in names
    }
    made = [
        *sizes_table(rows, topologies),
        "",
        *aliases_table(catalogue.aliases()),
        "",
        "### What tests make",
        "",
        "`make test` runs at every change, `make matrix` in the night, as a part of `make nightly`.",
        "",
        *matrix(rows, marks),
    ]
    return page_parts.filled(text, made, "matrix")


def pages(root: Path) -> dict[Path, str]:
    """The pages as they should be, by path."""
    path, marks = root / "docs" / "profiles.md", yaml.safe_load((root / "docs" / "tested-profiles.yml").read_text())
    return {
        root / "docs" / "reference" / "profiles.md": page(root / "configs"),
        path: guide(path.read_text(), root / "configs", marks),
    }
