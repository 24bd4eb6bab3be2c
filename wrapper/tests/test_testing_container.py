"""`devenv test run`: the command line of pytest, and the container in which it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors
from devenv.cli import process
from devenv.testing.launcher import command, container
from devenv.testing.launcher.container import Container

LOCAL = ["py", "-m", "pytest", "-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra", "-s"]
PROVISIONED = [*LOCAL, "-p", "pytest_grouper", "-p", "pytest_provisioner"]


@pytest.mark.parametrize(
    ("words", "env", "expected"),
    [
        (["tests"], {}, [*LOCAL, "tests"]),
        ([], {}, LOCAL),
        (["--provisioner=https://x", "tests"], {}, [*PROVISIONED, "--provisioner=https://x", "tests"]),
        (["--provisioner", "https://x"], {}, [*PROVISIONED, "--provisioner", "https://x"]),
        (["tests"], {"HABERTEST_PROVISIONER": "https://x"}, [*PROVISIONED, "tests"]),
        (["python", "-m", "pytest", "-x"], {"HABERTEST_PROVISIONER": "x"}, ["py", "-m", "pytest", "-x"]),
        (["/usr/bin/python3", "x.py"], {}, ["py", "x.py"]),
        (["pytest", "-x"], {}, ["py", "-m", "pytest", "-x"]),
        (['--sf="-p', "a", '--install"', "tests"], {}, [*LOCAL, '--sf="-p a --install"', "tests"]),
        (['--sf="-p', "a"], {}, [*LOCAL, '--sf="-p a']),
        (["--sf=-p a", "b"], {}, [*LOCAL, "--sf=-p a", "b"]),
    ],
)
def test_the_command_line_of_pytest(words: list[str], env: dict[str, str], expected: list[str]) -> None:
    assert command.of(words, env, "py") == expected


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "requirements.txt").write_text("devenv-lab-compat\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    return folder


def made(project: Path, **declared: object) -> Container:
    return Container.of(project, declared, None, "", [])


def test_the_image_is_named_by_everything_that_it_is_built_from(project: Path) -> None:
    names = [container.digest(made(project), "base")]
    (project / "requirements.txt").write_text("-r more.txt\n--constraint=fixed.txt\n./dist/a-1.whl[x]  # ours\n-e .\n")
    names.append(container.digest(made(project), "base"))
    for name in ("more.txt", "fixed.txt", "dist/a-1.whl"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_bytes(b"\xff" if name.endswith(".whl") else b"-r requirements.txt\n")
        names.append(container.digest(made(project), "base"))
        # Reading it again gives the same name.
        assert container.digest(made(project), "base") == names[-1]
    names.append(container.digest(made(project), "other"))
    assert len(set(names)) == len(names)
    # Other files do not count.
    (project / "test_it.py").write_text("")
    assert container.digest(made(project), "other") == names[-1]


def test_options_precede_the_declaration_of_the_project(project: Path) -> None:
    (project / "tests").mkdir()
    (project / "tests" / "requirements.txt").write_text("")
    declared = {"requirements": "tests/requirements.txt", "base": "localhost/a", "mounts": ["~/.aws"]}
    assert made(project, **declared).requirements == project / "tests" / "requirements.txt"
    chosen = Container.of(project, declared, Path("requirements.txt"), "localhost/b", ["/tmp"])
    assert chosen == Container(project, project / "requirements.txt", "localhost/b", ("~/.aws", "/tmp"))
    with pytest.raises(errors.UsageError, match=r"none\.txt does not exist"):
        Container.of(project, declared, Path("none.txt"), "", [])


def test_mounts_are_those_that_exist_and_those_that_are_declared(project: Path, tmp_path: Path) -> None:
    for name in (".ssh", ".habertest", "shared", "cert.pem"):
        (tmp_path / name).mkdir()
    env = {**os.environ, "HABERTEST_SSL_CERT": str(tmp_path / "cert.pem"), "HABERTEST_SSL_KEY": str(tmp_path / "none")}
    declared = ["~/shared:/data:ro", "../shared", "~/.ssh:/root/.ssh", "."]
    mounts = container.mounts(made(project, mounts=declared), env)
    assert set(mounts) == {
        f"{tmp_path}/.ssh:{tmp_path}/.ssh:ro",
        f"{tmp_path}/.habertest:{tmp_path}/.habertest:ro",
        f"{tmp_path}/cert.pem:{tmp_path}/cert.pem:ro",
        f"{tmp_path}/shared:/data:ro",
        f"{project}/../shared:{project}/../shared",
        f"{tmp_path}/.ssh:/root/.ssh",
        f"{project}:{project}",
    }
    with pytest.raises(errors.UsageError, match="none does not exist"):
        container.mounts(made(project, mounts=["~/none"]), env)


def test_the_command_line_of_the_container(project: Path) -> None:
    env = {"HOME": os.environ["HOME"], "HABERTEST_PROVISIONER": "https://x", "PYTHONPATH": "/x", "AWS_SECRET": "s"}
    words = container.command(made(project), "image", ["python3", "-m", "pytest"], env, terminal=False)
    assert words[words.index("image") :] == ["image", "python3", "-m", "pytest"]
    assert {"--network=host", "--pid=host", f"--workdir={project}", "--rm"} < set(words)
    # Values are passed by name, so that no command line has them.
    assert {"--env=HABERTEST_PROVISIONER", "--env=PYTHONPATH"} < set(words)
    assert not any("AWS_SECRET" in word or "https://x" in word for word in words)
    assert "--tty" not in words
    assert "--tty" in container.command(made(project), "image", [], env, terminal=True)


def test_the_command_runs_the_container(project: Path, devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[list[str]] = []
    monkeypatch.setattr(process, "replace", replaced.append)
    monkeypatch.setattr(container, "ensure_image", lambda chosen, report, *, rebuild: f"image-{rebuild}")
    (project / "devenv-testing.yml").write_text("container: {mounts: [~/project]}\n")
    assert devenv("test", "run", "--container", "--rebuild", "tests", "--container")[0] == 0
    (words,) = replaced
    inside = words[words.index("image-True") + 1 :]
    assert inside[:3] == ["python3", "-m", "pytest"]
    # What follows the first path is for pytest.
    assert inside[-2:] == ["tests", "--container"]
    (project / "devenv-testing.yml").write_text("container: {mounts: [a:b]}\n")
    code, _, err = devenv("test", "run", "--container", "tests")
    assert code == 2
    assert "devenv-testing.yml" in err
    assert "container.mounts" in err


def test_a_failed_build_is_an_error_with_the_output(project: Path, tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >> $HOME/called\n[ $1 = build ] && { echo no such package >&2; exit 1; }\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    reports: list[str] = []
    with pytest.raises(container.DevenvError, match="no such package") as caught:
        container.ensure_image(Container(project, project / "requirements.txt", "localhost/base"), reports.append)
    assert caught.value.reason.id == "test_image_failed"
    assert len(reports) == 1
    called = (tmp_path / "called").read_text()
    assert f"--volume={project}:{project}:ro" in called
    assert not list(Path("/tmp").glob("devenv-test-image-*/pip.conf"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(container.DevenvError, match="podman is not installed"):
        container.ensure_image(Container(project, project / "requirements.txt", "localhost/base"), reports.append)


def test_settings_of_pip_become_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "pip3"
    lines = [":env:.cert='/c'", "global.cert='/other'", "global.index-url='https://u:p@host/x%y'", "install.quiet='1'"]
    pip.write_text("#!/bin/sh\n" + "".join(f'echo "{line}"\n' for line in lines))
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # A variable precedes a file, and no setting is there twice.
    assert container._pip_settings().split("\n\n") == [
        "[global]\ncert = /c\nindex-url = https://u:p@host/x%y",
        "[install]\nquiet = 1",
        "",
    ]


def test_the_home_of_devenv_is_that_of_this_host(project: Path, own_home: Path) -> None:
    own_home.mkdir()
    words = container.command(made(project), "image", [], os.environ, terminal=False)
    assert f"--env=DEVENV_HOME={paths.home()}" in words
    assert f"--volume={own_home}:{own_home}" in words
