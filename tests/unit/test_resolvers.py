"""The name servers that nodes get."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.host import resolvers


@pytest.mark.parametrize(
    ("host", "upstream", "node"),
    [
        ("nameserver 192.0.2.53\nsearch lab.example\noptions ndots:2\n", "",
         "nameserver 192.0.2.53\nsearch lab.example\noptions ndots:2\n"),
        ("nameserver 127.0.0.1\n", "", ""),
        ("", "", ""),
        (None, None, ""),
        ("# nameserver 192.0.2.1\n;x\n nameserver\n", "", ""),
        ("nameserver 127.0.0.53\nsearch a\n", "nameserver 192.0.2.1\nsearch b\n", "nameserver 192.0.2.1\nsearch a\n"),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.2\n", "nameserver 192.0.2.1\n", "nameserver 192.0.2.2\n"),
        ("nameserver ::1\nnameserver fe80::1%eth0\nnameserver 0.0.0.0\nnameserver ::ffff:127.0.0.1\n", "", ""),
        ("nameserver 2001:db8::53\nnameserver not-an-address\n", "", "nameserver 2001:db8::53\n"),
    ],
)  # fmt: skip
def test_nodes_get_no_server_that_only_the_host_reaches(
    tmp_path: Path, host: str | None, upstream: str | None, node: str
) -> None:
    for name, text in (("host", host), ("upstream", upstream)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert resolvers.for_nodes(tmp_path / "host", tmp_path / "upstream") == node
    probe = resolvers.probe(tmp_path / "host", tmp_path / "upstream")
    assert (probe.ok, probe.required) == ("nameserver" in node, False)


def test_the_probe_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("nameserver 127.0.0.1\nnameserver ::1\n")
    assert resolvers.probe(tmp_path / "host", tmp_path / "none").seen == f"{tmp_path}/host has only 127.0.0.1, ::1"
