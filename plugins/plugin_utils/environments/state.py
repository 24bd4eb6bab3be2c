"""The state folder of an environment: what is in it, who may make it, how it ends.

``<home>/environments/<name>/`` holds ``profile.yml`` (resolved), ``network.yml`` (what the provider chose),
``inventory.yml``, ``ssh/``, ``clusters/<cluster>/kubeconfig``, ``ledger.jsonl``, ``runs/<UTC time>-<run id>/`` and
``lock``; ``<home>/history/<name>/`` the run folders of environments that were taken down. All of it private (0700,
0600).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, processes, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, lock
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.profile import Change

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
RUNS_KEPT = 10

# Stages that leave nothing outside the state folder and the cache: an environment that saw no other is not one yet.
HARMLESS = frozenset({"preflight", "bundle"})

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Begun:
    """What a stage's begin found: the run's id and folder (None in check mode), whether it was the first of its run,
    and whether the environment is new.
    """

    run_id: str
    run_dir: Path | None
    first: bool
    created: bool


@dataclass(frozen=True)
class State:
    """What a state folder says. ``last_run`` and ``failure`` are the newest run's summary.json and failure.json;
    ``holder`` is who works on the environment now.
    """

    name: str
    folder: Path
    profile: dict[str, Any] | None
    network: dict[str, Any] | None
    run_dir: Path | None
    last_run: dict[str, Any] | None
    failure: dict[str, Any] | None
    holder: Holder | None


# --- reading --------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """``name`` itself. Raises DevenvError ``name_invalid``; everything that makes or removes a folder by name asks
    here first.
    """
    if not NAME.fullmatch(name):
        raise DevenvError("name_invalid", f"{name!r} cannot be the name of an environment")
    return name


def environments(home: Path) -> list[str]:
    """Names of the environments that have a state folder."""
    folder = home / "environments"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and NAME.fullmatch(entry.name))


def read(folder: Path) -> State:
    """What is known of the environment. Missing parts are None; a folder that is not there gives all None."""
    newest = next(reversed(runs(folder)), None)
    holder = lock.read(folder)
    return State(
        name=folder.name,
        folder=folder,
        profile=read_profile(folder),
        network=read_network(folder),
        run_dir=newest,
        last_run=_json(newest / "summary.json") if newest else None,
        failure=_json(newest / "failure.json") if newest else None,
        holder=holder if holder is not None and lock.is_alive(holder) else None,
    )


def read_profile(folder: Path) -> dict[str, Any] | None:
    """The resolved profile the environment was made with."""
    return _yaml(folder / "profile.yml")


def read_network(folder: Path) -> dict[str, Any] | None:
    """Subnets and addresses the provider chose (docs/architecture.md, "Network of an environment")."""
    return _yaml(folder / "network.yml")


def runs(folder: Path) -> list[Path]:
    """Run folders, oldest first (their names begin with the time)."""
    return sorted(entry for entry in (folder / "runs").glob("*-*") if entry.is_dir())


def run_dir(folder: Path, run_id: str) -> Path | None:
    """Folder of the run ``run_id``."""
    return next((entry for entry in reversed(runs(folder)) if entry.name.partition("-")[2] == run_id), None)


def find_run(folder: Path, run_id: str) -> Path | None:
    """Folder of the run ``run_id`` of an environment that may be gone: in the state folder, else in the history."""
    history = folder.parent.parent / "history" / folder.name
    gone = (entry for entry in history.glob("*-*") if entry.name.partition("-")[2] == run_id)
    return run_dir(folder, run_id) or next(gone, None)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Lines of the ledger; one cut short by a kill is left out."""
    try:
        lines = (folder / "ledger.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def is_untouched(folder: Path) -> bool:
    """Whether the environment never got beyond the stages that change nothing: the folder may go when such a run
    fails.
    """
    return not (folder / "network.yml").exists() and all(line.get("stage") in HARMLESS for line in ledger(folder))


def _yaml(path: Path) -> dict[str, Any] | None:
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DevenvError(
            "state_broken", f"not readable as YAML: {str(error).splitlines()[0]}", where=str(path)
        ) from None
    if not isinstance(data, dict):
        raise DevenvError("state_broken", "a mapping is expected", where=str(path))
    return data


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


# --- writing --------------------------------------------------------------------------------------


def dump(data: Mapping[str, Any]) -> str:
    """``data`` as YAML in its own order."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)
    return f"---\n{text}"


def write_profile(folder: Path, resolved: Mapping[str, Any]) -> bool:
    """Write profile.yml; return whether it changed."""
    return files.write(folder / "profile.yml", dump(resolved))


def write_network(folder: Path, network: Mapping[str, Any]) -> bool:
    """Write network.yml; return whether it changed."""
    return files.write(folder / "network.yml", dump(network))


def write_inventory(folder: Path) -> bool:
    """Write inventory.yml from profile.yml and network.yml, for plain ``ansible -i``; return whether it changed."""
    resolved = read_profile(folder)
    if resolved is None:
        raise DevenvError("state_broken", "there is no profile.yml", where=str(folder))
    return files.write(
        folder / "inventory.yml", inventory.to_yaml(inventory.build(resolved, read_network(folder), folder))
    )


def new_run_id() -> str:
    """An id that no other run of this machine has."""
    return secrets.token_hex(6)


def make_run_dir(folder: Path, run_id: str, now: datetime | None = None) -> Path:
    """Make ``runs/<UTC time>-<run id>/`` and forget the oldest beyond RUNS_KEPT."""
    when = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    made = folder / "runs" / f"{when}-{run_id}"
    made.parent.mkdir(mode=0o700, exist_ok=True)
    made.mkdir(mode=0o700)
    _trim(made.parent)
    return made


def note(
    folder: Path, *, run: str, stage: str, result: str, seconds: float | None = None, changed: int | None = None
) -> None:
    """Add a line to the ledger: ``{time, run, stage, seconds, result, changed}``; ``result`` is begun, done, failed
    or interrupted.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run,
        "stage": stage,
        "seconds": None if seconds is None else round(seconds, 2),
        "result": result,
        "changed": changed,
    }
    path = folder / "ledger.jsonl"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(json.dumps(line) + "\n")


