"""Collect the state of this host for an archive: system state, and the containers and networks of the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
    """Pass the output of each command to ``put``; return which programs could not be run."""
    troubles = []
    provided = [command for provider in providers for command in provider.diagnostics(name)]
    for path, argv in [*COMMANDS.items(), *provided]:
        try:
            result = program.run(argv, timeout=SECONDS, check=False)
        except FileNotFoundError:
            troubles.append(f"program {argv[0]} is not installed")
            continue
        except (program.ProgramFailed, OSError) as error:
            troubles.append(str(error))
            continue
        text = result.stdout + result.stderr
        put(path, (text if len(text) <= LIMIT else "[cut]\n" + text[-LIMIT:].partition("\n")[2]).encode())
    return "; ".join(dict.fromkeys(troubles))
