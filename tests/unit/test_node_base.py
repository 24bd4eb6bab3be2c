"""Code on nodes uses one helper for each job (docs/design/nodes.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

MODULE_UTILS = paths.COLLECTION / "plugins" / "module_utils"
# Who may: the helper, and containerd that is started to run on (existing/host.py).
ALLOWED = {
    "subprocess.run": set(),
    "subprocess.Popen": {"node/program.py", "existing/host.py"},
    "os.replace": {"node/files.py"},
    "os.rename": set(),
    "tempfile.NamedTemporaryFile": set(),
    "time.sleep": {"node/program.py", "script/control.py"},
}


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            yield f"{node.func.value.id}.{node.func.attr}"


@pytest.mark.parametrize("call", ALLOWED)
def test_one_helper_for_each_job(call: str) -> None:
    callers = {str(path.relative_to(MODULE_UTILS)) for path in MODULE_UTILS.rglob("*.py") if call in calls(path)}
    assert callers == ALLOWED[call]


def test_the_base_imports_no_engine() -> None:
    base = "".join(path.read_text() for path in (MODULE_UTILS / "node").glob("*.py"))
    assert base.count("module_utils.node") > 5
    assert [name for name in ("kubeadm", "gravity", "existing", "script") if f"module_utils.{name}" in base] == []
