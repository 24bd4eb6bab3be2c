"""Ask nodes directly over ssh: a Python program of ours goes to each on stdin and answers on stdout.

For what has to work when Ansible's own way does not: a node that hangs or does not answer is one line of the result,
and none of the others waits for it beyond the time that it has.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program as process
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

MODULES = paths.COLLECTION / "plugins" / "module_utils"
_PACKAGE = "ansible_collections.devenv.lab.plugins.module_utils"
_IMPORT = re.compile(rf"^from {re.escape(_PACKAGE)}\.?([\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)

# Runs on the node. The modules arrive as text and find each other under the names that they have in the collection.
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
    """A node, the ssh command that reaches it (without the remote command), and how Python is started there."""

    name: str
    ssh: tuple[str, ...]
    python: tuple[str, ...] = field(default=("python3",))


def target(name: str, variables: Mapping[str, Any], *, own_connection: bool = False, patience: int = 10) -> Target:
    """The Target of a host from its ssh variables. ``own_connection``: not over one that is open already, which hangs
    when its node died. ``patience``: seconds to connect. Raises DevenvError ``inventory_incomplete`` without an
    address.
    """
    own = ["-o", "ControlPath=none"] if own_connection else []
    words = command.connection(name, variables).ssh("-o", "BatchMode=yes", "-o", f"ConnectTimeout={patience}", *own)
    interpreter = str(variables.get("ansible_python_interpreter") or "")
    python = interpreter if interpreter.startswith("/") else "python3"
    return Target(name, tuple(words), (*command.become(variables), python))


def program(module: str, main: str, arguments: Mapping[str, Any], folder: Path = MODULES) -> str:
    """Return the text of a Python program that calls ``main(arguments)`` of ``module``, a dotted name below
    module_utils such as ``node.report``. It carries the modules of module_utils that this one imports.
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
    """Names below module_utils of the modules that ``source`` imports."""
    # Not ast: until Python 3.12, parsing in several threads at once fails at random.
    for base, names in _IMPORT.findall(source):
        for name in (*(f"{base}.{word}" for word in re.findall(r"\w+", names)), base):
            path = name.strip(".")
            if path and folder.joinpath(*path.split(".")).with_suffix(".py").is_file():
                yield path


def call(one: Target, source: str, read: Callable[[IO[bytes]], None], timeout: float) -> str:
    """Run the Python program ``source`` on a node; ``read`` gets its output while it runs.

    Return what went wrong, in words; empty if nothing did. What ``read`` has taken by then is good.
    """
    mark = os.environ.get(process.MARKER, "")
    words = ["env", f"{process.MARKER}={mark}", *one.python] if mark else list(one.python)
    return _run(one, [*words, "-"], stdin=source, stdout=read, timeout=timeout)


def send(one: Target, entries: Iterable[tuple[Path, str]], folder: str, timeout: float = 3600) -> str:
    """Stream files (path here, name there) as one archive into ``folder`` of a node, as root.

    Return what went wrong, in words. Whether the files arrived whole is for their digests to say.
    """

    def pack(pipe: IO[bytes]) -> None:
        with tarfile.open(fileobj=pipe, mode="w|") as tar:
            for path, name in entries:
                tar.add(path, arcname=name)

    words = [*one.python[:-1], "tar", "--extract", "--file=-", f"--directory={folder}"]
    return _run(one, words, stdin=pack, timeout=timeout)


def _run(one: Target, words: Iterable[str], *, timeout: float, **streams: Any) -> str:
    try:
        process.run([*one.ssh, shlex.join(words)], timeout=timeout, **streams)
    except OSError as error:
        return f"ssh cannot be started: {error.strerror}"
    except process.ProgramFailed as error:
        if error.code is None:
            return f"no answer within {timeout:g} s"
        return error.last_line or f"ssh ended with code {error.code}"
    return ""


@dataclass(frozen=True)
class Answer:
    """What a node said: ``data``, or why it did not (``trouble``). ``ahead``: by how many seconds its clock is before
    ours, low by the time that the answer took, at most ``doubt`` seconds.
    """

    node: str
    data: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    ahead: float = 0.0
    doubt: float = 0.0


def ask_all(targets: Iterable[Target], source: str, timeout: float) -> dict[str, Answer]:
    """Run a program on all nodes at once. Its first line of output is ``{"time": <its clock>}``, its second the answer
    as one JSON object.
    """
    answers: dict[str, Answer] = {}
    chosen = list(targets)

    def work(one: Target) -> None:
        answers[one.name] = _ask(one, source, timeout)

    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {one.name: answers[one.name] for one in chosen}


def _ask(one: Target, source: str, timeout: float) -> Answer:
    ahead = doubt = 0.0
    data: dict[str, Any] = {}
    began = time.time()

    def read(stream: IO[bytes]) -> None:
        nonlocal ahead, doubt
        first = stream.readline()
        received = time.time()
        said = float(json.loads(first)["time"])
        ahead, doubt = said - received, received - began
        data.update(json.loads(stream.readline()))

    trouble = call(one, source, read, timeout)
    return Answer(one.name, data, trouble, ahead, doubt) if not trouble else Answer(one.name, trouble=trouble)
