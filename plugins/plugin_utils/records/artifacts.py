"""Copy the records of a run to the folder from which a CI system collects them: one new folder per run."""

from __future__ import annotations

import itertools
import json
import platform
from importlib import metadata
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.records.recorder import LOG, Report


def write(base: Path, report: Report, log: str) -> Path:
    """Create and return ``<base>/<environment>-<UTC time>-<run id>/`` with junit.xml, metadata.json, summary.json,
    log.txt and, after a failure, failure.json. The files contain no secrets and are readable by all, since CI systems
    often read as another user.
    """
    summary = report.summary
    when = summary["began"].replace("-", "").replace(":", "").partition("+")[0]
    name = "-".join(part for part in (summary["environment"], f"{when}Z", summary["run"]) if part)
    folder = _new_folder(base, name)
    documents = {**report.documents, LOG: log, "metadata.json": json.dumps(_metadata(report), indent=2) + "\n"}
    for name, text in documents.items():
        (folder / name).write_text(text)
    return folder


def _new_folder(base: Path, name: str) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return folder


def _metadata(report: Report) -> dict[str, object]:
    keys = ("environment", "profile", "run", "command", "began", "seconds", "exit", "changed")
    return {
        **{key: report.summary[key] for key in keys},
        "versions": {
            "devenv": _version("devenv-lab"),
            "ansible-core": _version("ansible-core"),
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