# --- ssh keys -------------------------------------------------------------------------------------


def ensure_ssh(folder: Path) -> Path:
    """Make ``ssh/`` (0700) with the environment's own key pair ``id_ed25519`` and the folder ``cp`` of control
    sockets, when they are not there. Return the private key's path.
    """
    _private_folder(folder / "ssh" / "cp", folder)
    return _ensure_key(folder / "ssh" / "id_ed25519", f"devenv-{folder.name}")


def ensure_node_keys(folder: Path, nodes: Iterable[str]) -> dict[str, Path]:
    """For each node, make what its sshd needs in ``ssh/hosts/<node>/``: a host key pair, and the environment's public
    key as ``authorized_keys``. The keys exist before the node does, so known_hosts can, and checking stays on. Return
    the private host keys' paths by node.
    """
    own = ensure_ssh(folder).with_suffix(".pub").read_text()
    keys = {}
    for node in nodes:
        place = folder / "ssh" / "hosts" / node
        _private_folder(place, folder)
        keys[node] = _ensure_key(place / "ssh_host_ed25519_key", node)
        files.write(place / "authorized_keys", own)
    return keys


def node_addresses(network: Mapping[str, Any]) -> dict[str, list[str]]:
    """Addresses by node of a network.yml, those of nodes that leave too: they are asked to, by ssh."""
    return {name: list(node["addresses"].values()) for name, node in network["nodes"].items()}


