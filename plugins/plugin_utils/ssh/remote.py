"""Query nodes directly over ssh: a Python program is sent to each on stdin and answers on stdout.

For queries that must work if Ansible's connection does not: a node that hangs is one line of the result, and delays the
others by no more than its time limit.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

MODULES = paths.COLLECTION / "plugins" / "module_utils"
_PACKAGE = "ansible_collections.devenv.lab.plugins.module_utils"
_IMPORT = re.compile(rf"^from {re.escape(_PACKAGE)}\.?([\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)

# Begins the output of a command: a shell's start-up files may print lines before it.
BEGIN = "-- devenv: output --"

# Runs on the node. The modules arrive as text and are imported under their names in the collection.
_LOADER = """\
import json, sys, types
sources, main, arguments = json.loads({text!r})
for name, source in sources:
    words = name.split(".")
    for count in range(1, len(words) + 1):
        path = ".".join(words[:count])
        if path not in sys.modules:
            module = sys.modules[path] = types.ModuleType(path)
            module.__path__ = []
            if count > 1:
                setattr(sys.modules[".".join(words[: count - 1])], words[count - 1], module)
    module = sys.modules[name]
    exec(compile(source, words[-1] + ".py", "exec"), module.__dict__)
module.__dict__[main](arguments)
"""


@dataclass(frozen=True)
class Target:
    """A node, its ssh command (without the remote command), and the command that starts Python there."""

    name: str
    ssh: tuple[str, ...]
    python: tuple[str, ...] = field(default=("python3",))


def target(name: str, variables: Mapping[str, Any], *, own_connection: bool = False, patience: int = 10) -> Target:
    """Return the Target of a host from its ssh variables.

    ``own_connection``: do not share an open connection, which hangs if its node died. ``patience``: seconds to connect.
    Raises DevenvError without an address: ``nodes_none`` for a node that is not created yet, ``inventory_incomplete``
    for another host.
    """
    if "ansible_host" not in variables and "devenv_group" in variables:
        raise DevenvError("nodes_none", f"{name} has no address yet")
    unshared = ["-o", "ControlPath=none"] if own_connection else []
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={patience}", *unshared]
    interpreter = str(variables.get("ansible_python_interpreter") or "")
    python = interpreter if interpreter.startswith("/") else "python3"
    return Target(name, tuple(command.connection(name, variables).ssh(*options)), (*command.become(variables), python))


def program(module: str, main: str, arguments: Mapping[str, Any], folder: Path = MODULES) -> str:
    """Return the text of a Python program that calls ``main(arguments)`` of ``module``, a dotted name below
    module_utils such as ``node.report``. It contains the modules of module_utils that this one imports.
    """
    sources: dict[str, str] = {}
    _add_source(module, folder, sources)
    named = [(f"{_PACKAGE}.{name}", source) for name, source in sources.items()]
    return _LOADER.format(text=json.dumps([named, main, dict(arguments)]))


def _add_source(module: str, folder: Path, sources: dict[str, str]) -> None:
    """Add the source of ``module`` to ``sources``, after those of the modules that it imports."""
    if module in sources:
        return
    source = folder.joinpath(*module.split(".")).with_suffix(".py").read_text()
    for needed in _imported(source, folder):
        _add_source(needed, folder, sources)
    sources[module] = source


def _imported(source: str, folder: Path) -> Iterator[str]:
    """Yield the names below module_utils of the modules that ``source`` imports."""
    # Not ast: until Python 3.12, parsing in several threads at once fails at random.
    for base, names in _IMPORT.findall(source):
        for name in (*(f"{base}.{word}" for word in re.findall(r"\w+", names)), base):
            path = name.strip(".")
            if path and folder.joinpath(*path.split(".")).with_suffix(".py").is_file():
                yield path


def call(
    node: Target, source: str, read: Callable[[IO[bytes]], None], timeout: float, greeting: bytearray | None = None
) -> str:
    """Run the Python program ``source`` on a node; ``read`` gets its output while it runs, ``greeting`` what the node's
    shell prints before.

    Return an error message, empty on success. Output that ``read`` got before an error is valid.
    """
    mark = os.environ.get(process.MARKER, "")
    marked = ["env", f"{process.MARKER}={mark}"] if mark else []
    words = [*marked, *node.python, "-"]
    return _run(node, words, stdin=source, stdout=read, timeout=timeout, greeting=greeting)


def send(node: Target, entries: Iterable[tuple[Path, str]], folder: str, timeout: float = 3600) -> str:
    """Stream files (local path, name on the node) as one archive into ``folder`` of a node, as root.

    Return an error message, empty on success. The caller compares digests: the message does not prove that the files
    arrived complete.
    """

    def pack(pipe: IO[bytes]) -> None:
        with tarfile.open(fileobj=pipe, mode="w|") as tar:
            for path, name in entries:
                tar.add(path, arcname=name)

    words = [*node.python[:-1], "tar", "--extract", "--file=-", f"--directory={folder}"]
    return _run(node, words, stdin=pack, timeout=timeout)


def execute(
    node: Target,
    line: str,
    *,
    stdout: process.Reader | None = None,
    greeting: bytearray | None = None,
    **options: Any,
) -> process.Result:
    """Run a line of the node's shell with the options of program.run. Its output does not include what the shell's
    start-up files print before; with ``stdout``, ``greeting`` gets that. Raises as program.run does.
    """

    def read(pipe: IO[bytes]) -> bool | None:
        while (begin := pipe.readline()) and begin != BEGIN.encode() + b"\n":
            if greeting is not None:
                greeting.extend(begin)
        return stdout(pipe) if stdout else None

    marked = f"printf '\\n{BEGIN}\\n'\n{line}"
    done = process.run([*node.ssh, marked], stdout=read if stdout else None, **options)
    return replace(done, stdout=done.stdout.partition(f"{BEGIN}\n")[2])


def _run(node: Target, words: Iterable[str], **options: Any) -> str:
    timeout = options["timeout"]
    try:
        execute(node, shlex.join(words), **options)
    except OSError as error:
        return f"ssh cannot be started: {error.strerror}"
    except process.ProgramFailed as error:
        if error.code is None:
            return f"no answer within {timeout:g} s"
        return error.last_line or f"ssh ended with code {error.code}"
    return ""


@dataclass(frozen=True)
class Answer:
    """A node's answer: ``data``, or the error message ``trouble``. Its clock is ``ahead`` seconds before the
    controller's; that is too low by at most ``doubt`` seconds, the time of the answer. ``greeting`` is what its shell
    printed before.
    """

    node: str
    data: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    ahead: float = 0.0
    doubt: float = 0.0
    greeting: str = ""


def ask_all(targets: Iterable[Target], source: str, timeout: float) -> dict[str, Answer]:
    """Run a program on all nodes at once. Its first line of output is ``{"time": <its clock>}``, its second the answer
    as one JSON object.
    """
    answers: dict[str, Answer] = {}
    nodes = list(targets)

    def work(node: Target) -> None:
        answers[node.name] = _ask(node, source, timeout)

    # Daemons, unlike the threads of a pool: an interrupted run does not wait for a node that hangs.
    threads = [threading.Thread(target=work, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {node.name: answers[node.name] for node in nodes}


def _ask(node: Target, source: str, timeout: float) -> Answer:
    ahead = doubt = 0.0
    data: dict[str, Any] = {}
    began = time.time()
    greeting = bytearray()

    def read(stream: IO[bytes]) -> None:
        nonlocal ahead, doubt
        first = stream.readline()
        received = time.time()
        ahead, doubt = float(json.loads(first)["time"]) - received, received - began
        data.update(json.loads(stream.readline()))

    trouble = call(node, source, read, timeout, greeting)
    if trouble:
        return Answer(node.name, trouble=trouble)
    # The mark begins on a new line.
    return Answer(node.name, data, "", ahead, doubt, greeting.decode(errors="replace").removesuffix("\n"))
