"""When an environment expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(("text", "minutes"), [("30m", 30), ("2h", 120), ("7d", 10080), ("1d12h", 2160), ("1h30m", 90)])
def test_a_time_has_units(text: str, minutes: int) -> None:
    assert expiry.parse(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "2", "02h", "0h", "-1h", "2 h", "2w", "1.5h", "h", "99999d", "30s"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(DevenvError) as caught:
        expiry.parse(text)
    assert caught.value.exit_code == 2


def test_an_environment_expires_and_can_be_extended(tmp_path: Path) -> None:
    assert expiry.read(tmp_path) is None
    assert not expiry.is_expired(tmp_path, NOW)
    expiry.start(tmp_path, "2h", NOW)
    assert expiry.read(tmp_path) == NOW + timedelta(hours=2)
    assert not expiry.is_expired(tmp_path, NOW + timedelta(minutes=119))
    assert expiry.is_expired(tmp_path, NOW + timedelta(minutes=120))
    # From the present expiry while that is in the future, else from now.
    assert expiry.extend(tmp_path, "1h", NOW) == NOW + timedelta(hours=3)
    assert expiry.extend(tmp_path, "1h", NOW + timedelta(days=1)) == NOW + timedelta(days=1, hours=1)
    assert expiry.extend(tmp_path, "never", NOW) is None
    assert expiry.read(tmp_path) is None
    with pytest.raises(DevenvError, match="does not expire"):
        expiry.extend(tmp_path, "1h", NOW)


@pytest.mark.parametrize(
    ("minutes", "text"), [(118, "in 1h58m"), (5, "in 5m"), (0, "in 0m"), (-1, "expired"), (60 * 50, "in 2d2h")]
)
def test_the_remaining_time_is_short(minutes: int, text: str) -> None:
    assert expiry.remaining(NOW + timedelta(minutes=minutes), NOW) == text


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "expires").write_text("soon\n")
    with pytest.raises(DevenvError, match="expires"):
        expiry.read(tmp_path)