def write_known_hosts(folder: Path, addresses: Mapping[str, Sequence[str]]) -> bool:
    """Write ``ssh/known_hosts`` for nodes by name, with their addresses (no prefix lengths); return whether it
    changed.
    """
    lines = []
    for node, places in addresses.items():
        kind, key = (folder / "ssh" / "hosts" / node / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        lines.append(f"{','.join([node, *places])} {kind} {key}\n")
    return files.write(folder / "ssh" / "known_hosts", "".join(lines))


def _private_folder(path: Path, base: Path) -> None:
    """Make ``path`` with what is above it down from ``base``; mkdir's own ``parents`` would leave those open to all."""
    for part in [*reversed([above for above in path.parents if above.is_relative_to(base)]), path]:
        part.mkdir(mode=0o700, parents=True, exist_ok=True)


def _ensure_key(path: Path, comment: str) -> Path:
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return path
    # A run that was killed in the middle may have left one of the two.
    path.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    try:
        program.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], timeout=30)
    except FileNotFoundError:
        raise DevenvError("ssh_keygen_failed", "there is no program ssh-keygen") from None
    except program.ProgramFailed as error:
        raise DevenvError("ssh_keygen_failed", str(error)) from None
    return path


# --- begin and end of a stage ---------------------------------------------------------------------


