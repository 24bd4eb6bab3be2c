"""Compare `devenv up` with the bare commands that it runs. Writes bench.json with seconds, counts and ratios.

Usage: bench.py [--profile NAME ...] [--rounds N] [--out FILE] [--report-only]. Needs root and podman. For each
profile, a first environment is created without measuring: it warms the caches and supplies the snapshot and what the
bare commands need.
Other comparisons: the inventory of a big profile with static YAML, a suite with the pytest plugin and without it, the
joins of two workers with that of one, a snapshot of an application with a new installation. Exits with 1 if a figure is
above its bar (bars.yml), unless ``--report-only`` is given, for days on which the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apps_bench
import bars
import command
import inventory_bench
import join_bench
import plugin_bench
import yaml
from command import BIN, ROOT

SCRIPT = Path(__file__).with_name("bare.sh")
NAME = "bench"
BARE = "bench-bare"
SNAPSHOT = "bench"
PROFILES = ("aio", "ha")

# What a prepared node has beyond its image.
NODE_FILES = (
    "etc/cni",
    "etc/containerd",
    "etc/devenv",
    "etc/hosts",
    "etc/systemd/system",
    "usr/local/lib/devenv",
)
# Milestones after the command, each a kubectl call that must succeed; an app is created before the last two.
MILESTONES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("api", ("get", "--raw", "/readyz")),
    ("service", ("get", "service", "kubernetes")),
    ("dns_service", ("--namespace", "kube-system", "get", "service", "kube-dns")),
    ("app", ("wait", "--for=condition=Ready", "pod/bench", "--timeout=1s")),
    ("dns", ("exec", "bench", "--", "nslookup", "kubernetes.default.svc.cluster.local")),
)


@dataclass(frozen=True)
class Bench:
    """A profile, a separate DEVENV_HOME and a folder for the bare commands."""

    profile: str
    home: Path
    folder: Path

    def devenv(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return command.devenv(self.home, *words, check=check)

    @property
    def state(self) -> Path:
        return self.home / "environments" / NAME


def output(*argv: str | Path, data: str | None = None) -> str:
    return subprocess.run(argv, input=data, capture_output=True, text=True, check=True).stdout


def timed(call: Callable[[], object]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def capture(bench: Bench) -> None:
    """Take from the running environment what the bare commands need: image, store, files, kubeadm's configuration."""
    network = yaml.safe_load((bench.state / "network.yml").read_text())
    addresses = {name: node["addresses"]["ipv4"] for name, node in network["nodes"].items()}
    first = f"{NAME}-{next(iter(addresses))}"
    settings = {
        "image": output("podman", "inspect", "--format={{.ImageName}}", first).strip(),
        "store": store(first),
        "prefix": network["subnets"]["ipv4"].split("/")[1],
        "gateway": network["gateways"]["ipv4"],
        "server": yaml.safe_load((bench.state / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"],
        "kubectl": str(BIN / "kubectl"),
    }
    (bench.folder / "settings").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    (bench.folder / "nodes").write_text("".join(f"{name} {address}\n" for name, address in addresses.items()))
    shared = shared_configuration(bench)
    for name, address in addresses.items():
        files = [f"--exclude={path}" for path in ("etc/systemd/system/*.wants", "etc/devenv/ssh")]
        with (bench.folder / f"{name}.tar").open("wb") as file:
            argv = ["podman", "exec", f"{NAME}-{name}", "tar", "--create", *files, "--directory=/", *NODE_FILES]
            subprocess.run(argv, stdout=file, check=True)
        (bench.folder / f"{name}.yml").write_text(node_configuration(bench, name, address, shared))


def store(container: str) -> str:
    """Return the image store that the container's copy was linked from: the one whose blobs have the same inodes."""
    mounts = json.loads(output("podman", "inspect", container))[0]["Mounts"]
    (copy,) = [Path(m["Source"]) for m in mounts if m["Destination"] == "/var/lib/containerd"]
    blobs = "io.containerd.content.v1.content/blobs/sha256"
    inodes = {blob.stat().st_ino for blob in (copy / blobs).iterdir()}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "devenv" / "image-stores"
    for folder in cache.iterdir():
        for inner in (folder, folder / "containerd"):
            if (inner / blobs).is_dir() and inodes & {blob.stat().st_ino for blob in (inner / blobs).iterdir()}:
                return str(inner)
    raise SystemExit(f"no store below {cache} belongs to {container}")


@dataclass(frozen=True)
class Shared:
    """What the kubeadm configurations of all nodes have in common. The secrets belong to the bare cluster only."""

    documents: tuple[dict[str, Any], ...]
    version: str
    endpoint: str
    token: str
    certificate_key: str


def shared_configuration(bench: Bench) -> Shared:
    """Return the configuration that the cluster was created with, as Kubernetes stores it."""

    def stored(name: str, key: str) -> dict[str, Any]:
        shown = kubectl(
            bench.state / "kubeconfig", "--namespace", "kube-system", "get", "configmap", name, "-o", "json"
        )
        return dict(yaml.safe_load(json.loads(shown)["data"][key]))

    cluster, proxy = stored("kubeadm-config", "ClusterConfiguration"), stored("kube-proxy", "config.conf")
    # kubeadm sets this value.
    proxy["clientConnection"]["kubeconfig"] = ""
    token = f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"
    return Shared(
        (cluster, stored("kubelet-config", "kubelet"), proxy),
        cluster["apiVersion"],
        cluster["controlPlaneEndpoint"],
        token,
        secrets.token_hex(32),
    )


def node_configuration(bench: Bench, name: str, address: str, shared: Shared) -> str:
    """Return what ``kubeadm init`` reads on the first node, and ``kubeadm join`` on the others."""
    arguments = output("podman", "exec", f"{NAME}-{name}", "cat", "/var/lib/kubelet/kubeadm-flags.env")
    words = [
        word.strip('"').lstrip("-").partition("=") for word in arguments.strip().partition("=")[2].strip('"').split()
    ]
    node = json.loads(kubectl(bench.state / "kubeconfig", "get", "node", name, "-o", "json"))
    here = {"advertiseAddress": address, "bindPort": 6443}
    common = {
        "apiVersion": shared.version,
        "nodeRegistration": {
            "name": name,
            "criSocket": "unix:///run/containerd/containerd.sock",
            "taints": node["spec"].get("taints", []),
            "kubeletExtraArgs": [{"name": key, "value": value} for key, _, value in words],
        },
    }
    if name == "master-0":
        init = {
            **common,
            "kind": "InitConfiguration",
            "localAPIEndpoint": here,
            "certificateKey": shared.certificate_key,
            "bootstrapTokens": [{"token": shared.token}],
        }
        return yaml.safe_dump_all([init, *shared.documents])
    discovery = {"token": shared.token, "apiServerEndpoint": shared.endpoint, "unsafeSkipCAVerification": True}
    join: dict[str, Any] = {**common, "kind": "JoinConfiguration", "discovery": {"bootstrapToken": discovery}}
    if name.startswith("master"):
        join["controlPlane"] = {"localAPIEndpoint": here, "certificateKey": shared.certificate_key}
    return yaml.safe_dump(join)


def kubectl(kubeconfig: Path, *words: str) -> str:
    return command.kubectl(kubeconfig, *words).stdout


def milestones(kubeconfig: Path, begin: float, limit: float = 120) -> dict[str, float]:
    """Wait for one milestone after the other; return the seconds from ``begin`` to each."""
    reached = {"command": time.monotonic() - begin}
    for name, words in MILESTONES:
        if name == "app":
            create_app(kubeconfig)
        while True:
            if command.kubectl(kubeconfig, *words, check=False).returncode == 0:
                break
            if time.monotonic() - begin > limit:
                raise SystemExit(f"{name} was not reached within {limit:g} s")
            time.sleep(0.1)
        reached[name] = time.monotonic() - begin
    return {name: round(seconds, 2) for name, seconds in reached.items()}


def create_app(kubeconfig: Path) -> None:
    """Create a pod of the probe image, which every node has, like a user's first pod."""
    version = yaml.safe_load((ROOT / "configs" / "versions.yml").read_text())["probe"]
    image = f"--image=devenv.lab/probe:{version}"
    words = ("run", "bench", image, "--restart=Never", "--image-pull-policy=Never", "--command", "--", "sleep", "600")
    while True:
        done = command.kubectl(kubeconfig, *words, check=False)
        if done.returncode == 0:
            return
        # The default service account appears a moment after the API.
        if "serviceaccount" not in done.stderr:
            raise SystemExit(done.stderr)
        time.sleep(0.1)


def counts(bench: Bench) -> dict[str, Any]:
    """Return the tasks and module calls of the last run, in total and by stage."""
    run = max((bench.state / "runs").iterdir())
    stages = json.loads((run / "summary.json").read_text())["stages"]
    return {
        "tasks": sum(stage["tasks"] for stage in stages),
        "module_calls": sum(stage["module_calls"] for stage in stages),
        "stages": {stage["name"]: {k: stage[k] for k in ("seconds", "tasks", "module_calls")} for stage in stages},
    }


def one_round(bench: Bench) -> dict[str, Any]:
    """Measure once: up, no-op up (also with --full), reads, down; the bare commands; up from the snapshot."""
    results: dict[str, Any] = {}
    begin = time.monotonic()
    bench.devenv("up", "--profile", bench.profile, "--name", NAME)
    results["up"] = milestones(bench.state / "kubeconfig", begin)
    results["up_counts"] = counts(bench)
    results["noop"] = timed(lambda: bench.devenv("up", "--profile", bench.profile, "--name", NAME))
    results["full"] = timed(lambda: bench.devenv("up", "--profile", bench.profile, "--name", NAME, "--full"))
    results["full_counts"] = counts(bench)
    results["status"] = timed(lambda: bench.devenv("status", "--name", NAME))
    results["inventory"] = timed(lambda: bench.devenv("inventory", "--name", NAME))
    results["down"] = timed(lambda: bench.devenv("down", "--name", NAME))
    results["bare"] = bare(bench)
    results["snapshot"] = timed(lambda: bench.devenv("up", "--snapshot", SNAPSHOT, "--name", NAME))
    bench.devenv("down", "--name", NAME)
    return results


def bare(bench: Bench) -> dict[str, float]:
    """Run the bare commands; return their milestones."""
    arguments = (BARE, str(bench.folder))
    try:
        begin = time.monotonic()
        started = time.time()
        output(SCRIPT, "up", *arguments)
        # The script writes this file as soon as kubeadm has ended and only waits after that.
        initialised = (bench.folder / "kubeconfig").stat().st_mtime - started
        return {"init": round(initialised, 2), **milestones(bench.folder / "kubeconfig", begin)}
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}\n{error.stdout}\n{error.stderr}") from error
    finally:
        output(SCRIPT, "down", *arguments)
        shutil.rmtree(bench.folder / "data", ignore_errors=True)


# What has a single time, not one per milestone.
SINGLE = ("noop", "full", "snapshot", "status", "inventory", "down")


def median(rounds: Sequence[dict[str, Any]], *path: str) -> float:
    values = []
    for result in rounds:
        value: Any = result
        for key in path:
            value = value[key]
        values.append(float(value))
    return statistics.median(values)


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and ratios of all rounds."""
    columns = ("command", *(name for name, _ in MILESTONES))
    up, plain = median(rounds, "up", "command"), median(rounds, "bare", "command")
    # The end of the stage kubernetes is the end of the command minus the stages after it.
    after_it = ("labels", "addons", "validate")
    late = [sum(row["up_counts"]["stages"][name]["seconds"] for name in after_it) for row in rounds]
    kubernetes = statistics.median(row["up"]["command"] - after for row, after in zip(rounds, late, strict=True))
    return {
        "ratios": {
            "up_to_bare": round(up / plain, 3),
            "kubernetes_to_init": round(kubernetes / median(rounds, "bare", "init"), 3),
            "noop_to_up": round(median(rounds, "noop") / up, 3),
            "full_noop_to_up": round(median(rounds, "full") / up, 3),
            "snapshot_to_up": round(median(rounds, "snapshot") / up, 3),
            "app_and_dns_to_bare": round(median(rounds, "up", "dns") / median(rounds, "bare", "dns"), 3),
        },
        "seconds": {
            **{what: {c: round(median(rounds, what, c), 2) for c in columns} for what in ("up", "bare")},
            "up_kubernetes": round(kubernetes, 2),
            "bare_init": round(median(rounds, "bare", "init"), 2),
            **{what: round(median(rounds, what), 2) for what in SINGLE},
        },
        "counts": {what: rounds[-1][f"{what}_counts"] for what in ("up", "full")},
    }


def measure(profile: str, rounds: int) -> dict[str, Any]:
    """Measure all rounds of one profile; return them with their summary."""
    with command.scratch("bench-") as scratch:
        bench = Bench(profile, scratch / "home", scratch / "bare")
        bench.folder.mkdir()
        try:
            bench.devenv("up", "--profile", profile, "--name", NAME)
            capture(bench)
            bench.devenv("snapshot", "save", SNAPSHOT, "--name", NAME)
            bench.devenv("down", "--name", NAME)
            results = [one_round(bench) for _ in range(rounds)]
        finally:
            bench.devenv("down", "--name", NAME, check=False)
    return {**summary(results), "rounds": results}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure devenv up against the bare commands.")
    parser.add_argument("--profile", action="append", help=f"default: {', '.join(PROFILES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    parser.add_argument("--report-only", action="store_true", help="Exit with 0 even if a figure is above its bar.")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("needs root")
    load = os.getloadavg()
    try:
        profiles = {profile: measure(profile, options.rounds) for profile in options.profile or PROFILES}
        listing = inventory_bench.measure(rounds=options.rounds)
        plugin = plugin_bench.measure()
        joins = join_bench.measure(rounds=options.rounds)
        apps = apps_bench.measure(rounds=options.rounds)
    except subprocess.CalledProcessError as error:
        print(error, error.stdout, error.stderr, sep="\n", file=sys.stderr)
        return 1
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "load_before": load},
        "profiles": profiles,
        "inventory": listing,
        "plugin": plugin,
        "joins": joins,
        "apps": apps,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    shown = {profile: {key: results[key] for key in ("ratios", "seconds")} for profile, results in profiles.items()}
    aside = {
        "inventory": {"ratio": round(listing["ratio"], 3)},
        "plugin": {key: plugin[key] for key in ("overhead_ms", "ratio")},
        "joins": {key: joins[key] for key in ("median", "ratio")},
        "apps": {key: apps[key] for key in ("median", "ratio")},
    }
    print(json.dumps({**shown, **aside}, indent=1))
    return judge(result, profiles, report_only=options.report_only)


def judge(result: Mapping[str, Any], profiles: Iterable[str], *, report_only: bool) -> int:
    """Print the figures above their bars; return the exit code."""
    lines = bars.missed(result, bars.read(), profiles)
    for line in lines:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if lines and not report_only else 0


if __name__ == "__main__":
    sys.exit(main())
