"""`devenv test run --container` with a real image: needs podman, root, and the package index of pip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import installed
from support.commands import ROOT, Typed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]


def distribution(folder: Path, project: Path) -> Path:
    folder.mkdir()
    return installed.distributions(folder, project)


def test_an_old_suite_runs_in_a_container(tmp_path: Path) -> None:
    project, user = tmp_path / "project", Typed(tmp_path / "home", tmp_path / "project")
    project.mkdir()
    wheels = [distribution(tmp_path / "dist", ROOT), distribution(tmp_path / "compat", ROOT / "compat")]
    for wheel in wheels:
        (project / wheel.name).write_bytes(wheel.read_bytes())
    (project / "requirements.txt").write_text(f"./{wheels[0].name}[test]\n./{wheels[1].name}\n")
    (project / "devenv-testing.yml").write_text("container: {mounts: [../shared:/shared:ro]}\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "value").write_text("declared")
    (project / "test_old.py").write_text(
        "import json, os, sys\n"
        "from pytest_automation_infra.helpers import hardware_config\n"
        "def test_a():\n"
        "    mounted = open('/shared/value').read()\n"
        "    values = {'python': sys.executable, 'id': os.environ['HABERTEST_X'], 'mount': mounted}\n"
        "    json.dump(values, open('result', 'w'))\n"
        "    assert 'OTHER' not in os.environ\n"
    )
    env = {"HABERTEST_X": "7", "OTHER": "1"}
    done = user.devenv("test", "run", "--container", "-p", "no:cacheprovider", "test_old.py", env=env, seconds=1500)
    assert "1 passed" in done.stdout
    assert "test image" in done.stderr
    assert json.loads((project / "result").read_text()) == {
        "python": "/opt/tests/bin/python3", "id": "7", "mount": "declared",
    }  # fmt: skip
    (link,) = (project / "logs").glob("*/passed/*")
    assert (link / "debug.log").is_file()
    # The second run finds the image, and pytest's exit code is that of the command.
    (project / "test_old.py").write_text("def test_b(): assert False\n")
    done = user.devenv("test", "run", "--container", "python", "-m", "pytest", "test_old.py", code=1, env=env)
    assert "test image" not in done.stderr
    images = user.run("/usr/bin/podman", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    reference = next(name for name in images if name.startswith("localhost/devenv-test:"))
    history = user.run("/usr/bin/podman", "history", "--no-trunc", reference).stdout
    assert "index-url" not in history
    user.run("/usr/bin/podman", "image", "rm", reference)
