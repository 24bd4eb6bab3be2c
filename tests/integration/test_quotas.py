"""Limits of directories on a real btrfs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.host import quotas
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import quotas as quota_check
from support import btrfs
from support.waits import until

pytestmark = pytest.mark.cluster


def test_a_directory_holds_what_its_limit_allows(tmp_path: Path) -> None:
    with btrfs.mounted(tmp_path, 256 << 20) as place:
        assert f"btrfs quota enable {place}" in quota_check.missing(place / "not" / "there")
        btrfs.run("btrfs", "quota", "enable", str(place))
        assert quota_check.missing(place / "not" / "there") == ""
        node, plain = place / "nodes" / "node", place / "plain"
        quotas.create(node, 20 << 20)
        assert btrfs.limits(place) == [str(20 << 20)]
        (node / "small").write_bytes(b"1" * (10 << 20))
        with pytest.raises(OSError, match="Disk quota exceeded"):
            (node / "large").write_bytes(b"1" * (30 << 20))
        (node / "large").unlink()
        plain.mkdir()
        assert (quotas.is_limited(node), quotas.is_limited(plain), quotas.is_limited(place / "none")) == (
            True,
            False,
            False,
        )
        btrfs.run("btrfs", "subvolume", "create", str(node / "inner"))
        (node / "inner" / "file").touch()
        moved = node.rename(place / "moved")
        for folder in (moved, plain, place / "none"):
            quotas.remove(folder)
        assert [path.name for path in place.iterdir()] == ["nodes"]
        until(lambda: btrfs.limits(place) == [])