def begin(
    folder: Path,
    me: Holder,
    stage: str,
    *,
    resolved: Mapping[str, Any] | None,
    hosts: int,
    check: bool = False,
    while_upgrading: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Begun:
    """Begin ``stage`` for the ansible process ``me``; the first begin of a run takes the lock and makes the folders.

    ``resolved`` is the profile (None: none was given), ``hosts`` how many nodes it gave. Stage ``down`` needs
    neither. In check mode nothing is written or ended. ``while_upgrading``: the run is for an environment whose nodes
    have two versions, too. Raises DevenvError ``name_invalid``, ``profile_not_given``, ``environment_busy``,
    ``profile_changed``, ``upgrade_unfinished``, ``leftovers_remain``, ``state_unwritable``; a first begin that fails
    leaves no lock, and no folder that was not there.
    """
    check_name(folder.name)
    if stage != "down" and (resolved is None or hosts == 0):
        raise DevenvError(
            "profile_not_given", "no profile was given" if resolved is None else "the profile gave no hosts"
        )
    if check:
        holder = lock.read(folder)
        if holder is None or not lock.is_same(holder, me):
            lock.check(folder)
        if stage != "down" and resolved is not None:
            _compare(folder, resolved, while_upgrading)
        return Begun(me.run_id, None, True, not folder.is_dir())
    created = not folder.is_dir()
    first = lock.acquire(folder, me, progress=progress)
    try:
        return _begin_held(folder, me, stage, resolved, first, created, while_upgrading)
    except OSError as error:
        _undo(folder, me, first, created)
        raise DevenvError("state_unwritable", f"{error.strerror}", where=str(error.filename or folder)) from None
    except BaseException:
        _undo(folder, me, first, created)
        raise


def _begin_held(
    folder: Path,
    me: Holder,
    stage: str,
    resolved: Mapping[str, Any] | None,
    first: bool,
    created: bool,
    while_upgrading: bool,
) -> Begun:
    holder = lock.read(folder) or me
    place = run_dir(folder, holder.run_id)
    if first and stage != "down" and resolved is not None:
        _compare(folder, resolved, while_upgrading)
        write_profile(folder, resolved)
    if place is None:
        place = make_run_dir(folder, holder.run_id)
    if stage == "provision":
        ensure_ssh(folder)
    note(folder, run=holder.run_id, stage=stage, result="begun")
    return Begun(holder.run_id, place, first, created)


def _undo(folder: Path, me: Holder, first: bool, created: bool) -> None:
    if first and created:
        remove(folder, keep=False)
    elif first:
        lock.release(folder, me)


def _compare(folder: Path, resolved: Mapping[str, Any], while_upgrading: bool) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrade

    if not while_upgrading:
        upgrade.require_finished(folder)
    compare(folder, resolved)


def compare(folder: Path, resolved: Mapping[str, Any]) -> None:
    """Raise DevenvError ``profile_changed``, naming each difference, when the environment cannot become what
    ``resolved`` asks for, ``control_plane_last`` when a cluster would lose what it knows, or ``engine_cannot`` when
    none can.
    """
    # Imported here: whoever only reads the state (devenv status) shall not wait for it.
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile

    profile.require_engine(resolved)
    old = read_profile(folder)
    if old is None or is_untouched(folder):
        return
    refused = [change for change in profile.changes(old, resolved) if not change.applies]
    if refused:
        raise DevenvError("profile_changed", "; ".join(_difference(change) for change in refused), where=folder.name)
    members.check_change(old, resolved)


def _difference(change: Change) -> str:
    return f"{change.path}: {change.old!r} -> {change.new!r} ({change.why})"


def end(folder: Path, me: Holder, stage: str, *, last: bool = False) -> Path | None:
    """End ``stage``: after ``provision`` write the inventory, after ``down`` remove the folder and keep its run
    folders in the history, after the ``last`` one (``validate`` and ``down`` always are) give the lock back. Return
    the run's folder, where it is now.
    """
    check_name(folder.name)
    holder = lock.read(folder)
    if holder is None or not lock.is_same(holder, me):
        raise DevenvError("run_ended", f"the lock of {folder.name} is not this run's any more")
    place = run_dir(folder, holder.run_id)
    if stage == "provision":
        write_inventory(folder)
    if stage == "down":
        return remove(folder, run_id=holder.run_id)
    if last or stage == "validate":
        lock.release(folder, me)
    return place


def discard(folder: Path, me: Holder, run_id: str) -> Path | None:
    """After a failed run: when the environment is still untouched, remove its folder. Return where the run's folder
    went; None when all stays.
    """
    holder = lock.read(folder)
    if not NAME.fullmatch(folder.name) or not folder.is_dir() or not is_untouched(folder):
        return None
    if holder is not None and not lock.is_same(holder, me):
        return None
    return remove(folder, run_id=run_id)


def remove(folder: Path, *, run_id: str = "", keep: bool = True) -> Path | None:
    """Remove the state folder; ``keep`` moves its run folders to the history first, where the last RUNS_KEPT stay.
    Return where the folder of run ``run_id`` went."""
    check_name(folder.name)
    if folder.parent.name != "environments":
        raise DevenvError("name_invalid", "not a state folder", where=str(folder))
    history = folder.parent.parent / "history" / folder.name
    moved = None
    if keep:
        for place in runs(folder):
            _private_folder(history, folder.parent.parent)
            target = history / place.name
            shutil.move(place, target)
            if run_id and place.name.partition("-")[2] == run_id:
                moved = target
        if history.is_dir():
            _trim(history)
    _end_ssh_masters(folder)
    # Renamed first: whoever is killed in the middle of it leaves no half environment. The lock goes with it.
    with lock.guard(folder):
        os.replace(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.removed"))
    _bury(folder.parent)
    return moved


def _bury(environments_folder: Path) -> None:
    """Remove what was taken down, also what a killed run did not come to."""
    for grave in environments_folder.glob(".*.removed"):
        try:
            shutil.rmtree(grave)
        except FileNotFoundError:
            continue  # another run does the same
        except OSError as error:
            raise DevenvError("state_not_removed", f"{error.strerror}", where=str(error.filename or grave)) from None


def _end_ssh_masters(folder: Path) -> None:
    """End the ssh processes that keep connections to the nodes open, and remove their folder where it is not in the
    state folder.
    """
    sockets = Path(inventory.control_path(folder).removesuffix("/%C").replace("%%", "%"))
    processes.end_ssh_masters(sockets)
    if folder not in sockets.parents:
        shutil.rmtree(sockets, ignore_errors=True)


def _trim(folder: Path) -> None:
    for old in sorted(entry for entry in folder.iterdir() if entry.is_dir())[:-RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def folder_of(name: str, env: Mapping[str, str] | None = None) -> Path:
    """State folder of the environment ``name``, which is checked."""
    return paths.environment(check_name(name), os.environ if env is None else env)
