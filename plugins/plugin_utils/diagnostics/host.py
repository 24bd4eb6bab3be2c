"""What this host tells of an environment, for an archive: containers and networks of it, the host's own state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider

Put = Callable[[str, bytes], None]
SECONDS = 10.0
LIMIT = 1 << 20

COMMANDS: dict[str, Sequence[str]] = {
    "uname.txt": ["uname", "-a"],
    "uptime.txt": ["uptime"],
    "memory.txt": ["free", "-m"],
    "disks.txt": ["df", "-T", "-h"],
    "inodes.txt": ["df", "-i"],
    "addresses.txt": ["ip", "-d", "address"],
    "routes4.txt": ["ip", "-4", "route", "show", "table", "all"],
    "routes6.txt": ["ip", "-6", "route", "show", "table", "all"],
    "nft.txt": ["nft", "list", "ruleset"],
    "iptables.txt": ["iptables-save"],
    "ip6tables.txt": ["ip6tables-save"],
    "kernel.txt": ["dmesg", "--ctime"],
}


def collect(name: str, providers: Iterable[Provider], put: Put) -> str:
    """Give what each program says; return which of them could not be run."""
    troubles = []
    for path, argv in commands(name, providers):
        try:
            done = program.run(argv, timeout=SECONDS, check=False)
        except FileNotFoundError:
            troubles.append(f"there is no program {argv[0]}")
            continue
        except (program.ProgramFailed, OSError) as error:
            troubles.append(str(error))
            continue
        text = done.stdout + done.stderr
        put(path, (text if len(text) <= LIMIT else "[cut]\n" + text[-LIMIT:].partition("\n")[2]).encode())
    return "; ".join(dict.fromkeys(troubles))


def commands(name: str, providers: Iterable[Provider]) -> Iterator[tuple[str, Sequence[str]]]:
    """Return each file's name and the command that prints it."""
    yield from COMMANDS.items()
    for provider in providers:
        yield from provider.diagnostics(name)
